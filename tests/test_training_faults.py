"""Runs that cannot go well: other weights to begin from than they began from, losses that are never finite, numpy's numbers."""

import json
from dataclasses import MISSING, dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tokenturing as tt
from tokenturing.cli import main as cli
from tokenturing.errors import OptionError
from tokenturing.tasks.contract import Batch
from tokenturing.tasks.last_digits.task import LastDigits
from tokenturing.train import loop
from tokenturing.train.loop import Training, TrainingError, train
from tokenturing.train.recipe import Recipe, parse_recipe

SMALL = {"width": 8, "memory_tokens": 3, "read_tokens": 2, "layers": 1, "heads": 2}


def recipe(updates: int = 4, **options: object) -> Recipe:
    settings = {"updates": updates, "rows": 2, "steps": 4, "save_every": 2, "evaluate_every": 2, "warmup": 1}
    return parse_recipe({"task": "last_digits", "train": settings | options, "options": SMALL})


# --- --from, and a run that is there already


def test_from_is_not_overridden_by_a_run_that_is_there(tmp_path: Path) -> None:
    first, second = (train(recipe(seed=seed), tmp_path / str(seed)) for seed in (1, 2))
    train(recipe(), tmp_path / "plain")
    with pytest.raises(
        OptionError, match=r"^--from: .* began without given weights: leave out --from to go on, or choose another --out"
    ):
        train(recipe(updates=6), tmp_path / "plain", start=first)
    train(recipe(updates=6), tmp_path / "plain")

    train(recipe(), tmp_path / "begun", start=first)
    with pytest.raises(OptionError, match=r"^--from: .* began from other weights"):
        train(recipe(updates=6), tmp_path / "begun", start=second)
    train(recipe(updates=6), tmp_path / "begun", start=first)  # the same command goes on
    train(recipe(updates=8), tmp_path / "begun")
    train(recipe(updates=10), tmp_path / "begun", start=first)


# --- nothing is learned


class Lost(LastDigits):
    """Its losses are NaN from one update on."""

    begins, passes = 0, 10**9
    """of the updates without a loss: the first, and how many there are"""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.update = 0

    def schedule(self, model: nn.Module, update: int) -> None:
        self.update = update

    def losses(self, model: nn.Module, batch: Batch, state: Any) -> tuple[dict[str, Tensor], Any]:
        found, state = super().losses(model, batch, state)
        lost = self.begins <= self.update < self.begins + self.passes
        return {"loss": found["loss"] * (torch.nan if lost else 1)}, state


class LostConstant(Lost):
    """Its loss is NaN, and its gradient is not."""

    def losses(self, model: nn.Module, batch: Batch, state: Any) -> tuple[dict[str, Tensor], Any]:
        found, state = LastDigits.losses(self, model, batch, state)
        return {"loss": found["loss"] + torch.nan}, state


@pytest.mark.parametrize("task", [Lost, LostConstant])
def test_a_loss_that_is_never_finite_ends_the_run(task: type[Lost], tmp_path: Path) -> None:
    for _ in range(2):  # and again where it is gone on with
        with pytest.raises(TrainingError, match=r"not finite in the last 4 of 4 updates.*no model was written.*train\.rate"):
            train(recipe(), tmp_path, task=task())
        assert not (tmp_path / "model").exists()


def test_a_run_is_given_up_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MOST_LOST", 5)
    task = Lost()
    task.begins = 3
    with pytest.raises(TrainingError, match="in the last 5 of 8 updates"):
        train(recipe(updates=1000), tmp_path, task=task)
    assert not (tmp_path / "model").exists()


def test_a_few_bad_updates_are_left_out_and_told(tmp_path: Path) -> None:
    task = Lost()
    task.begins, task.passes = 1, 2
    with pytest.warns(UserWarning, match="2 of 4 updates had no finite loss"):
        train(recipe(), tmp_path, task=task)
    assert tt.load(tmp_path / "model").notes["updates_skipped"] == 2


