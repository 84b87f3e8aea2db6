"""Features of videos: the file and its reader, and the command that makes many of them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from media_files import film
from safetensors.numpy import load_file, save_file
from video_clips import Means, clips, silent

from tokenturing.cli import main as cli
from tokenturing.errors import CheckpointError, OptionError
from tokenturing.features import many
from tokenturing.features.extract import extract
from tokenturing.features.file import about_features, read_features, write_features
from tokenturing.features.frozen import Tokens, grid_of, open_encoder, view_of
from tokenturing.media.steps import open_media


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return clips(tmp_path_factory.mktemp("clips") / "own")


@pytest.fixture
def means(monkeypatch: pytest.MonkeyPatch) -> Means:
    """Every encoder is this one; in this process only."""
    encoder = Means()
    monkeypatch.setattr("tokenturing.features.frozen.open_encoder", lambda *_, **__: encoder)
    monkeypatch.setattr(many, "open_encoder", lambda *_, **__: encoder)
    return encoder


def run(*arguments: object) -> int:
    try:
        cli.main(["features", *map(str, arguments), "--jobs", "1"])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_a_step_has_what_the_encoder_makes_of_its_picture(videos: dict[str, Path]) -> None:
    encoder = Means()
    found = extract(videos["bikes"], encoder, rate=4, grid=2)
    with open_media(videos["bikes"], **view_of(encoder, 4)._asdict()) as media:
        frames = [step.frame for step in media]
    assert found.features.shape == (len(frames), 4, 3)
    np.testing.assert_allclose(found.features[3], grid_of(encoder.map(frames[3]), 2))
    assert np.abs(found.features[3] - found.features[-1]).max() > 1e-3, "the control: pictures differ"
    assert found.times.tolist() == [0.25 * (1 + index) for index in range(len(frames))]
    assert found.video.duration == pytest.approx(found.times[-1], abs=0.3)
    assert found.source == ("means", encoder.hash, 4.0, 2)
    live = Tokens(Means(), 2)
    np.testing.assert_array_equal([live.take(frame) for frame in frames], found.features)


def test_a_grid_is_pooled_as_torch_does() -> None:
    import torch

    parts = np.random.default_rng(0).random((7, 5, 3), np.float32)
    for grid in (1, 2, 3, 5):
        expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(parts).permute(2, 0, 1), grid)
        np.testing.assert_allclose(grid_of(parts, grid), expected.permute(1, 2, 0).reshape(-1, 3), rtol=1e-5)
    with pytest.raises(OptionError, match="has 7 x 5 parts: expected at most 5"):
        grid_of(parts, 6)


def test_a_picture_that_stands_still_is_encoded_once(tmp_path: Path) -> None:
    for name, frame, runs in (("still", lambda _: np.full((64, 64), 99, np.uint8), 4), ("moving", None, 8)):
        encoder = Means()
        found = extract(film(tmp_path / f"{name}.mp4", 2.0, frame=frame, tones=()), encoder)
        assert len(found.times) == 8
        assert encoder.runs <= runs if name == "still" else encoder.runs >= runs


def test_a_file_holds_it_all(videos: dict[str, Path], tmp_path: Path) -> None:
    found = extract(videos["phone"], Means(), grid=4)
    write_features(tmp_path / "a.safetensors", found)
    again = read_features(tmp_path / "a.safetensors")
    assert again.source == found.source
    assert again.video == found.video
    assert about_features(tmp_path / "a.safetensors") == (found.source, found.video)
    np.testing.assert_array_equal(again.features, found.features)
    np.testing.assert_array_equal(again.times, found.times)
    assert again.sound is None
    assert (again.features.dtype, again.times.dtype) == (np.float32, np.float64)


def test_those_who_train_read_the_same(videos: dict[str, Path], tmp_path: Path) -> None:
    from tokenturing.tasks.activity.videos import read_features as read_to_train

    found = extract(videos["phone"], Means(), grid=2)
    write_features(tmp_path / "a.safetensors", found)
    features, times, source = read_to_train(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(features, found.features)
    np.testing.assert_array_equal(times, found.times)
    assert source == found.source._asdict(), "with which a session opens the same encoder"


def damaged(file: Path, how: str) -> None:
    from safetensors import safe_open

    with safe_open(str(file), framework="numpy") as content:
        about = content.metadata()
    arrays = load_file(file)
    match how:
        case "cut":
            file.write_bytes(file.read_bytes()[:-10])
            return
        case "text":
            file.write_text("features")
            return
        case "long header":
            file.write_bytes((2**40).to_bytes(8, "little") + file.read_bytes()[8:])
            return
        case "nan":
            arrays["features"][1, 0, 0] = np.nan
        case "times":
            arrays["times"] = arrays["times"][::-1].copy()
        case "lengths":
            arrays["times"] = arrays["times"][:-1]
        case "type":
            arrays["features"] = arrays["features"].astype(np.float64)
        case "axes":
            arrays["features"] = arrays["features"][:, 0]
        case "more":
            arrays["extra"] = arrays["times"]
        case "rate" | "grid" | "kind" | "version" | "duration":
            key = {"version": "format_version", "duration": "video_duration"}.get(how, how)
            about[key] = {"rate": "nan", "grid": "3", "kind": "model", "version": "9", "duration": "-1"}[how]
        case "hash":
            del about["hash"]
    save_file(arrays, file, about)


HOW = ["cut", "text", "long header", "nan", "times", "lengths", "type", "axes", "more"]
HOW += ["rate", "grid", "kind", "version", "duration", "hash"]


@pytest.mark.parametrize("how", [*HOW, "not at all"])
def test_damaged_and_foreign_files_are_told(how: str, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_features(file, extract(silent(tmp_path / "a.mp4", 0.8), Means(), grid=2))
    damaged(file, how)
    if how == "not at all":
        assert len(read_features(file).times) == 4
        return
    with pytest.raises(CheckpointError, match=r"a\.safetensors (cannot be read|has the format version)"):
        read_features(file)


def test_the_command(videos: dict[str, Path], means: Means, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "deeper").mkdir(parents=True)
    shutil.copy(videos["bikes"], folder / "a.mp4")
    shutil.copy(videos["phone"], folder / "deeper" / "b.MP4")
    (folder / "bad.mp4").write_text("no video")
    (folder / "notes.txt").write_text("no video either")
    assert run(folder, "--out", out) == 1
    said = capsys.readouterr()
    assert said.out == f"{out}: 2 written\n"
    assert "1 videos could not be read:" in said.err
    assert "bad.mp4: cannot open" in said.err
    assert sorted(file.name for file in out.iterdir()) == ["a.safetensors", "b.safetensors"]
    before, runs = (out / "a.safetensors").read_bytes(), means.runs
    (folder / "bad.mp4").unlink()
    assert run(folder, "--out", out) == 0
    assert capsys.readouterr().out == f"{out}: 0 written, 2 were there\n"
    assert means.runs == runs + 1, "nothing but what tells the shape was encoded"
    (out / "b.safetensors").unlink()
    assert run(folder, "--out", out) == 0
    assert capsys.readouterr().out == f"{out}: 1 written, 1 were there\n"
    assert (out / "a.safetensors").read_bytes() == before


def test_what_only_looks_like_a_video_is_told(
    videos: dict[str, Path], means: Means, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.mp4").symlink_to(videos["bikes"])
    (folder / "gone.mp4").symlink_to(tmp_path / "nothing")
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "gone.txt").symlink_to(tmp_path / "nothing")
    (folder / "linked").symlink_to(tmp_path)
    assert run(folder, "--out", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out'}: 1 written\n"
    assert "2 videos could not be read:" in said.err
    assert "gone.mp4: it leads to no file (No such file" in said.err
    assert "loop.mp4: it leads to no file" in said.err
    assert "linked: a link to a folder is not followed" in said.err


@pytest.mark.skipif(os.geteuid() == 0, reason="who may do anything is denied nothing")
def test_what_may_not_be_read_or_written_is_told(
    videos: dict[str, Path], means: Means, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from tokenturing.tasks.activity.folders import folder_of

    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "closed").mkdir(parents=True)
    shutil.copy(videos["bikes"], folder / "a.mp4")
    (folder / "closed").chmod(0)
    assert run(folder, "--out", out) == 1
    assert "closed: the folder cannot be read (Permission denied)" in capsys.readouterr().err
    out.chmod(0o500)
    runs = means.runs
    assert run(folder, "--out", out, "--again") == 2
    assert "may not be written to" in capsys.readouterr().err
    assert means.runs == runs
    with pytest.raises(OptionError, match="cannot be read"):
        folder_of(str(folder / "closed"), "features")
    (folder / "closed").chmod(0o700)


def test_what_was_made_otherwise_is_told(means: Means, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    video, out = silent(tmp_path / "a.mp4", 0.8), tmp_path / "out"
    assert run(video, "--out", out) == 0
    before = (out / "a.safetensors").read_bytes()
    for other, said in (
        (["--rate", 8], "rate 4.0 (and now 8.0)"),
        (["--grid", 2], "grid 1 (and now 2)"),
    ):
        capsys.readouterr()
        assert run(video, "--out", out, *other) == 2
        assert f"was made otherwise: {said}: name another folder, or add --again" in capsys.readouterr().err
    means.hash = "another"
    assert run(video, "--out", out) == 2
    assert "hash 0123456789abcdef (and now another)" in capsys.readouterr().err
    assert (out / "a.safetensors").read_bytes() == before
    assert run(video, "--out", out, "--again", "--grid", 2) == 0
    assert read_features(out / "a.safetensors").source == ("means", "another", 4.0, 2)
    (out / "a.safetensors").write_text("damaged")
    assert run(video, "--out", out) == 2
    assert run(video, "--out", out, "--again") == 0
    silent(video, 1.6)
    assert run(video, "--out", out) == 2
    assert "video_size" in capsys.readouterr().err


def test_one_name_for_two_videos_is_told_before_anything_is_done(
    means: Means, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one, other = silent(tmp_path / "a.mp4", 0.4), tmp_path / "more" / "A.mp4"
    other.parent.mkdir()
    shutil.copy(one, other)
    assert run(one, other, "--out", tmp_path / "out") == 2
    assert "have the same name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(one, one, tmp_path / "more" / ".." / "a.mp4", "--out", tmp_path / "out") == 0, "the control: it is one video"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.mp4"], "there is no file nowhere.mp4"),
        (["camera"], "there is no file camera"),
        (["."], "there is no video in ."),
        (["a.mp4", "--grid", "5"], "has 4 x 4 parts: expected at most 4"),
        (["a.mp4", "--grid", "0"], "grid=0"),
        (["a.mp4", "--rate", "0"], "rate=0"),
        (["a.mp4", "--rate", "3", "--sound"], "no whole number of samples"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], said: str, means: Means, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "a.mp4":
        silent(tmp_path / "a.mp4", 0.4)
    assert run(*arguments, "--out", "out") == 2
    assert said in capsys.readouterr().err
    assert not Path("out").exists()


def test_sound_is_the_newest_embedding_of_each_time(tmp_path: Path) -> None:
    pytest.importorskip("pyopen_wakeword")
    from tokenturing.encoders.sound import shared_embedding

    video = film(tmp_path / "a.mp4", 2.0, tones=(440.0,))
    with open_media(video) as media:
        heard = shared_embedding().embed(np.concatenate([step.sound for step in media if step.sound is not None]))
    found = extract(video, Means(), rate=4, sound=True)
    assert found.video.sound == "yes"
    assert found.sound.shape == (len(found.times), 96)
    newest = [heard[int(12.5 * time + 1e-6) - 1] for time in found.times[:-1]]
    silence = extract(film(tmp_path / "b.mp4", 2.0, tones=(0.0,)), Means(), rate=4, sound=True)
    np.testing.assert_allclose(found.sound[:-1], newest, atol=1e-4)
    assert np.abs(silence.sound[:-1] - newest).max() > 1, "the control"
    write_features(tmp_path / "a.safetensors", found)
    np.testing.assert_array_equal(read_features(tmp_path / "a.safetensors").sound, found.sound)
    deaf = extract(silent(tmp_path / "c.mp4", 0.8), Means(), sound=True)
    assert (deaf.sound, deaf.video.sound) == (None, "none")


@pytest.mark.parametrize("name", ["efficientnet", "timm", "timm:", "other:thing"])
def test_unknown_encoders(name: str) -> None:
    with pytest.raises(OptionError, match="is not known: expected one of 'efficientnet-lite0'"):
        open_encoder(name)
