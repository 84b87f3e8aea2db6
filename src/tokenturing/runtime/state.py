"""The states of exported models: NamedTuples of arrays that can be pickled, copied and sent to other processes."""

import keyword
import re
from collections import namedtuple
from collections.abc import Sequence
from functools import cache
from typing import Any


@cache
def state_type(names: tuple[str, ...]) -> Any:
    """The NamedTuple with these leaves; dots and what else no attribute can have become underscores."""
    fields = [_attribute(name) for name in names]
    # namedtuple renames what is not free; a class made at run time is found again by its names, not by its own.
    plain = namedtuple("State", fields, rename=True)  # type: ignore[misc]
    return type("State", (plain,), {"__slots__": (), "__reduce__": lambda state: (_state, (names, tuple(state)))})


def _state(names: tuple[str, ...], leaves: Sequence[Any]) -> Any:
    return state_type(names)(*leaves)


def _attribute(name: str) -> str:
    plain = re.sub(r"\W", "_", name)
    if not plain or not plain[0].isalpha():
        plain = f"leaf_{plain.lstrip('_')}"
    return f"{plain}_" if keyword.iskeyword(plain) else plain
