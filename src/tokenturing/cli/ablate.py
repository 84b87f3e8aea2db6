"""`tokenturing ablate`"""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction

from tokenturing.cli.options import argument
from tokenturing.errors import OptionError

if TYPE_CHECKING:
    from tokenturing.train.ablation.jobs import Outcome

FAILED = 1
"""exit code where a run failed and the others went on"""


def ablate(
    recipe: Annotated[Positional[str], argument("RECIPE.toml")],
    settings: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], argument("KEY=VALUE", name="set")] = (),
    out: Annotated[str, argument("FOLDER")] = "",
    axes: Annotated[tuple[str, ...], argument("NAME", hint="(all)")] = (),
    over: Annotated[tuple[str, ...], argument("KEY=VALUE", hint="(the recipe's)")] = (),
    seeds: Annotated[tuple[int, ...], argument("N", hint="(the recipe's)")] = (),
    jobs: Annotated[int, argument("N", hint=None)] = 1,
    device: Annotated[str, argument("DEVICE", hint=None)] = "cpu",
) -> None:
    """Change a recipe in one thing at a time, and see what each is worth: a table and figures with intervals.

    The recipe's table [ablate] says what to change, over which settings and seeds to take means, and what others published
    (recipes/last-digits-ablation.toml is a small one). Each run has a folder of its own and goes on where it was stopped; one
    that has ended is not run again, and one that fails is reported while the rest goes on (exit code 1).

    Args:
        recipe: what is changed, such as recipes/last-digits-ablation.toml.
        settings: change single values of the recipe itself, for all runs, such as --set train.updates=200
        out: where ablation.json, ablation.md, the figures and the runs are kept. Default: runs/NAME OF THE RECIPE.
        axes: run and show these only.
        over: settings over which means are taken, such as --over data.fold=0 data.fold=1
        seeds: of training, each with each of the settings, such as --seeds 0 1 2
        jobs: how many runs go on at once, each in a process of its own.
        device: where the models learn: "cpu", "cuda", "cuda:1", "mps".
    """
    from tokenturing.cli.common import Progress, device_of
    from tokenturing.cli.train import find_recipe
    from tokenturing.extras import require
    from tokenturing.files.places import check_place
    from tokenturing.registry import find_task
    from tokenturing.train.ablation.jobs import run_all
    from tokenturing.train.ablation.plan import load_plan
    from tokenturing.train.ablation.table import result

    if jobs < 1:
        raise OptionError(f"--jobs {jobs}: expected at least 1")
    device_of(device)
    folder = check_place("--out", out or Path("runs") / Path(recipe).stem, folder=True, filled=True)
    changes = [setting for group in settings for setting in group]
    plan = load_plan(find_recipe(recipe), changes, over=over or None, seeds=seeds or None, axes=axes)
    require("cli", *(extra for name in {cell.recipe.task for cell in plan.cells} for extra in find_task(name).extras))
    command = shlex.join(["tokenturing", "ablate", *_arguments(recipe, changes, axes, over, seeds)])
    try:
        with Progress(folder.name) as progress:
            written = -1

            def report(done: int, total: int, outcomes: "Mapping[str, Outcome]") -> None:
                nonlocal written
                progress.update(done, total, _note(outcomes, len(plan.runs())))
                if len(outcomes) != written and _any_ended(outcomes):  # so that there is something to look at while the rest runs
                    written = len(outcomes)
                    _write(folder, result(plan, outcomes, command))

            outcomes = run_all(plan, folder, jobs=jobs, device=device, report=report)
    except KeyboardInterrupt:
        print("the same command goes on from here", file=sys.stderr)
        raise
    if _any_ended(outcomes):  # else a table that an earlier command wrote is worth more
        found = result(plan, outcomes, command)
        _write(folder, found)
        draw(folder, found)
        _show(found)
        print(f"the table is in {folder / 'ablation.md'}, all of it in ablation.json, figures in ablation*.png")
    if failed := {place: outcome.error for place, outcome in outcomes.items() if outcome.error}:
        for error in dict.fromkeys(failed.values()):
            first, *others = (place for place, said in failed.items() if said == error)
            more = f" and {len(others)} more" if others else ""
            print(f"failed: {folder / first}{more}: {error}", file=sys.stderr)
        print(f"{len(failed)} of {len(outcomes)} runs failed; the same command tries them again", file=sys.stderr)
        sys.exit(FAILED)


def _any_ended(outcomes: "Mapping[str, Outcome]") -> bool:
    return any(outcome.found for outcome in outcomes.values())


def _arguments(recipe: str, changes: Sequence[str], axes: Sequence[str], over: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """What the figures depend on; not how they were made."""
    found = [recipe]
    for flag, values in (("--set", changes), ("--axes", axes), ("--over", over), ("--seeds", seeds)):
        found += [flag, *map(str, values)] if values else []
    return found


def _note(outcomes: "Mapping[str, Outcome]", runs: int) -> str:
    failed = sum(bool(outcome.error) for outcome in outcomes.values())
    return f"{len(outcomes)} of {runs} runs" + (f", {failed} failed" if failed else "")


def _write(folder: Path, found: dict[str, Any]) -> None:
    from tokenturing.files import write_file
    from tokenturing.train.ablation.table import markdown

    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "ablation.json", (json.dumps(found, indent=1) + "\n").encode())
    write_file(folder / "ablation.md", markdown(found).encode())


def draw(folder: Path, found: Mapping[str, Any]) -> None:
    """Wide and narrow, light and dark."""
    from tokenturing.viz.ablation import Line, Point, ablation_figure

    def point(mean: Mapping[str, Any] | None) -> Point | None:
        if mean is None:
            return None
        return Point(mean["value"], *(mean["value"] if mean[end] is None else mean[end] for end in ("low", "high")))

    measure = found["figures"][0]
    lines = [Line(row["axis"], row["label"], point(row["figures"][measure]), point(row["difference"])) for row in found["rows"]]
    for narrow in (False, True):
        for dark in (False, True):
            name = f"ablation{'-narrow' * narrow}{'-dark' * dark}.png"
            ablation_figure(lines, measure, folder / name, narrow=narrow, dark=dark)


def _show(found: Mapping[str, Any]) -> None:
    """The table for a terminal."""
    from rich.console import Console
    from rich.table import Table

    from tokenturing.train.ablation.table import columns

    head, rows = columns(found)
    table = Table(box=None)
    for index, name in enumerate(head):
        table.add_column(name, justify="right" if index else "left", no_wrap=not index, overflow="fold")
    axis = ""
    for of_axis, cells in rows:
        if of_axis != axis:
            axis = of_axis
            table.add_row(f"[bold]{axis}[/]")
        table.add_row(*(cell.replace("**", "") for cell in cells))
    Console().print(table)
