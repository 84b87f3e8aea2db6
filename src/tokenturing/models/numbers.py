"""Numbers among the options of a model, checked when it is built: an option that fits no range is no model's."""

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from tokenturing.errors import OptionError, a

MAY_BE_NONE = ("input_tokens", "hidden")
"""options of every model that may be left to it"""


def check_whole(options: Mapping[str, Any], names: Iterable[str], least: int = 1) -> None:
    """Refuse options of these names that are no whole numbers of at least `least`; a model need not have all of them.

    Raises:
        OptionError: as it says.
    """
    for name in names:
        value = options.get(name)
        if name not in options or (value is None and name in MAY_BE_NONE):
            continue
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise OptionError(f"{name}={value!r} is {a(type(value))}: expected a whole number of at least {least}")
        if value < least:
            raise OptionError(f"{name}={value}: expected at least {least}")


def check_real(name: str, value: Any, *, least: float | None = None, above: float | None = None, below: float = math.inf) -> None:
    """Refuse what is no finite number in the range.

    Raises:
        OptionError: as it says.
    """
    low = f"{least:g} <= " if least is not None else f"{above:g} < " if above is not None else ""
    high = f" < {below:g}" if below < math.inf else ""
    expected = f"{low}{name}{high}" if low or high else "a finite number"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionError(f"{name}={value!r} is {a(type(value))}: expected a number, {expected}")
    number = float(value)
    fits = math.isfinite(number) and number < below and (least is None or number >= least) and (above is None or number > above)
    if not fits:
        raise OptionError(f"{name}={value}: expected {expected}{'' if math.isfinite(number) else ', finite'}")


def check_flag(name: str, value: Any) -> None:
    """Refuse what is not True or False.

    Raises:
        OptionError: as it says.
    """
    if not isinstance(value, bool):
        raise OptionError(f"{name}={value!r} is {a(type(value))}: expected True or False")
