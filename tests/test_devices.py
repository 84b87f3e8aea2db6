"""Other devices than the CPU. Where there is none, "meta" stands for one: it too refuses to work with what is on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import fails
from recall_files import tiny_recipe
from safetensors.torch import load_file

import tokenturing as tt
from tokenturing.cli import main as cli
from tokenturing.cli.common import device_of
from tokenturing.errors import OptionError
from tokenturing.export import export_onnx
from tokenturing.models.eager import eager
from tokenturing.tasks.contract import Batch
from tokenturing.tasks.last_digits.model import DigitRecaller
from tokenturing.train.distributed import own_device
from tokenturing.train.loop import Training
from tokenturing.train.recipe import load_recipe

META = torch.device("meta")


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny recipe of each task."""
    folder = tmp_path_factory.mktemp("recipes")
    recall = tiny_recipe(folder)
    eyes, digits = folder / "eyes.toml", folder / "digits.toml"
    eyes.write_text(
        f'task = "perception"\n[train]\nupdates = 2\nrows = 16\nsteps = 1\n[speech]\nbank = "{folder / "bank.npz"}"\n'
    )
    digits.write_text('task = "last_digits"\nmemory = "GRU"\noptions = {width = 16}\n[train]\nupdates = 2\nrows = 2\nsteps = 4\n')
    return {"recall": recall, "perception": eyes, "last_digits": digits}


def losses(run: Training, batch: Batch) -> dict[str, Any]:
    """Of one update, its gradients included."""
    found, _ = run.task.losses(run.model.train(), batch, None)
    found["loss"].backward()
    return found


@pytest.mark.parametrize("task", ["recall", "perception", "last_digits"])
def test_training_leaves_nothing_on_the_cpu(recipes: dict[str, Path], task: str, tmp_path: Path) -> None:
    run = Training(load_recipe(recipes[task]), tmp_path, device=META)
    batch = next(run.batches)
    assert losses(run, batch.to(META))["loss"].device == META
    assert all(p.grad is None or p.grad.device == META for p in run.model.parameters())
    with pytest.raises((RuntimeError, NotImplementedError)):  # the control: it would be noticed
        losses(run, batch)


@pytest.mark.parametrize("task", ["recall", "last_digits"])
def test_training_by_its_device_is_the_training(recipes: dict[str, Path], task: str, tmp_path: Path) -> None:
    recipe = load_recipe(recipes[task], ["train.updates=2"])
    found = []
    for folder, options in (("plain", {}), ("named", {"device": "cpu"})):
        run = Training(recipe, tmp_path / folder, **options)
        run.advance()
        run.save()
        again = Training(recipe, tmp_path / folder, **options)
        assert again.update == 1
        again.advance()
        again.save()
        found.append(load_file(tmp_path / folder / "training.safetensors"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_several_processes_train_on_the_cpu_or_on_a_gpu_each(
    recipes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = torch.device("cuda")
    assert own_device(cuda) == cuda
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    assert own_device(torch.device("cpu")) == torch.device("cpu")
    assert own_device(cuda) == torch.device("cuda:1")
    with pytest.raises(OptionError, match=r"cuda:0: .* a GPU each"):
        own_device(torch.device("cuda:0"))
    with pytest.raises(OptionError, match=r"meta: .* without torchrun"):
        Training(load_recipe(recipes["last_digits"]), tmp_path, device=META)


def test_a_model_on_a_device_steps_there() -> None:
    model = DigitRecaller("GRU", {"width": 16}).to(META)
    with pytest.raises(NotImplementedError, match="meta"):  # it is copied to the CPU first, which has nothing to copy
        eager(model)
    here, there = eager(model.to_empty(device="cpu")), eager(model, "cpu")
    assert here.inputs == there.inputs


@pytest.mark.parametrize("device", ["meta", "banana", "cuda:99", "cpu:x", ""])
def test_devices_that_are_refused(device: str) -> None:
    with pytest.raises(OptionError, match=r"--device .*expected"):
        device_of(device)
    assert device_of("cpu") == torch.device("cpu")


def test_every_command_refuses_them(recipes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tt.save(DigitRecaller("GRU", {"width": 16}), tmp_path / "digits")
    for command in (
        ("train", recipes["last_digits"], "--out", tmp_path / "run"),
        ("evaluate", tmp_path / "digits"),
        ("stream", tmp_path / "digits", tmp_path / "nothing.mp4"),
        ("bench", "step", "--out", tmp_path / "bench"),
    ):
        assert "--device meta: PyTorch finds no such device here" in fails(capsys, *command, "--device", "meta")
    assert not (tmp_path / "run").exists()
    exported = export_onnx(DigitRecaller("GRU", {"width": 16}).eval(), tmp_path / "exported")
    for command in (("evaluate", exported), ("stream", exported, tmp_path / "nothing.mp4")):
        assert "is an export, which runs on the CPU" in fails(capsys, *command, "--device", "cuda")


def test_train_and_evaluate_on_the_device_that_is_named(
    recipes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["train", str(recipes["last_digits"]), "--out", str(tmp_path / "run"), "--device", "cpu"])
    cli.main(["evaluate", str(tmp_path / "run"), "--device", "cpu", "--rows", "4"])
    assert "2nd last" in capsys.readouterr().out
