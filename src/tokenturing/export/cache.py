"""Exports that are made once and kept, so that a stream of a known model begins at once."""

import hashlib
import os
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType

import torch
from torch import nn

import tokenturing
from tokenturing.checkpoint import fingerprint
from tokenturing.errors import CheckpointError
from tokenturing.export.onnx import export_onnx
from tokenturing.files import cache_folder
from tokenturing.files.aside import beside, delete, held
from tokenturing.models.flat import streaming_notes
from tokenturing.runtime.machine import DESCRIPTION, Runtime, is_export, load


def cached_runtime(model: nn.Module, *, precision: str = "float32", threads: int | None = None) -> Runtime:
    """A model on the runtime; it is exported at the first call and taken from the cache folder after that.

    Raises:
        OptionError: the model cannot be exported.
        MissingExtraError: onnx or the runtime is not installed.
    """
    version = _depends_on(model)
    folder = cache_folder() / f"export-{precision}-{version}-{fingerprint(model)}"
    if is_export(folder):
        try:
            runtime = load(folder, threads=threads)
        except CheckpointError:  # it was damaged; it is made anew
            pass
        else:
            with suppress(OSError):  # another user's cache
                os.utime(folder / DESCRIPTION)
            return _noted(runtime, model)
    runtime = load(_write(model, folder, precision), threads=threads)
    _prune(folder.parent, version)
    return _noted(runtime, model)


def _prune(cache: Path, version: str) -> None:
    """Delete the exports of other versions that nobody has taken for long: another process may be about to read a newer one."""
    for folder in cache.glob("export-*"):
        if version in folder.name:
            continue
        with suppress(OSError), held(folder):  # it went meanwhile, or is another user's
            if time.time() - (folder / DESCRIPTION).stat().st_mtime > KEPT_FOR:
                hidden = beside(folder)
                folder.rename(hidden)
                delete(hidden)


def _noted(runtime: Runtime, model: nn.Module) -> Runtime:
    """With this model's notes: the same weights may have been saved with others."""
    runtime.notes = streaming_notes(model)
    return runtime


KEPT_FOR = 14 * 24 * 3600.0
"""seconds for which an export of another version stays in the cache after it was last taken"""
ROOMS_WITHOUT_GRAPHS = ("bench", "cli", "demo", "evaluate", "features", "media", "recipes", "testing", "train", "viz", "weights")
"""of this package: what shapes no graph, so that its changes make no export anew"""


def _depends_on(model: nn.Module) -> str:
    """What else an export is made by: versions, and the sources of this package and of the model."""
    return f"{tokenturing.__version__}-{torch.__version__.partition('+')[0]}-{_sources(model)}"


def _sources(model: nn.Module) -> str:
    """A hash of the sources of this package that shape graphs, and of those of the model's parts where they are other people's.

    Of a class without a file, as in a notebook, the code of its methods stands for its source.
    """
    digest = hashlib.sha256(_own_sources())
    classes = {cls for part in model.modules() for cls in type(part).__mro__ if _is_foreign(cls)}
    for cls in sorted(classes, key=lambda cls: (cls.__module__, cls.__qualname__)):
        digest.update(f"{cls.__module__}.{cls.__qualname__}".encode())
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if file and Path(file).is_file():
            digest.update(Path(file).read_bytes())
            continue
        for name, method in sorted(vars(cls).items()):
            if isinstance(method, FunctionType):
                digest.update(name.encode() + _as_bytes(method.__code__))
    return digest.hexdigest()[:16]


def _is_foreign(cls: type) -> bool:
    """Whether its source is neither this package's nor PyTorch's or Python's, which their versions stand for."""
    return cls.__module__.partition(".")[0] not in ("tokenturing", "torch", "builtins", *sys.stdlib_module_names - {"__main__"})


def _as_bytes(code: CodeType) -> bytes:
    """What a function does; not where it stands."""
    constants = [_as_bytes(one) if isinstance(one, CodeType) else repr(one).encode() for one in code.co_consts]
    return b"\0".join([code.co_code, repr((code.co_names, code.co_varnames)).encode(), *constants])


@cache
def _own_sources() -> bytes:
    package = Path(tokenturing.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package)
        if name.parts[0] not in ROOMS_WITHOUT_GRAPHS:
            digest.update(name.as_posix().encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.digest()


def _write(model: nn.Module, folder: Path, precision: str) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return export_onnx(model, folder, precision=precision)
