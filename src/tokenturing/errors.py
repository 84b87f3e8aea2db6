"""Errors for people: what came, what was expected, what to do."""

import difflib
import errno
import importlib.metadata
import re
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


SPELLED_AN, SPELLED_A = "AEFHILMNORSX", re.compile(r"[Uu](?:ni|se|sa)|[Ee]u|[Oo]n(?:e|ce)")
"""letters whose names begin with a vowel, and words that begin with one as they are written but not as they are said"""


def a(name: str | type) -> str:
    """A name, or that of a class, behind its article: "an LSTM", "a GRU", "an int"."""
    word = name if isinstance(name, str) else name.__name__
    letters = (len(word) > 1 and word[1].isupper()) or word == "ndarray"  # said letter by letter
    an = word[:1].upper() in SPELLED_AN if letters else word[:1] in "aeiouAEIOU" and not SPELLED_A.match(word)
    return f"{'an' if an else 'a'} {word}"


PLAIN_WORDS = {
    errno.ENOENT: "there is no file or folder {}",
    errno.EACCES: "{} may not be read or written by this user: change its permissions, or name another place",
    errno.EPERM: "{} may not be read or written by this user: change its permissions, or name another place",
    errno.EISDIR: "{} is a folder: expected a file",
    errno.ENOTDIR: "{} has a file in the middle of its path: expected folders there",
    errno.EEXIST: "{} is there already: expected a folder, or a name that is free",
    errno.ENOSPC: "there is no room left for {}: free some on that disk, or name another place",
    errno.EROFS: "{} is on a disk that cannot be written to: name another place",
    errno.ENAMETOOLONG: "the name {} is too long: expected a shorter one",
}
_PARTIAL = re.compile(r"\.([^/\\]+?)(\.[0-9a-f]+)?\.partial$")
"""names under which `files` writes first"""
_NUMBERED = re.compile(r"\[(?:Errno|WinError) -?\d+\] ([^:()\[\]]+)(?:: b?(?:'[^']*'|\"[^\"]*\"))?")


def in_words(error: BaseException) -> str:
    """An error in one line, without the numbers and quoted paths of the operating system's."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        name = _PARTIAL.sub(r"\1", str(error.filename2 or error.filename))
        return PLAIN_WORDS.get(error.errno or 0, "{}: " + error.strerror.replace("{", "{{").replace("}", "}}")).format(name)
    return " ".join(_NUMBERED.sub(r"\1", str(error)).split()) or type(error).__name__
