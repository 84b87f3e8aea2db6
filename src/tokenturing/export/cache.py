"""Exports that are made once and kept, so that a stream of a known model begins at once."""

from pathlib import Path

import torch
from torch import nn

import tokenturing
from tokenturing.checkpoint import fingerprint
from tokenturing.errors import CheckpointError
from tokenturing.export.onnx import export_onnx
from tokenturing.files import cache_folder
from tokenturing.models.flat import streaming_notes
from tokenturing.runtime.machine import Runtime, is_export, load


def cached_runtime(model: nn.Module, *, precision: str = "float32", threads: int | None = None) -> Runtime:
    """A model on the runtime; it is exported at the first call and taken from the cache folder after that.

    Raises:
        OptionError: the model cannot be exported.
        MissingExtraError: onnx or the runtime is not installed.
    """
    folder = cache_folder() / f"export-{precision}-{_versions()}-{fingerprint(model)}"
    if is_export(folder):
        try:
            return _noted(load(folder, threads=threads), model)
        except CheckpointError:  # it was damaged; it is made anew
            pass
    return _noted(load(_write(model, folder, precision), threads=threads), model)


def _noted(runtime: Runtime, model: nn.Module) -> Runtime:
    """With this model's notes: the same weights may have been saved with others."""
    runtime.notes = streaming_notes(model)
    return runtime


FORM = 3
"""of what is exported; more by one whenever the same model is to be exported anew"""


def _versions() -> str:
    """What else an export depends on."""
    return f"{tokenturing.__version__}-{FORM}-{torch.__version__.partition('+')[0]}"


def _write(model: nn.Module, folder: Path, precision: str) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return export_onnx(model, folder, precision=precision)
