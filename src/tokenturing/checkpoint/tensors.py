"""Tensors as safetensors, in files and in memory, checked when read.

Nothing here executes what it reads, and nothing larger than the file itself is allocated for it.
"""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as arrays_to_safetensors
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from tokenturing.errors import CheckpointError, a

PLAIN_TYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool),
}
"""types that safetensors has; tensors of others are kept as their bytes"""
BYTES_OF = "bytes_of"
"""the key of their types"""


def pack(tensors: Mapping[str, Tensor], metadata: dict[str, str], checksum: str = "checksum") -> bytes:
    """Tensors as the bytes of a safetensors file, with their checksum (a key of `CHECKSUMS`) among the metadata."""
    separate = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"format": "pt", checksum: CHECKSUMS[checksum](separate.items()), **metadata}
    others = {name: tensor for name, tensor in separate.items() if tensor.dtype not in PLAIN_TYPES}
    if others:
        metadata[BYTES_OF] = json.dumps({name: str(tensor.dtype).removeprefix("torch.") for name, tensor in others.items()})
        separate |= {name: tensor.unsqueeze(-1).view(torch.uint8) for name, tensor in others.items()}
    try:  # the same bytes at half the cost
        return arrays_to_safetensors({name: tensor.numpy() for name, tensor in separate.items()}, metadata)
    except TypeError:  # numpy has no bfloat16
        return to_safetensors(separate, metadata)


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
        check_is_file(path, kind)
        with _reading(path, kind):
            # One handle for header and tensors: if another process replaces the file meanwhile, we still see one file.
            self._handle = _open(path)
            self.metadata: dict[str, str] = dict(self._handle.metadata() or {})
            self.shapes: dict[str, tuple[int, ...]] = {
                name: tuple(self._handle.get_slice(name).get_shape())
                for name in self._handle.keys()  # noqa: SIM118
            }
            self._others = _others(self.metadata)
            for name in self._others:
                self.shapes[name] = self.shapes[name][:-1]

    def table(self, key: str) -> dict[str, Any]:
        """The JSON object under a key of the metadata; empty if there is none, a ValueError if it is something else."""
        content = json.loads(self.metadata.get(key, "{}"))
        if not isinstance(content, dict):
            raise ValueError(f"{key} is {a(type(content))}")
        return content

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, their checksum compared where the file has one.

        They are copies in storage of torch's own alignment: on others some kernels round differently.
        """
        with _reading(self.path, self.kind):
            tensors = {name: self._handle.get_tensor(name).clone() for name in self.shapes}
            _from_bytes(tensors, self._others)
        _check_sum(tensors, self.metadata, self.path)
        return tensors


class TensorBytes:
    """The same for bytes in memory.

    Args:
        data: what `pack` returned, or anything else.
        kind: what it should be, for messages.
        where: what to call it in messages.

    Raises:
        CheckpointError: it is truncated or not in the format of safetensors.
    """

    def __init__(self, data: bytes, kind: str, where: str | Path):
        self.where = where
        with _reading(where, kind):
            self._tensors = from_safetensors(data)  # it checks the header that is read again below
            (length,) = struct.unpack_from("<Q", data)
            self.metadata: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
            _from_bytes(self._tensors, _others(self.metadata))

    def leaves(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shapes and types by name."""
        return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self._tensors.items()}

    def tensors(self, device: str | torch.device) -> dict[str, Tensor]:
        """All tensors on a device, after the checksum; as in files, they are copies in torch's own alignment."""
        _check_sum(self._tensors, self.metadata, self.where)
        return {name: tensor.to(device, copy=True) for name, tensor in self._tensors.items()}


def _open(path: Path) -> Any:
    """The file's handle; the library wants names in UTF-8, so that others are opened here."""
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        number = os.open(path, os.O_RDONLY)
        try:
            return safe_open(f"/dev/fd/{number}", framework="pt")
        finally:
            os.close(number)
    return safe_open(path, framework="pt")


def _others(metadata: Mapping[str, str]) -> dict[str, torch.dtype]:
    """The types of tensors that are kept as bytes."""
    others = {name: getattr(torch, dtype) for name, dtype in json.loads(metadata.get(BYTES_OF, "{}")).items()}
    if not all(isinstance(dtype, torch.dtype) for dtype in others.values()):
        raise ValueError(f"{BYTES_OF} names {others}")
    return others


def _from_bytes(tensors: dict[str, Tensor], others: Mapping[str, torch.dtype]) -> None:
    for name, dtype in others.items():
        tensors[name] = tensors[name].view(dtype).squeeze(-1)


def check_is_file(path: Path, kind: str) -> None:
    """Refuse what is missing or a folder."""
    if not os.path.isfile(path):  # names that are too long are no error to it
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise CheckpointError(f"{path} {what}: expected {kind}")


@contextmanager
def _reading(where: str | Path, kind: str) -> Iterator[None]:
    """Whatever the library makes of bytes that are wrong becomes one clear error."""
    try:
        yield
    except (
        SafetensorError,
        OSError,
        ValueError,
        RuntimeError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
        struct.error,
    ) as error:
        raise CheckpointError(
            f"{where} cannot be read ({error}): expected {kind} as a whole safetensors file; "
            "it may be truncated, corrupted or of another program; fetch or save it again"
        ) from error


def _check_sum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: str | Path) -> None:
    for name, compute in CHECKSUMS.items():
        wanted = metadata.get(name)
        if wanted is not None and wanted != compute(tensors.items()):
            raise CheckpointError(
                f"{where} is corrupted: its tensors do not have the checksum they were written with, "
                f"{wanted}; fetch or save it again"
            )


def digest(tensors: Iterable[tuple[str, Tensor]], *also: str) -> str:
    """A short hash of texts and of the tensors' names, types, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()  # three times as fast as blake2b where the processor knows it
    for text in also:
        total.update(f"{len(text)}:{text}".encode())
    for part in _parts(tensors):
        total.update(part)
    return total.hexdigest()[:32]


def crc32(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A checksum of the same that finds damage but is no fingerprint; three times as fast as `digest`."""
    total = 0
    for part in _parts(tensors):
        total = zlib.crc32(part, total)
    return f"{total:08x}"


def _parts(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[bytes | memoryview]:
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        yield f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode()
        flat = tensor.detach().cpu().contiguous().flatten()
        yield flat.view(torch.uint8).numpy().data


CHECKSUMS: dict[str, Callable[[Iterable[tuple[str, Tensor]]], str]] = {"checksum": digest, "crc32": crc32}
"""By the key under which files have them. States once had the first one, and models have it."""
