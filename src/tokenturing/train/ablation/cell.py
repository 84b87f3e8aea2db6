"""One run of an ablation: trained, tested on what its task says, and kept, so that it is not done twice."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tokenturing.checkpoint import load
from tokenturing.errors import CheckpointError, TokenTuringError, in_words
from tokenturing.evaluate.cost import step_cost
from tokenturing.evaluate.figures import Figure
from tokenturing.files import read_json, write_file
from tokenturing.train.loop import train
from tokenturing.train.plain import plain
from tokenturing.train.recipe import Recipe, task_of
from tokenturing.train.resume import check_data, lasting

FILE = "cell.json"
NAME = "model"
Report = Callable[[int], None]
"""called with the updates done"""


def run_cell(
    recipe: Recipe, folder: Path, options: Mapping[str, str], report: Report | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Train the recipe from where its run stands and test the model -> what `ended` reads again.

    Args:
        recipe: of the run.
        folder: of the run, as `tokenturing train --out` has it.
        options: of the evaluation.
        report: is told of updates.
        device: where the model learns and is tested.
    """
    if (kept := ended(recipe, folder, options)) is not None:
        return kept
    task = recipe.build_task()
    train(recipe, folder, task=task, report=None if report is None else lambda done, *_: report(done), device=device)
    model: Any = load(folder / "model")
    figures = task_of(model).evaluate({NAME: model.to(torch.device(device))}, options, None)[NAME]
    found = {
        "recipe": recipe.to_json(),
        "options": dict(options),
        "data": task.fingerprint(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": step_cost(model),
        "growing": bool(getattr(model, "growing", ())),
        "seconds": model.notes.get("seconds"),
        "validation": model.notes.get("validation", {}),
        "figures": [figure.to_json() for figure in figures if math.isfinite(figure.value)],
    }
    found = plain(found)
    write_file(folder / FILE, (json.dumps(found, indent=1) + "\n").encode())
    return found


def ended(recipe: Recipe, folder: Path, options: Mapping[str, str]) -> dict[str, Any] | None:
    """What a run that has ended with this recipe and evaluation has left, or None: it is to be run.

    Raises:
        OptionError: it had other data.
    """
    if not (folder / FILE).exists():
        return None
    found = read_json(folder / FILE, "tokenturing ablate")
    try:
        theirs, ours = found["recipe"], recipe.to_json()
        same = lasting(theirs) == lasting(ours) and theirs["train"]["updates"] == ours["train"]["updates"]
        figures = [Figure.from_json(row) for row in found["figures"]]
    except (KeyError, TypeError, AttributeError, TokenTuringError) as error:
        raise CheckpointError(
            f"{folder / FILE} is not what `tokenturing ablate` writes ({in_words(error)}): delete it"
        ) from error
    if same and (data := found.get("data")):
        check_data(recipe.build_task().fingerprint(), data, folder)
    return found if same and figures and found.get("options") == dict(options) else None
