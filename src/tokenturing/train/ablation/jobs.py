"""All runs of an ablation, one after the other or a few at a time; what fails is noted and the rest goes on."""

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from tokenturing.errors import MissingExtraError, TokenTuringError, in_words
from tokenturing.files import write_file
from tokenturing.train.ablation.cell import ended, run_cell
from tokenturing.train.ablation.plan import Cell, Plan
from tokenturing.train.recipe import parse_recipe

TRACEBACK = "error.txt"
"""in the folder of a run that failed by somebody's bug"""


class Outcome(NamedTuple):
    """What came of a run."""

    found: dict[str, Any] | None
    """as `run_cell` returns it; None: it failed, or was not reached"""
    error: str = ""


Report = Callable[[int, int, dict[str, Outcome]], None]
"""called with updates done, updates in all, and the outcomes so far by the folders of the runs"""


def run_all(plan: Plan, folder: Path, *, jobs: int = 1, device: str = "cpu", report: Report | None = None) -> dict[str, Outcome]:
    """Run what has not ended yet -> the outcome of each run by its folder under `folder`.

    Args:
        plan: what there is to run.
        folder: of the ablation.
        jobs: how many processes train at once, each a run; 1: this process.
        device: where the models learn.
        report: is called whenever something went on.
    """
    runs = plan.runs()
    outcomes: dict[str, Outcome] = {}
    updates = dict.fromkeys(runs, 0)
    total = sum(cell.recipe.train.updates for cell in runs.values())

    def tell(place: str, done: int) -> None:
        updates[place] = done
        if report:
            report(sum(updates.values()), total, outcomes)

    def end(place: str, outcome: Outcome) -> None:
        outcomes[place] = outcome
        tell(place, runs[place].recipe.train.updates)

    for place, cell in runs.items():
        try:
            if (kept := ended(cell.recipe, folder / place, plan.evaluate)) is not None:
                end(place, Outcome(kept))
        except TokenTuringError as error:
            end(place, Outcome(None, in_words(error)))
    left = {place: cell for place, cell in runs.items() if place not in outcomes}
    if jobs == 1:
        for place, cell in left.items():
            end(place, _guarded(cell.recipe.to_json(), folder / place, plan.evaluate, device, partial(tell, place)))
    else:
        _side_by_side(left, folder, plan.evaluate, jobs, device, tell, end)
    return outcomes


def _guarded(
    recipe: dict[str, Any], folder: Path, options: Mapping[str, str], device: str, report: Callable[[int], None]
) -> Outcome:
    """A run whose errors are its outcome; a traceback is kept of those that are nobody's wrong option."""
    try:
        found = run_cell(parse_recipe(recipe), folder, options, report, device)
    except (TokenTuringError, MissingExtraError, OSError) as error:
        return Outcome(None, in_words(error))
    except Exception as error:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_file(folder / TRACEBACK, traceback.format_exc().encode())
        return Outcome(None, f"{type(error).__name__}: {in_words(error)} (see {folder / TRACEBACK})")
    (folder / TRACEBACK).unlink(missing_ok=True)
    return Outcome(found)


def _side_by_side(
    left: Mapping[str, Cell],
    folder: Path,
    options: Mapping[str, str],
    jobs: int,
    device: str,
    tell: Callable[[str, int], None],
    end: Callable[[str, Outcome], None],
) -> None:
    """So many processes at a time, one a run: one that crashes or is killed takes no other with it."""
    context = multiprocessing.get_context("spawn")
    waiting = list(left.items())
    live: dict[Connection, tuple[str, Any]] = {}
    try:
        while waiting or live:
            while waiting and len(live) < jobs:
                place, cell = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                arguments = (theirs, cell.recipe.to_json(), folder / place, dict(options), device)
                process = context.Process(target=_child, args=arguments, daemon=True)
                process.start()
                theirs.close()
                live[ours] = place, process
            for connection in wait(list(live)):
                assert isinstance(connection, Connection)
                place, process = live[connection]
                try:
                    said = connection.recv()
                except (EOFError, ConnectionError):
                    process.join()
                    said = Outcome(None, f"its process ended with exit code {process.exitcode}: was memory short?")
                if isinstance(said, Outcome):
                    del live[connection]
                    connection.close()
                    process.join()
                    end(place, said)
                else:
                    tell(place, said)
    finally:
        for _, process in live.values():
            process.terminate()


def _child(send: Connection, recipe: dict[str, Any], folder: Path, options: dict[str, str], device: str) -> None:
    """What a process does. An interrupt is its parent's to handle; a parent that is gone breaks the pipe, which ends this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    send.send(_guarded(recipe, folder, options, device, send.send))
