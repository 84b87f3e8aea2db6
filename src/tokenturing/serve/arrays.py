"""Arrays as they are sent."""

import math
from typing import Any

import numpy as np
from msgspec import Struct

from tokenturing.errors import ShapeError

KINDS = {"bool": "b", "float16": "f", "float32": "f", "float64": "f", "int64": "i", "int32": "i", "int16": "i", "uint8": "u"}
"""the types of arrays that may be sent"""
_SENT = {name: np.dtype(name).newbyteorder("<") for name in KINDS}
_NAMES = {np.dtype(name): name for name in KINDS}  # a type's own name takes as long as to send it
LARGEST_DIMENSIONS, LARGEST_SIZE = 8, 2**31


class Array(Struct, frozen=True):
    """An array: little-endian bytes in C order; in JSON they are base64."""

    dtype: str
    shape: list[int]
    data: bytes


Value = Array | list[Any] | float | bool
"""an array as such, or as nested lists of numbers"""


def array(value: np.ndarray) -> Array:
    """An array as it is sent."""
    if not np.little_endian:
        value = value.astype(value.dtype.newbyteorder("<"))
    return Array(_NAMES.get(value.dtype) or value.dtype.name, list(value.shape), value.tobytes())


def to_numpy(name: str, value: Value, dtype: np.dtype[Any]) -> np.ndarray:
    """What a client sent as an array of this type.

    Raises:
        ShapeError: it is none, or of a kind of numbers that does not fit.
    """
    if not isinstance(value, Array):
        try:
            found = np.asarray(value)
        except ValueError as error:
            raise ShapeError(f"{name} is no array ({error}): expected nested lists of the same lengths") from None
        fits = found.dtype.kind in ("bifu" if dtype.kind == "f" else dtype.kind) or not found.size
        if not fits:
            raise ShapeError(f"{name} holds {found.dtype}: expected {dtype}")
        return _cast(name, found, dtype)
    if value.dtype not in KINDS or KINDS[value.dtype] not in ("bifu" if dtype.kind == "f" else dtype.kind):
        raise ShapeError(f"{name} is {value.dtype[:20]}: expected {dtype}")
    if len(value.shape) > LARGEST_DIMENSIONS or not all(0 <= size <= LARGEST_SIZE for size in value.shape):
        raise ShapeError(f"{name} has shape {str(value.shape)[:80]}: expected at most {LARGEST_DIMENSIONS} sizes from 0 on")
    sent, count = _SENT[value.dtype], math.prod(value.shape)
    if count * sent.itemsize != len(value.data):
        raise ShapeError(f"{name} has {len(value.data)} bytes: expected {count * sent.itemsize} of {value.dtype} {value.shape}")
    return _cast(name, np.frombuffer(value.data, sent).reshape(value.shape), dtype)


def _cast(name: str, found: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if found.dtype == dtype:
        cast = found.copy()  # not a part of the message, which would stay as long as the array
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            cast = found.astype(dtype)
    if cast.dtype.kind == "f" and not _finite(cast):
        raise ShapeError(f"{name} has NaN, infinite or too large numbers: expected finite ones; send absent tokens as zeros")
    return cast


def _finite(numbers: np.ndarray) -> bool:
    """Whether all are; where their squares add up to something finite, they are, and that is found out faster."""
    flat = numbers.ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.dot(flat, flat) < np.inf) or bool(np.isfinite(flat).all())
