"""Values that a change of structure must not change: of training, evaluation and export of the recall task.

`python tests/test_pins.py` writes them anew, after a change that is meant to change them.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import RECIPE, make_small, tiny_bank

import tokenturing as tt
from tokenturing.export.step import StepGraph, example
from tokenturing.tasks.recall.eyes.perception import Perception
from tokenturing.tasks.recall.probe import evaluate
from tokenturing.train.loop import Training, validate, validation_batches
from tokenturing.train.recipe import load_recipe

PINS = Path(__file__).parent / "golden" / "pins.json"
UPDATES = 12


def training(folder: Path) -> dict[str, Any]:
    """The losses of a dozen updates of a tiny model, and what it then gets right."""
    torch.manual_seed(0)
    tt.save(Perception(16), folder / "perception")
    (folder / "tiny.toml").write_text(RECIPE.format(perception=folder / "perception"))
    settings = [
        "model.options.look_back=2",
        "model.options.write_cost=0.01",
        "train.early_writes=4",
        "train.late_clock=6",
    ]
    recipe = load_recipe(folder / "tiny.toml", settings)
    run = Training(recipe, folder / "run", bank=tiny_bank())
    losses = [run.advance() for _ in range(UPDATES)]
    return {
        "losses": [{name: each[name] for name in ("loss", "facts", "every")} for each in losses],
        "validation": validate(run.model, validation_batches(run.model, tiny_bank(), recipe, chunks=4)),
        "carried": {name: float(leaf.double().sum()) for name, leaf in tt.state.leaves(run.state)},
    }


def evaluation() -> list[list[Any]]:
    """[kind, delay, share right, streams] of the shipped machine, on voices that say nothing."""
    found = evaluate({"it": tt.load("recall-ttm")}, tiny_bank(), (0.5, 2.0), rows=8)["it"]
    return [[row.kind, row.delay, row.accuracy, row.count] for row in found]


def exported() -> list[Any]:
    """What an exported model of the task takes, and the sums of the example that it is checked on."""
    graph = StepGraph(tt.load("recall-ttm"))
    sums = {name: float(part.double().sum()) for name, part in example(graph.model).items()}
    return [graph.description("float32")["inputs"], graph.names, sums]


def pins(folder: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch.setattr)
        return {"training": training(folder), "evaluation": evaluation(), "exported": exported()}


def near(pinned: Any) -> Any:
    """The same with numbers as other processors may round them."""
    if isinstance(pinned, dict):
        return {name: near(part) for name, part in pinned.items()}
    if isinstance(pinned, list):
        return [near(part) for part in pinned]
    return pytest.approx(pinned, rel=1e-4, abs=1e-6) if isinstance(pinned, float) else pinned


def test_pins(tmp_path: Path) -> None:
    pinned = json.loads(PINS.read_text())
    found = json.loads(json.dumps(pins(tmp_path)))
    assert found == near(pinned)
    found["training"]["losses"][-1]["loss"] *= 1.001
    assert found != near(pinned), "the control"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PINS.write_text(json.dumps(pins(Path(folder)), indent=1) + "\n")
