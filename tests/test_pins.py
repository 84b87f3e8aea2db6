"""Values that a change of structure must not change: of training, evaluation and export of the recall task.

`python tests/test_pins.py` writes them anew, after a change that is meant to change them.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from recall_files import tiny_bank, tiny_recipe

import tokenturing as tt
from tokenturing.models.flat import FlatStep
from tokenturing.tasks.recall.probe import evaluate
from tokenturing.train.loop import Training
from tokenturing.train.recipe import load_recipe

PINS = Path(__file__).parent / "golden" / "pins.json"
UPDATES = 12


def training(folder: Path) -> dict[str, Any]:
    """The losses of a dozen updates of a tiny model, and what it then gets right."""
    settings = ["model.options.look_back=2", "model.options.write_cost=0.01", "schedule.late_clock=6"]
    recipe = load_recipe(tiny_recipe(folder), [*settings, "validation_chunks=4"])
    run = Training(recipe, folder / "run")
    losses = [run.advance() for _ in range(UPDATES)]
    return {
        "losses": [{"answers": each["answers"], "facts": each["facts"]} for each in losses],
        "validation": run.validate(),
        "carried": {name: float(leaf.double().sum()) for name, leaf in tt.state.leaves(run.state)},
    }


def evaluation() -> list[list[Any]]:
    """[kind, delay, share right, streams] of the shipped machine, on voices that say nothing."""
    found = evaluate({"it": tt.load("recall-ttm")}, tiny_bank(), (0.5, 2.0), rows=8)["it"]
    return [[figure.kind, figure.where["delay"], figure.value, figure.count] for figure in found]


def exported() -> list[Any]:
    """What an exported model of the task takes: names, shapes, types and leaves of the state."""
    graph = FlatStep(tt.load("recall-ttm"))
    return [graph.description("float32")["inputs"], graph.names]


def pins(folder: Path) -> dict[str, Any]:
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
    found["training"]["losses"][-1]["answers"] *= 1.001
    assert found != near(pinned), "the control"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PINS.write_text(json.dumps(pins(Path(folder)), indent=1) + "\n")
