"""Frozen dataclasses as options: built from nested plain values, checked name by name and range by range.

An unknown key is an error that names the nearest valid one; a value out of range one that says key, value and range.
"""

import inspect
import math
import tomllib
import types
from collections.abc import Callable, Mapping
from dataclasses import field, fields, is_dataclass, replace
from typing import Any, TypeVar, Union, get_args, get_origin

from tokenturing.errors import OptionError, a, closest

Options = TypeVar("Options")


def number(default: float, low: float | None = None, high: float | None = None, *, above: float | None = None) -> Any:
    """A field for a number within low <= n <= high and n > above; all ints or floats of a tuple."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def numbers(default: tuple[float, ...], low: float | None = None, high: float | None = None) -> Any:
    """A field for as many numbers as the default has, each within low <= n <= high."""
    return field(default=default, metadata={"low": low, "high": high, "above": None})


def choice(default: str, *others: str) -> Any:
    """A field for one of some words."""
    return field(default=default, metadata={"choices": (default, *others)})


def switch(default: bool, *words: str) -> Any:
    """A field that is true or false, or one of some words, each a manner of being on."""
    return field(default=default, metadata={"words": words})


def build(default: Options, content: Mapping[str, Any], where: str = "") -> Options:
    """`default` with the values of `content`, tables within tables.

    A class may have a method `check(where)`, which raises an OptionError where its values do not go together.

    Raises:
        OptionError: a key is unknown, or a value has another type or is out of range.
    """
    known = {f.name: f for f in fields(default)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{where}{key}"
        if key not in known:
            raise OptionError(f"{name} is not known: expected {closest(key, known)}")
        changes[key] = _fit(name, getattr(default, key), value, known[key].metadata)
    built = replace(default, **changes)  # type: ignore[type-var]
    if check := getattr(built, "check", None):
        check(where)
    return built


def _fit(name: str, default: Any, value: Any, metadata: Mapping[str, Any]) -> Any:
    if is_dataclass(default):
        if not isinstance(value, Mapping):
            raise OptionError(f"{name}={value!r}: expected a table [{name}]")
        return build(default, value, f"{name}.")
    if words := metadata.get("words"):
        if not (isinstance(value, bool) or value in words):
            *others, last = "true", "false", *map(repr, words)
            raise OptionError(f"{name}={value!r}: expected {', '.join(others)} or {last}")
        return value
    if isinstance(default, tuple):
        return _fit_tuple(name, default, value, metadata)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        raise OptionError(f"{name}={value!r} is {a(type(value))}: expected {a(type(default))}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_range(name, value, metadata)
    if (choices := metadata.get("choices")) and value not in choices:
        raise OptionError(f"{name}={value!r}: expected {closest(value, choices)}")
    return value


def _fit_tuple(name: str, default: tuple, value: Any, metadata: Mapping[str, Any]) -> tuple:
    if not isinstance(value, list | tuple):
        raise OptionError(f"{name}={value!r} is {a(type(value))}: expected a list")
    if not default:  # as many texts as there are
        if not all(isinstance(part, str) for part in value):
            raise OptionError(f"{name}={list(value)}: expected a list of texts")
        return tuple(value)
    if len(value) != len(default):
        raise OptionError(f"{name}={list(value)} has length {len(value)}: expected {len(default)} numbers")
    return tuple(_fit(name, one, part, metadata) for one, part in zip(default, value, strict=True))


def _check_range(name: str, value: float, metadata: Mapping[str, Any]) -> None:
    low, high, above = (metadata.get(key) for key in ("low", "high", "above"))
    fits = math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
    if not fits or (above is not None and value <= above):
        parts = [f"at least {low:g}" if low is not None else "", f"above {above:g}" if above is not None else ""]
        parts += [f"at most {high:g}" if high is not None else ""]
        expected = " and ".join(part for part in parts if part) or "a finite number"
        raise OptionError(f"{name}={value:g} is out of range: expected {expected}")


def merge(default: Any, base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `over` says instead; tables that are dataclasses in `default` are merged, anything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        inner = getattr(default, key, None)
        if is_dataclass(inner) and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(inner, merged[key], value)
        else:
            merged[key] = value
    return merged


def assign(content: dict[str, Any], setting: str) -> None:
    """Put "table.key=value" into nested content; the value is read as TOML does, or else as text."""
    name, found, text = setting.partition("=")
    if not found or not all(name.strip().split(".")):
        raise OptionError(f"--set {setting!r}: expected key=value, as in train.rate=3e-4")
    put(content, name.strip(), parse(text.strip()))


def put(content: dict[str, Any], name: str, value: Any) -> None:
    """Put a value into nested content under a dotted name; tables on the way are made."""
    keys = name.split(".")
    if not all(keys):
        raise OptionError(f"{name!r} is no name of a key: expected one such as train.rate")
    for key in keys[:-1]:
        inner = content.setdefault(key, {})
        if not isinstance(inner, dict):
            raise OptionError(f"--set {name}: {key!r} is a value, not a table")
        content = inner
    content[keys[-1]] = value


def parse(text: str) -> Any:
    """A value as TOML reads it, or else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def check_arguments(cls: Callable[..., Any], arguments: Mapping[str, Any], where: str, *, without: tuple[str, ...] = ()) -> None:
    """Compare arguments with those that a constructor takes: their names, and their types where these are plain.

    Raises:
        OptionError: one is unknown, missing or of another type.
    """
    parameters = {
        name: parameter for name, parameter in inspect.signature(cls).parameters.items() if name not in ("self", *without)
    }
    for name, value in arguments.items():
        if name not in parameters:
            raise OptionError(f"{where}{name} is not known: expected {closest(name, parameters)}")
        wanted = _types(parameters[name].annotation)
        if wanted and not (type(value) in wanted or (type(value) is int and float in wanted)):
            expected = " or ".join(sorted(one.__name__ for one in wanted))
            raise OptionError(f"{where}{name}={value!r} is {a(type(value))}: expected {a(expected)}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise OptionError(f"{where}{name} is missing: {cls.__name__} needs it")


def _types(annotation: Any) -> set[type]:
    """The plain types of an annotation, empty where it has others too."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    plain = (int, float, bool, str, types.NoneType)
    return set(parts) if all(part in plain for part in parts) else set()
