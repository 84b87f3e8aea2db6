"""What several commands need: checkpoints by name, a progress bar."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tokenturing.errors import CheckpointError, MissingExtraError, OptionError, a

if TYPE_CHECKING:
    import torch

    from tokenturing.runtime import Runtime

PLAIN_SECONDS = 10.0
"""between two lines of progress where standard error is no terminal"""
MODEL_FILES, RUN_FILES = ("config.json", "model.safetensors"), ("training.safetensors", "metrics.jsonl")
"""by any of which a folder is one of a model, or of a run"""


def device_of(text: str) -> "torch.device":
    """Where PyTorch is to work: "cpu", "cuda", "cuda:1", "mps", "xpu".

    Raises:
        OptionError: there is no such device here.
    """
    import torch

    try:
        device = torch.device(text)
    except RuntimeError:
        raise OptionError(f"--device {text!r} is no device: expected cpu, cuda, cuda:1 or mps") from None
    if device.type == "cpu":
        return device
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if accelerator else 0
    if accelerator is None or device.type != accelerator.type or (device.index or 0) >= count:
        there = ", ".join(["cpu", *(f"{accelerator.type}:{index}" for index in range(count) if accelerator)])
        raise OptionError(f"--device {text}: PyTorch finds no such device here; expected one of: {there}")
    return device


def load_runtime(folder_or_name: str, device: str = "cpu", threads: int = 1) -> "Runtime":
    """An export, or a trained model on the runtime, ready for one step at a time, on one core as a rule.

    A model is exported when it is first used (some seconds) and kept in the cache folder. What cannot be exported, or a machine
    without the extra "export", is served by PyTorch, some times slower, and so is every model on another device than the CPU.
    """
    from tokenturing.runtime import is_export, load

    if is_export(folder_or_name):
        _check_on_cpu(folder_or_name, device)
        return load(folder_or_name, threads=threads)
    from tokenturing.checkpoint import load as load_model
    from tokenturing.export import cached_runtime, eager
    from tokenturing.models.contract import StreamModel

    place = device_of(device)
    model = load_model(model_folder(folder_or_name))
    streams = isinstance(model, StreamModel)
    if not streams:
        raise OptionError(
            f"{folder_or_name} is {a(type(model))}, which has no memory and takes no steps of a stream: expected a model that "
            "does, such as recall-ttm; tokenturing inspect lists the shipped ones"
        )
    if place.type != "cpu":
        return eager(model, place)
    try:
        return cached_runtime(model, threads=threads)
    except (MissingExtraError, OptionError) as error:
        runtime = eager(model)  # what cannot be streamed at all says so here
        print(f"on PyTorch, not on the faster runtime: {error}", file=sys.stderr)
        return runtime


def _check_on_cpu(folder: str, device: str) -> None:
    if device != "cpu":
        raise OptionError(f"--device {device}: {folder} is an export, which runs on the CPU; expected the model it was made of")


def load_any(folder_or_name: str, threads: int, device: str = "cpu") -> Any:
    """An export on the runtime, or a model as it was trained."""
    from tokenturing.checkpoint import load
    from tokenturing.runtime import is_export
    from tokenturing.runtime import load as load_export

    if is_export(folder_or_name):
        _check_on_cpu(folder_or_name, device)
        return load_export(folder_or_name, threads=threads)
    return load(model_folder(folder_or_name)).to(device_of(device))


def model_folder(folder_or_name: str) -> str:
    """The folder of a model where that of its training run was given.

    Raises:
        CheckpointError: this folder has no model; the message says what it is.
    """
    from tokenturing.checkpoint import shipped
    from tokenturing.runtime import is_export

    folder = Path(folder_or_name)
    inside = folder / "model"
    if (inside / "config.json").exists():
        return str(inside)
    if not os.path.isdir(folder) or any((folder / name).exists() for name in MODEL_FILES):
        return folder_or_name
    if is_export(folder):
        raise CheckpointError(f"{folder} is an export, for evaluate, stream and inspect: expected the model it was made of")
    if any((folder / name).exists() for name in RUN_FILES):
        raise CheckpointError(
            f"{folder} is the folder of a training run that has no model yet: let it train to its end, with the command that "
            "began it"
        )
    raise CheckpointError(
        f"{folder} holds no model: expected a folder that tokenturing.save, train or export wrote, or one of "
        f"{', '.join(shipped())}"
    )


def display_names(checkpoints: Sequence[str]) -> list[str]:
    """A short name for each checkpoint: its folder's, or all of the path where two would be the same."""
    paths = [Path(checkpoint) for checkpoint in checkpoints]
    short = [path.parent.name if path.name == "model" and path.parent.name else path.name for path in paths]
    return short if len(set(short)) == len(short) else list(checkpoints)


class Progress:
    """A bar with an estimate on standard error; a line now and then where that is no terminal.

    The estimate counts from the first thing done, which includes what is prepared only once, to the present.

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
            parts.TextColumn("{task.fields[left]}"),
            parts.TextColumn("{task.fields[note]}"),
        )
        self.bar = parts.Progress(
            *columns,
            console=self.console,
            disable=not self.console.is_terminal,
            redirect_stdout=sys.stdout.isatty(),
        )
        self.task = self.bar.add_task(label, total=None, note="", left="")
        self.began = self.shown = time.monotonic()
        self.first: int | None = None
        self.ended = False

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def report(self, label: str, done: int, total: int) -> None:
        """What a task reports of work that takes long: each label is counted anew."""
        if label != self.label:
            self.label, self.first, self.ended = label, None, False
        self.update(done, total)

    def update(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` is done."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.began = done, now  # a resumed run begins in the middle
        left = ""
        if done > self.first:
            left = f"about {(now - self.began) / (done - self.first) * (total - done):.0f} s left"
        self.bar.update(self.task, description=self.label, completed=done, total=total, note=note, left=left)
        ended = done >= total and not self.ended
        if not self.console.is_terminal and (now - self.shown >= PLAIN_SECONDS or ended):
            self.shown, self.ended = now, done >= total
            print(" ".join(f"{self.label} {done}/{total} {note} {left}".split()), file=sys.stderr, flush=True)