def test_on_the_command_line_it_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = LastDigits.losses

    def lost(task: LastDigits, *arguments: Any) -> tuple[dict[str, Tensor], Any]:
        found, state = losses(task, *arguments)
        return {"loss": found["loss"] * torch.nan}, state

    monkeypatch.setattr(LastDigits, "losses", lost)
    file = tmp_path / "small.toml"
    file.write_text('task = "last_digits"\n[train]\nupdates = 2\nrows = 2\nsteps = 4\n')
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", str(file), "--out", str(tmp_path / "run")])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert [line for line in said.err.splitlines() if line.startswith("tokenturing: ")] == [said.err.splitlines()[-1]]
    assert "the loss or its gradient was not finite" in said.err
    assert "the model is in" not in said.out
    assert not (tmp_path / "run" / "model").exists()


# --- what a recipe may set


@dataclass(frozen=True)
class Inner:
    size: Any


class Open:
    """A task whose Config a test sets."""

    Config: Any = None


def test_fields_of_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    none = field(default=None)
    for name, kind, default, message in (
        ("size", int, MISSING, "has the field 'size' without a default: expected a number, a text"),
        ("size", Any, none, "has size=None for a default, a NoneType: expected"),
        ("inner", Inner, field(default=Inner([])), r"in 'inner', has size=\[\] for a default, a list"),
    ):
        parts = (name, kind) if default is MISSING else (name, kind, default)
        monkeypatch.setattr(Open, "Config", make_dataclass("Config", [parts], frozen=True))
        with pytest.raises(OptionError, match=message):
            parse_recipe({"task": f"{__name__}:Open"})
    monkeypatch.setattr(Open, "Config", dict)
    with pytest.raises(OptionError, match="is no dataclass"):
        parse_recipe({"task": f"{__name__}:Open"})
    wanted = [
        ("a", int, 1),
        ("b", tuple, (1, 2.5)),
        ("c", dict, field(default_factory=dict)),
        ("d", bool, False),
        ("e", tuple, ()),
        ("f", Inner, Inner(3)),
    ]
    monkeypatch.setattr(Open, "Config", make_dataclass("Config", wanted, frozen=True))
    options = parse_recipe({"task": f"{__name__}:Open", "b": [3, 4], "c": {"x": 1}, "e": ["text"], "f": {"size": 4}}).options
    assert (options.b, options.c, options.e, options.f) == ((3, 4.0), {"x": 1}, ("text",), Inner(4))


# --- numbers of numpy and torch


class Numpys(LastDigits):
    """All its numbers are numpy's or torch's."""

    def batches(self, *args: Any) -> Any:
        found = super().batches(*args)
        counted = type(found).state
        found.state = lambda: {name: np.int64(number) for name, number in counted(found).items()}  # type: ignore[method-assign]
        return found

    def losses(self, model: nn.Module, batch: Batch, state: Any) -> tuple[dict[str, Any], Any]:
        found, state = super().losses(model, batch, state)
        return found | {"share": np.float32(0.5), "count": 3}, state

    def validate(self, model: nn.Module) -> dict[str, Any]:
        return {"a": np.float32(0.25), "b": np.int64(1), "c": torch.tensor(0.5), "d": np.array(0.75), "e": np.float64("nan")}

    def notes(self) -> dict[str, Any]:
        return {"counts": np.arange(3), "share": (np.float32(0.5), np.bool_(True)), "none": float("inf")}


def test_numbers_of_numpy_and_torch(tmp_path: Path) -> None:
    train(recipe(), tmp_path, task=Numpys())
    notes = tt.load(tmp_path / "model").notes
    assert notes["validation"] == {"a": 0.25, "b": 1, "c": 0.5, "d": 0.75}
    assert notes["counts"] == [0, 1, 2]
    assert notes["share"] == [0.5, True]
    assert "none" not in notes
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["validation"]["a"] == 0.25
    assert first["share"] == 0.5
    train(recipe(updates=6), tmp_path, task=Numpys())


def test_validation_that_is_no_table(tmp_path: Path) -> None:
    class Silent(LastDigits):
        def validate(self, model: nn.Module) -> Any:
            return 0.5

    with pytest.raises(OptionError, match=r"validate\(\) of the task Silent returned a float: expected a dict"):
        Training(recipe(), tmp_path, Silent()).validate()
