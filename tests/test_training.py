"""A run's folder: one run at a time, ended runs stay and go on, weights to begin from, and an honest estimate."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

import tokenturing as tt
from tokenturing.cli import common
from tokenturing.cli import main as cli
from tokenturing.errors import CheckpointError, OptionError
from tokenturing.tasks.last_digits.task import LastDigits
from tokenturing.train.loop import Training, train
from tokenturing.train.recipe import Recipe, parse_recipe

SMALL = {"width": 8, "memory_tokens": 3, "read_tokens": 2, "layers": 1, "heads": 2}


def recipe(updates: int = 4, **options: object) -> Recipe:
    settings = {"updates": updates, "rows": 2, "steps": 5, "save_every": 2, "evaluate_every": 2, "warmup": 1}
    return parse_recipe({"task": "last_digits", "train": settings | options, "options": SMALL})


def test_an_ended_run_stays_as_it_is(tmp_path: Path) -> None:
    train(recipe(), tmp_path)
    before = {path.name: path.read_bytes() for path in [*(tmp_path / "model").iterdir(), tmp_path / "metrics.jsonl"]}
    notes = tt.load(tmp_path / "model").notes
    assert notes["validation"]
    train(recipe(), tmp_path)
    assert {path.name: path.read_bytes() for path in [*(tmp_path / "model").iterdir(), tmp_path / "metrics.jsonl"]} == before


def test_an_ended_run_is_lengthened(tmp_path: Path) -> None:
    train(recipe(), tmp_path)
    short = load_file(tmp_path / "model" / "model.safetensors")
    train(recipe(updates=8), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [2, 4, 6, 8]
    longer = load_file(tmp_path / "model" / "model.safetensors")
    assert not all(torch.equal(short[name], longer[name]) for name in short)


def test_a_run_of_another_recipe_is_left_alone(tmp_path: Path) -> None:
    train(recipe(), tmp_path)
    before = (tmp_path / "training.safetensors").read_bytes()
    with pytest.raises(OptionError, match="another recipe"):
        train(recipe(rate=0.1), tmp_path)
    assert (tmp_path / "training.safetensors").read_bytes() == before


def test_it_says_which_key_is_another_before_weights_are_read(tmp_path: Path) -> None:
    train(recipe(), tmp_path)
    wider = parse_recipe(recipe().to_json() | {"options": SMALL | {"width": 16}})
    with pytest.raises(OptionError, match=r"options.width=8, and now 16"):
        train(wider, tmp_path)


def test_an_ended_run_without_its_model_writes_it(tmp_path: Path) -> None:
    train(recipe(), tmp_path)
    before = load_file(tmp_path / "model" / "model.safetensors")
    shutil.rmtree(tmp_path / "model")
    train(recipe(), tmp_path)
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    notes = tt.load(tmp_path / "model").notes
    tt.save(tt.load(tmp_path / "model"), tmp_path / "model", notes=notes | {"updates": 2})  # as if it was of an earlier end
    train(recipe(), tmp_path)
    assert tt.load(tmp_path / "model").notes["updates"] == 4


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    train(recipe(), tmp_path / "run")
    (tmp_path / "run" / "training.safetensors").write_bytes((tmp_path / "run" / "model" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="no checkpoint of a run"):
        train(recipe(), tmp_path / "run")


class Unsavable(LastDigits):
    """Its model could not be written at the end."""

    def build(self) -> torch.nn.Module:
        model = super().build()
        model.config = {"memory": torch.zeros(1)}
        return model


def test_what_cannot_be_saved_is_not_trained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="config cannot be written"):
        Training(recipe(), tmp_path, Unsavable())


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(OptionError, match="another process trains in"):
        train(recipe(), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()
    train(recipe(), tmp_path)


def test_training_begins_from_given_weights(tmp_path: Path) -> None:
    first = train(recipe(), tmp_path / "first")
    begun = Training(recipe(), tmp_path / "second", start=tt.load(tmp_path / "first" / "model"))
    fresh = Training(recipe(), tmp_path / "third")
    named = first.state_dict()
    assert all(torch.equal(value, named[name]) for name, value in begun.model.state_dict().items())
    assert not all(torch.equal(value, named[name]) for name, value in fresh.model.state_dict().items()), "the control"
    with pytest.raises(OptionError, match="--from: the weights do not fit"):
        Training(recipe(), tmp_path / "fourth", start=tt.baselines.LSTM(8))


def test_from_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.toml"
    options = ", ".join(f"{name} = {value}" for name, value in SMALL.items())
    file.write_text(f'task = "last_digits"\noptions = {{{options}}}\n[train]\nupdates = 1\nrows = 2\nsteps = 4\nrate = 1e-30\n')
    cli.main(["train", str(file), "--out", str(tmp_path / "one")])
    cli.main(["train", str(file), "--out", str(tmp_path / "two"), "--from", str(tmp_path / "one"), "--set", "train.seed=5"])
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell starts what goes on in the background with that signal ignored, and so these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_keeps_what_was_learned(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.toml"
    file.write_text('task = "last_digits"\n[train]\nupdates = 4\nrows = 2\nsteps = 4\nsave_every = 100\n')
    cli.main(["train", str(file), "--out", str(tmp_path / "whole")])
    losses = LastDigits.losses

    def interrupted(task: LastDigits, *arguments: Any) -> Any:
        found = losses(task, *arguments)
        if made.append(0) or len(made) == 2:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
        return found

    made: list[int] = []
    monkeypatch.setattr(LastDigits, "losses", interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", str(file), "--out", str(tmp_path / "run")])
    assert stopped.value.code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert ("nothing is kept" if times == 2 else "goes on from the last checkpoint") in capsys.readouterr().err
    cli.main(["train", str(file), "--out", str(tmp_path / "run")])
    assert len(made) == (6 if times == 2 else 4), "a second one interrupts at once, and all is done anew"
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("update", "said"), [(1, "nothing is kept"), (3, "goes on from the last checkpoint")])
def test_an_interrupt_says_what_is_kept(
    update: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advance = Training.advance

    def interrupted(run: Training) -> dict[str, float]:
        if run.update == update:
            raise KeyboardInterrupt
        return advance(run)

    monkeypatch.setattr(Training, "advance", interrupted)
    file = tmp_path / "small.toml"
    file.write_text('task = "last_digits"\n[train]\nupdates = 4\nrows = 2\nsteps = 4\nsave_every = 2\n')
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", str(file), "--out", str(tmp_path / "run")])
    assert stopped.value.code == 130
    assert said in capsys.readouterr().err


def test_the_estimate_leaves_out_what_is_prepared_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(common.time, "monotonic", lambda: now)
    with common.Progress("training") as progress:
        now = 16.0  # of silent preparation
        progress.update(1, 1000)
        now = 27.0
        progress.update(12, 1000)
    assert "about 988 s left" in capsys.readouterr().err


def test_each_label_is_counted_anew(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(common.time, "monotonic", lambda: now)
    with common.Progress("training") as progress:
        for done in range(1, 5):
            now += 11
            progress.report("embedding", done, 5)
        now += 11
        progress.report("embedding", 5, 5)
        progress.report("perceiving", 1, 3)
        now += 20
        progress.report("perceiving", 2, 3)
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "perceiving 2/3 about 20 s left"
    assert any(line.startswith("embedding 5/5") for line in said)
