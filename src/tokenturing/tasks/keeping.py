"""A session as a file, to go on with later: what it knows, for which model, and how far it has come."""

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenturing.checkpoint.format import FORMAT_VERSION, check_version
from tokenturing.checkpoint.tensors import TensorBytes, check_is_file, pack
from tokenturing.errors import CheckpointError, OptionError, a
from tokenturing.files import write_file

KIND = "a session that tokenturing stream --state kept"
SAVE_SECONDS = 30.0
"""between two times that a session is saved while it goes on"""
LARGEST = 2**30
"""bytes of a file"""
MAY_BE_ABSENT = "sound."
"""begins the names of what only a session that hears has"""


class KeptSession:
    """A session that is written to a file now and then, and gone on with where the file is there.

    Args:
        file: where it is kept; it is replaced in one move.
        session: at its beginning; one with `snapshot` and `restore`.

    Raises:
        OptionError: such sessions cannot be kept.
        CheckpointError: the file is damaged or foreign, or is a session of another model.
    """

    def __init__(self, file: Path, session: Any):
        if not (hasattr(session, "snapshot") and hasattr(session, "restore")):
            raise OptionError(f"--state: {a(type(session))} cannot be kept: expected a session with snapshot and restore")
        if file.is_dir():
            raise OptionError(f"--state {file} is a folder: expected the name of a file in it")
        self.file, self.session = file, session
        self.steps = 0
        """taken so far, over all runs"""
        self._saved = time.monotonic()
        if file.exists():
            self.steps = self._load()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)

    def advance(self) -> None:
        """A step was taken; now and then the session is saved."""
        self.steps += 1
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            try:
                self.save()
            except (OSError, CheckpointError) as error:  # there may be room again before the end
                warnings.warn(f"{self.file} could not be written: {getattr(error, 'strerror', error)}", stacklevel=2)
                self._saved = time.monotonic()

    def save(self) -> None:
        """Write the session as it is now."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in self.session.snapshot().items()}
        write_file(self.file, pack(tensors, self._metadata() | {"steps": str(self.steps)}, checksum="crc32"))
        self._saved = time.monotonic()

    def _metadata(self) -> dict[str, str]:
        description = self.session.model.description
        return {
            "format_version": str(FORMAT_VERSION),
            "kind": "session",
            "session": type(self.session).__name__,
            "class_name": str(description.get("class_name")),
            "fingerprint": str(description.get("fingerprint")),
        }

    def _load(self) -> int:
        """Go on with the session in the file -> steps that it had taken."""
        check_is_file(self.file, KIND)
        if (size := self.file.stat().st_size) > LARGEST:
            raise CheckpointError(f"{self.file} has {size} bytes: expected {KIND}, of at most {LARGEST}")
        source = TensorBytes(self.file.read_bytes(), KIND, self.file)
        found, ours = source.metadata, self._metadata()
        if found.get("kind") != ours["kind"] or not found.get("steps", "").isdecimal():
            raise CheckpointError(f"{self.file} is no session: expected {KIND}")
        check_version(found.get("format_version"), self.file)
        for key in ("session", "class_name", "fingerprint"):
            if found.get(key) != ours[key]:
                raise CheckpointError(
                    f"{self.file} is a session of another model ({key} {found.get(key)}, and here {ours[key]}): name another "
                    "file, or the model that it was kept with"
                )
        tensors = source.tensors("cpu")
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        try:
            self.session.restore(self._fitting(arrays))
        except (ValueError, OverflowError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{self.file} cannot be gone on with ({error}): expected {KIND}") from error
        return int(found["steps"])

    def _fitting(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays, each compared with that of a session at its beginning."""
        like, grows = self.session.snapshot(), bool(self.session.model.description.get("grows"))
        kept = {}
        for name, first in like.items():
            array = arrays.get(name)
            if array is None and name.startswith(MAY_BE_ABSENT):
                array = first
            if array is None or array.dtype != first.dtype or (array.shape != first.shape and not grows):
                came = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise CheckpointError(f"{self.file}: {name} is {came}: expected {first.dtype} {list(first.shape)}")
            kept[name] = array
        if foreign := [name for name in arrays if name not in like and not name.startswith(MAY_BE_ABSENT)]:
            raise CheckpointError(f"{self.file} has {foreign[0]}, which this session does not know: expected {', '.join(like)}")
        return kept
