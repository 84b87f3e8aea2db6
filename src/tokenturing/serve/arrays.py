"""Arrays as they are sent."""

import math
from typing import Any

import numpy as np
from msgspec import Struct

from tokenturing.errors import ShapeError

TYPES = ("bool", "float16", "float32", "float64", "int64", "int32", "int16", "uint8")
"""of arrays that may be sent"""
NUMBERS = "bifu"
"""the kinds of numpy's that are such"""
_SENT = {name: np.dtype(name).newbyteorder("<") for name in TYPES} | {"bool": np.dtype(np.uint8)}  # any byte may have come
_NAMES = {np.dtype(name): name for name in TYPES}  # a type's own name takes as long as to send it
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
    """What a client sent as an array of this type. Floats may be rounded; whole numbers and yes or no are what they were.

    Raises:
        ShapeError: it is none, or has numbers that this type cannot hold.
    """
    if not isinstance(value, Array):
        try:
            found = np.asarray(value)
        except ValueError as error:
            raise ShapeError(f"{name} is no array ({error}): expected nested lists of the same lengths") from None
        if found.dtype.kind not in NUMBERS:
            raise ShapeError(f"{name} holds {found.dtype}: expected {dtype}")
        return _cast(name, found, dtype)
    if value.dtype not in TYPES:
        raise ShapeError(f"{name} is {value.dtype[:20]}: expected {dtype}, or one of {', '.join(TYPES)} that it can hold")
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
        if cast.dtype.kind != "f" and not np.array_equal(cast, found):
            expected = "true and false, or 1 and 0" if dtype.kind == "b" else f"whole numbers that {dtype} can hold"
            raise ShapeError(f"{name} has other numbers: expected {expected}")
    if cast.dtype.kind == "f" and not _finite(cast):
        raise ShapeError(f"{name} has NaN, infinite or too large numbers: expected finite ones; send absent tokens as zeros")
    return cast


def _finite(numbers: np.ndarray) -> bool:
    """Whether all are; where their squares add up to something finite, they are, and that is found out faster."""
    flat = numbers.ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.dot(flat, flat) < np.inf) or bool(np.isfinite(flat).all())
