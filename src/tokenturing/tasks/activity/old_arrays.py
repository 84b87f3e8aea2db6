"""Dicts of numpy arrays as `np.save` once wrote them, as a pickle: read as data, without ever unpickling.

The stream of opcodes is taken apart by `pickletools`, which runs nothing, and followed here by a machine that knows plain values
and how numpy writes an array. Whatever else a file asks for is refused by name (docs/decisions/0015).
"""

import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tokenturing.errors import OptionError

MAGIC = b"\x93NUMPY"
LARGEST = 2**28
"""bytes of a file"""
MOST_VALUES = 100_000
"""in dicts and lists: a small file can name the same list in itself again and again"""
KINDS = "?biuf"
"""of dtypes that an array may have"""
GLOBALS = {
    "_codecs encode": "encode",
    "numpy dtype": "dtype",
    "numpy ndarray": "ndarray",
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
}
"""all that a file may name, and what stands here for it"""
TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
MARK = object()


class _Made:
    """What a call made, before the values that follow it are in."""

    def __init__(self, kind: str, arguments: tuple):
        self.kind, self.arguments = kind, arguments
        self.value: Any = None


def read_old_arrays(file: Path) -> Any:
    """What is in a pickled `.npy` of plain values and arrays of numbers, such as a dict of them.

    Raises:
        OptionError: the file is no such file, or asks for anything else.
    """
    if not file.is_file():
        raise OptionError(f"there is no file {file}: expected an array file of numpy")
    if file.stat().st_size > LARGEST:
        raise OptionError(f"{file} has {file.stat().st_size} bytes: expected an array file of at most {LARGEST}")
    content = file.read_bytes()
    if not content.startswith(MAGIC) or b"\n" not in content[:4096]:
        raise OptionError(f"{file} does not begin as an array file of numpy does")
    try:
        return _finished(_follow(content[content.index(b"\n") + 1 :]), iter(range(MOST_VALUES)))
    except OptionError as error:
        raise OptionError(f"{file}: {error}") from None
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise OptionError(f"{file} is damaged ({type(error).__name__}: {error}): expected plain values and arrays") from None


def _follow(content: bytes) -> Any:
    """The machine: opcodes in, the value on top of the stack at the end out."""
    stack: list[Any] = []
    known: dict[int, Any] = {}
    argument: Any
    for code, argument, _ in pickletools.genops(content):
        name = code.name
        if name in TEXTS + NUMBERS:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "MARK":
            stack.append(MARK)
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": []}.get(name, ()))
        elif name == "MEMOIZE":
            known[len(known)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT"):
            known[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(known[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            _gather(name, stack)
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            argument = argument or " ".join(reversed([stack.pop(), stack.pop()]))
            if argument not in GLOBALS:
                raise OptionError(f"it asks for {argument!r}, which is no array: it is not read")
            stack.append(GLOBALS[argument])
        elif name == "REDUCE":
            arguments, kind = stack.pop(), stack.pop()
            stack.append(_call(kind, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _fill(stack[-1], state)
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise OptionError(f"it holds {name}, which plain values and arrays do not need: it is not read")
    raise OptionError("it ends in the middle")


def _gather(name: str, stack: list[Any]) -> None:
    """What lies above the last mark, into a tuple, or into the list or dict below the mark."""
    at = len(stack) - 1 - stack[::-1].index(MARK)
    values, stack[at:] = stack[at + 1 :], []
    if name == "TUPLE":
        stack.append(tuple(values))
    elif name == "APPENDS":
        stack[-1].extend(values)
    else:
        stack[-1].update(zip(values[::2], values[1::2], strict=True))


def _call(kind: Any, arguments: tuple) -> Any:
    if kind == "encode" and len(arguments) == 2 and arguments[1] == "latin1":
        return arguments[0].encode("latin1")
    if kind == "dtype":
        dtype = np.dtype(str(arguments[0]))
        made = _Made("dtype", ())
        made.value = dtype
        return made
    if kind == "array":
        return _Made("array", arguments)
    raise OptionError(f"it calls {kind!r}, which makes no array: it is not read")


def _fill(made: Any, state: tuple) -> None:
    """The state that follows a dtype or an array."""
    if not isinstance(made, _Made):
        raise OptionError("it fills in what is no array: it is not read")
    if made.kind == "dtype":
        order = state[1]
        if order in ("<", ">"):
            made.value = made.value.newbyteorder(order)
        return
    _, shape, dtype, fortran, content = state
    if dtype.value.kind == "O" and shape == () and isinstance(content, list):  # what `np.save` makes of a dict
        (made.value,) = content
        return
    if dtype.value.kind not in KINDS or not isinstance(content, bytes):
        raise OptionError(f"it has an array of {dtype.value}: expected numbers")
    flat = np.frombuffer(content, dtype.value)
    made.value = flat.reshape(shape, order="F" if fortran else "C").copy()


def _finished(value: Any, left: Iterator[int]) -> Any:
    """Arrays in place of what stood for them; `left` counts the values."""
    if next(left, None) is None:
        raise OptionError(f"it holds more than {MOST_VALUES} values")
    if isinstance(value, _Made):
        return value.value if isinstance(value.value, np.ndarray | np.dtype) else _finished(value.value, left)
    if isinstance(value, dict):
        return {key: _finished(part, left) for key, part in value.items()}
    return type(value)(_finished(part, left) for part in value) if isinstance(value, list | tuple) else value
