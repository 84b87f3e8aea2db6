"""Cross-validation: a recipe trained on every fold with several seeds, each run tested on what it never saw."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenturing.checkpoint import load
from tokenturing.errors import CheckpointError, OptionError
from tokenturing.evaluate.figures import Figure
from tokenturing.evaluate.spread import Spread, spread
from tokenturing.files import read_json, write_file
from tokenturing.tasks.contract import Report
from tokenturing.train.loop import train
from tokenturing.train.recipe import Recipe, load_recipe
from tokenturing.train.resume import check_data, flat

FIGURES = "figures.json"
"""in a run's folder, once it was tested"""
NO_MATTER = ("train.threads", "train.save_every")
"""to its figures"""


class Run(NamedTuple):
    """A recipe on one fold with one seed."""

    name: str
    """of the recipe"""
    fold: int
    seed: int
    recipe: Recipe
    folder: Path
    data: dict[str, str]
    """by the fingerprint of its task"""


def plan(path: Path, settings: Sequence[str], folds: Sequence[int] | None, seeds: Sequence[int], out: Path) -> list[Run]:
    """All runs of a recipe; folds None: as many as its task has.

    Raises:
        OptionError: the task has no folds, or not that one.
    """
    recipe = load_recipe(path, settings)
    task = recipe.build_task()
    cut = task.folds()
    if not cut:
        raise OptionError(f"the task {recipe.task!r} has no folds: expected one whose folds() gives settings of a recipe")
    if wrong := [fold for fold in folds or () if not 0 <= fold < len(cut)]:
        raise OptionError(f"--folds {wrong[0]}: {path.stem} has {len(cut)} folds: expected 0 to {len(cut) - 1}, or all")
    data = task.fingerprint()
    runs = []
    for seed in seeds:  # outside: all folds with one seed are a result already
        for fold in range(len(cut)) if folds is None else folds:
            own = load_recipe(path, [*settings, cut[fold], f"train.seed={seed}"])
            runs.append(Run(path.stem, fold, seed, own, out / path.stem / f"fold{fold}-seed{seed}", data))
    return runs


def perform(run: Run, report: Report | None = None) -> list[Figure]:
    """Train and test one run, or what is left of it to do -> its figures on test data.

    Raises:
        OptionError: the folder holds a run of another recipe, or on other data.
    """
    found = finished(run)
    if found is not None:
        return found
    label = f"{run.name} fold {run.fold} seed {run.seed}"

    def trained(done: int, total: int, metrics: dict[str, Any]) -> None:
        if report:
            report(label, done, total)

    train(run.recipe, run.folder, report=trained)
    task = run.recipe.build_task(report)
    found = task.evaluate({run.name: load(run.folder / "model")}, {}, report)[run.name]
    content = {
        "recipe": run.recipe.to_json(),
        "fold": run.fold,
        "seed": run.seed,
        "data": run.data,
        "figures": [one.to_json() for one in found],
    }
    write_file(run.folder / FIGURES, (json.dumps(content, indent=1) + "\n").encode())
    return found


def finished(run: Run) -> list[Figure] | None:
    """The figures of a run that was tested; None: it was not."""
    file = run.folder / FIGURES
    if not file.exists():
        return None
    content = read_json(file)
    ours, theirs = _deciding(run.recipe.to_json()), _deciding(content.get("recipe"))
    if changed := [key for key in (*ours, *theirs) if ours.get(key) != theirs.get(key)]:
        raise OptionError(
            f"{run.folder} holds figures of another recipe ({changed[0]}={theirs.get(changed[0])!r}, and now "
            f"{ours.get(changed[0])!r}): choose another --out, or delete it"
        )
    check_data(run.data, content.get("data"), run.folder)
    try:
        return [Figure.from_json(row) for row in content["figures"]]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{file} holds no figures ({error}): delete it, and the run is tested anew") from None


def _deciding(recipe: Any) -> dict[str, Any]:
    """What of a recipe decides its figures, by dotted keys."""
    return {key: value for key, value in flat(recipe if isinstance(recipe, dict) else {}) if key not in NO_MATTER}


def pooled(found: Sequence[tuple[Run, Sequence[Figure]]]) -> dict[str, dict[str, Spread]]:
    """Recipe -> figure -> its mean over folds and seeds."""
    pooled_figures: dict[str, dict[str, Spread]] = {}
    for name in dict.fromkeys(run.name for run, _ in found):
        own = [(run, figures) for run, figures in found if run.name == name]
        kinds = dict.fromkeys(_name(figure) for _, figures in own for figure in figures)
        pooled_figures[name] = {kind: spread(dict(_by_fold(own, kind))) for kind in kinds}
    return pooled_figures


def _by_fold(found: Sequence[tuple[Run, Sequence[Figure]]], kind: str) -> Iterator[tuple[str, list[float]]]:
    for fold in sorted({run.fold for run, _ in found}):
        runs = [figures for run, figures in found if run.fold == fold]
        yield str(fold), [figure.value for figures in runs for figure in figures if _name(figure) == kind]


def _name(figure: Figure) -> str:
    """What it says, and under which conditions."""
    return " ".join([figure.kind, *(f"{key} {value}" for key, value in figure.where.items())])
