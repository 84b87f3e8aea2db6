"""What callers hand to a runtime, as numpy has it, or an error that says what was expected."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tokenturing.errors import OptionError, ShapeError, a
from tokenturing.runtime.engines import Array


def whole(name: str, value: Any, least: int) -> int:
    """A whole number of at least so much.

    Raises:
        OptionError: it is something else.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool | np.bool_) or number < least:
        raise OptionError(f"{name}={value!r}: expected a whole number, {least} or more")
    return number


def as_array(name: str, value: Any) -> Array:
    """An array, a torch tensor or nested lists as an array.

    Raises:
        ShapeError: numpy can't read it, as a tensor that is not on the CPU, wants a gradient or has a type of torch's own.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ShapeError(f"{name} is {a(type(value))} that numpy can't read ({reason}): expected an array") from error
    if array.dtype == object:
        raise ShapeError(f"{name} is {a(type(value))}: expected an array of numbers")
    return array


def is_array(value: Any) -> bool:
    """Whether it is one array, of numpy or of another library, and not several of them."""
    return hasattr(value, "__array__")


def row_indices(rows: Sequence[int] | Array, count: int) -> Array:
    """Indices, or true in a bool [B], as indices of `count` rows; an empty list has the type of fractions, and names none.

    Raises:
        ShapeError: there are no such rows.
    """
    index = np.atleast_1d(as_array("rows", rows))
    if not index.size:
        return np.zeros(0, np.intp)
    if index.dtype == bool and index.shape == (count,):
        return np.flatnonzero(index)
    if index.dtype.kind not in "iu" or index.ndim != 1 or not -count <= index.min() <= index.max() < count:
        came = f"{index.tolist()}" if index.size <= 8 else f"{index.dtype} {list(index.shape)}"
        raise ShapeError(f"rows {came}: expected indices below {count}, or a bool [{count}]")
    return index
