"""What several commands need: checkpoints by name, errors of the speech folder, a progress bar."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tokenturing.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    from tokenturing.runtime import Runtime
    from tokenturing.tasks.recall.model import RecallModel

PLAIN_SECONDS = 10.0
"""between two lines of progress where standard error is no terminal"""


def load_recall_model(folder_or_name: str) -> "RecallModel":
    """A trained recall model by its folder, its run's folder or the name it was shipped under."""
    from tokenturing.checkpoint import load
    from tokenturing.tasks.recall.model import RecallModel

    model = load(model_folder(folder_or_name))
    if not isinstance(model, RecallModel):
        kind = type(model).__name__
        raise OptionError(f"{folder_or_name} holds a {kind}: expected a RecallModel")
    return model


def load_runtime(folder_or_name: str) -> "Runtime":
    """An export, or a trained recall model on the runtime, ready for one step at a time on one core.

    A model is exported when it is first used (some seconds) and kept in the cache folder. What cannot be exported, or a machine
    without the extra "export", is served by PyTorch, some times slower.
    """
    from tokenturing.runtime import is_export, load

    if is_export(folder_or_name):
        return load(folder_or_name, threads=1)
    from tokenturing.export import cached_runtime, eager

    model = load_recall_model(folder_or_name)
    try:
        return cached_runtime(model, threads=1)
    except (MissingExtraError, OptionError) as error:
        print(f"on PyTorch, not on the faster runtime: {error}", file=sys.stderr)
        return eager(model)


def notes_of(model: Any) -> dict[str, Any]:
    """What was noted when the model was saved."""
    return model.notes


def model_folder(folder_or_name: str) -> str:
    """The folder of a model where that of its training run was given."""
    inside = Path(folder_or_name) / "model"
    return str(inside) if (inside / "config.json").exists() else folder_or_name


def display_names(checkpoints: Sequence[str]) -> list[str]:
    """A short name for each checkpoint: its folder's, or all of the path where two would be the same."""
    paths = [Path(checkpoint) for checkpoint in checkpoints]
    short = [path.parent.name if path.name == "model" and path.parent.name else path.name for path in paths]
    return short if len(set(short)) == len(short) else list(checkpoints)


@contextmanager
def voices() -> Iterator[None]:
    """Errors of the speech folder and of missing speech packages as errors for people."""
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        raise OptionError(str(error)) from error
    except ValueError as error:
        raise OptionError(str(error)) from error


class Progress:
    """A bar with an estimate on standard error; a line now and then where that is no terminal.

    Args:
        label: what is going on.
    """

    def __init__(self, label: str):
        from rich import progress as parts
        from rich.console import Console

        self.label = label
        self.console = Console(stderr=True)
        columns = (
            parts.TextColumn("{task.description}"),
            parts.BarColumn(bar_width=24),
            parts.TaskProgressColumn(),
            parts.TimeElapsedColumn(),
            parts.TextColumn("left"),
            parts.TimeRemainingColumn(),
            parts.TextColumn("{task.fields[note]}"),
        )
        self.bar = parts.Progress(
            *columns,
            console=self.console,
            disable=not self.console.is_terminal,
            redirect_stdout=sys.stdout.isatty(),
        )
        self.task = self.bar.add_task(label, total=None, note="")
        self.began = self.shown = time.monotonic()
        self.first: int | None = None
        self.ended = False

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def update(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` is done."""
        if self.first is None:
            self.first = done - 1  # a resumed run begins in the middle
        self.bar.update(self.task, completed=done, total=total, note=note)
        now = time.monotonic()
        ended = done >= total and not self.ended
        if not self.console.is_terminal and (now - self.shown >= PLAIN_SECONDS or ended):
            self.shown, self.ended = now, done >= total
            left = (now - self.began) / max(done - self.first, 1) * (total - done)
            print(f"{self.label} {done}/{total} {note} about {left:.0f} s left", file=sys.stderr, flush=True)
