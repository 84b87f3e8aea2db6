"""Tensors in files: safetensors, checked when read.

Nothing here executes what it reads, and nothing larger than the file itself is allocated for it.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from tokenturing.errors import CheckpointError


def pack(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Tensors as the bytes of a safetensors file, with their checksum among the metadata."""
    separate = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return to_safetensors(separate, {"format": "pt", "checksum": digest(separate.items()), **metadata})


class TensorFile:
    """A safetensors file: metadata and shapes first, tensors when asked for.

    Args:
        path: the file.
        kind: what it should be, for messages.

    Raises:
        CheckpointError: it is missing, truncated or not a safetensors file.
    """

    def __init__(self, path: Path, kind: str):
        self.path, self.kind = path, kind
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise CheckpointError(f"{path} {what}: expected {kind}")
        # One handle for header and tensors: if another process replaces the file meanwhile, we still see one file.
        self._handle = self._read(lambda: safe_open(path, framework="pt"))
        self.metadata: dict[str, str] = self._read(lambda: dict(self._handle.metadata() or {}))
        self.shapes: dict[str, tuple[int, ...]] = self._read(
            lambda: {name: tuple(self._handle.get_slice(name).get_shape()) for name in self._handle.keys()}  # noqa: SIM118
        )

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, their checksum compared where the file has one.

        They are copies in storage of torch's own alignment: on others some kernels round differently.
        """
        read = self._read(lambda: {name: self._handle.get_tensor(name).clone() for name in self.shapes})
        wanted = self.metadata.get("checksum")
        if wanted is not None and wanted != digest(read.items()):
            raise CheckpointError(
                f"{self.path} is corrupted: its tensors do not have the checksum they were written with, "
                f"{wanted}; fetch or save it again"
            )
        return read

    def _read(self, use: Callable[[], Any]) -> Any:
        try:
            return use()
        except (SafetensorError, OSError, ValueError, RuntimeError, struct.error) as error:
            raise CheckpointError(
                f"{self.path} cannot be read ({error}): expected {self.kind} as a whole safetensors file; "
                "it may be truncated, corrupted or of another program; fetch or save it again"
            ) from error


def digest(tensors: Iterable[tuple[str, Tensor]], *also: str) -> str:
    """A short hash of texts and of the tensors' names, types, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()  # three times as fast as blake2b where the processor knows it
    for text in also:
        total.update(f"{len(text)}:{text}".encode())
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()[:32]
