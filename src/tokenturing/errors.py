"""Errors for people: what came, what was expected, what to do."""

import difflib
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path


class TokenTuringError(ValueError):
    """The base of every error that a caller of this library can put right."""


class ShapeError(TokenTuringError):
    """A tensor has another shape or type than the one expected."""


class OptionError(TokenTuringError):
    """An option or a key is unknown, or its value does not fit."""


class CheckpointError(TokenTuringError):
    """A file or folder cannot be read: corrupted, truncated, foreign, or of a newer version."""


class MissingExtraError(ImportError):
    """Optional packages are missing; the message says how to install them.

    Args:
        package: its name; of several, with commas between them.
        extra: of this package, that has it; several with commas too.
    """

    def __init__(self, package: str, extra: str):
        are, them = ("are", "them") if "," in package else ("is", "it")
        super().__init__(f"{package} {are} not installed; install {them} with: pip install '{_this_package()}[{extra}]'")
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """So that a worker process can hand it to its parent."""
        return type(self), (self.package, self.extra)


def _this_package() -> str:
    """What pip knows this package by: its name once it is installed, and else the checkout that it runs from."""
    try:
        importlib.metadata.version("tokenturing")
    except importlib.metadata.PackageNotFoundError:
        checkout = Path(__file__).parents[2]
        return str(checkout) if (checkout / "pyproject.toml").exists() else "tokenturing"
    return "tokenturing"


def closest(name: str, valid: Iterable[str]) -> str:
    """A phrase that lists the valid names, the nearest first."""
    names = list(valid)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"one of {', '.join(repr(n) for n in names)}{hint}"


def choose(option: str, value: str, valid: Iterable[str]) -> str:
    """Return `value` if it is a valid choice for `option`, else raise an OptionError that names the nearest."""
    names = list(valid)
    if value not in names:
        raise OptionError(f"{option}={value!r} is not known: expected {closest(value, names)}")
    return value
