"""`tokenturing crossvalidate`"""

import json
import math
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, UseAppendAction

from tokenturing.cli.options import argument
from tokenturing.errors import OptionError

if TYPE_CHECKING:
    from tokenturing.evaluate.spread import Spread


def crossvalidate(
    recipes: Annotated[Positional[tuple[str, ...]], argument("RECIPE.toml", hint="(required, one or more)")],
    folds: Annotated[str, argument("all|0,1,...")] = "all",
    seeds: Annotated[str, argument("0,1,...")] = "0",
    settings: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], argument("KEY=VALUE", name="set")] = (),
    out: Annotated[str, argument("FOLDER")] = "runs/crossvalidation",
    threads: Annotated[int, argument("N", hint=None)] = 1,
) -> None:
    """Train recipes on every fold of their data and test each on what it never saw: one table of means with 95 % intervals.

    Every choice within a run, such as which weights are the best, is made on a part of its training data. Stopped, the same
    command goes on where it was; with more folds, seeds or recipes it trains only what is missing. Several processes may work on
    one folder at a time, with other seeds or folds each.

    Intervals are Student's over the means of the folds, which are tested on different people or videos; of one fold they are
    over the seeds.

    Args:
        recipes: what to train, such as recipes/activity-watch.toml.
        folds: which of the folds that the task has.
        seeds: of weights and of what is drawn; each trains all folds.
        settings: change single values of all recipes, such as --set train.updates=500
        out: where the runs are kept, and the table, in table.json.
        threads: cores to use.
    """
    from tokenturing.cli.common import Progress
    from tokenturing.cli.train import find_recipe
    from tokenturing.files import write_file
    from tokenturing.files.places import check_place
    from tokenturing.train.crossvalidation import perform, plan, pooled

    if not recipes:
        raise OptionError("crossvalidate needs a recipe, such as recipes/activity-watch.toml")
    folder = check_place("--out", out, folder=True, filled=True)
    changes = [*(setting for group in settings for setting in group), f"train.threads={threads}"]
    chosen = None if folds == "all" else _numbers("--folds", folds)
    runs = [run for one in recipes for run in plan(find_recipe(one), changes, chosen, _numbers("--seeds", seeds), folder)]
    with Progress("cross-validating") as progress:
        found = []
        for number, run in enumerate(runs, 1):

            def report(label: str, done: int, total: int, at: int = number) -> None:
                progress.report(f"{at}/{len(runs)} {label}", done, total)

            found.append((run, perform(run, report)))
    table = pooled(found)
    show(table)
    content = {name: {kind: one._asdict() for kind, one in of_recipe.items()} for name, of_recipe in table.items()}
    write_file(folder / "table.json", (json.dumps(_finite(content), indent=1) + "\n").encode())
    print(f"the runs and table.json are in {folder}")


def _numbers(option: str, text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"{option} {text!r}: expected whole numbers with commas between them, as in 0,1,2") from None
    if any(number < 0 for number in found) or len(set(found)) < len(found):
        raise OptionError(f"{option} {text!r}: expected numbers from 0 on, each once")
    return found


def show(table: "dict[str, dict[str, Spread]]") -> None:
    """One table: figures down, recipes across."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="means over folds and seeds (95 % interval over folds; ± between seeds)", title_justify="left", box=None)
    shown.add_column("")
    for name, of_recipe in table.items():
        any_of_it = next(iter(of_recipe.values()))
        head = f"{name}\n{any_of_it.folds} folds, {any_of_it.seeds} seeds"
        shown.add_column(head, justify="right", overflow="fold")
    for kind in dict.fromkeys(kind for of_recipe in table.values() for kind in of_recipe):
        shown.add_row(kind, *(_cell(of_recipe.get(kind)) for of_recipe in table.values()))
    Console().print(shown)


def _cell(one: "Spread | None") -> str:
    if one is None or math.isnan(one.mean):
        return ""
    interval = "" if math.isnan(one.low) else f" [dim]{one.low:.3f}-{one.high:.3f}[/]"
    return f"{one.mean:.3f}{interval}" + ("" if math.isnan(one.by_seed) else f" [dim]±{one.by_seed:.3f}[/]")


def _finite(content: dict) -> dict:
    """None in place of what JSON cannot say."""
    return {
        key: _finite(value) if isinstance(value, dict) else None if isinstance(value, float) and math.isnan(value) else value
        for key, value in content.items()
    }
