"""Places beside a file or folder in which the next one is written: one for each writer, and none is left behind for good."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial"
"""how hidden names end"""
LONGEST_NAME = 100
"""bytes of a name that are repeated in a hidden one: file systems take 255, some 143"""


@contextmanager
def aside(target: Path, *, folder: bool) -> Iterator[Path]:
    """An empty file or folder beside `target` that is ours alone, and gone at the end unless it was renamed.

    Its name is the same every time, so that what a killed process left is used again and does not add up. Who writes holds a
    lock on it; those who write at the same time take the next name. Errors of the system name `target`, not the hidden place.
    """
    for number in count():
        partial = beside(target, str(number) if number else "")
        with _named(partial, target):
            handle = _claim(partial, folder)
        if handle is not None:
            break
    ours = partial.lstat()
    try:
        with _named(partial, target):
            yield partial
    finally:
        with suppress(FileNotFoundError):
            if os.path.samestat(ours, partial.lstat()):  # else it was renamed, and the name may be another writer's by now
                delete(partial)
        _close(handle)


@contextmanager
def _named(partial: Path, target: Path) -> Iterator[None]:
    """Errors about the hidden place and what is in it name the place that was asked for."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str | Path) and Path(error.filename).is_relative_to(partial):
            error.filename = str(target / Path(error.filename).relative_to(partial))
            if error.filename == error.filename2:
                error.filename2 = None
        raise


def _claim(partial: Path, folder: bool) -> int | None:
    """A handle on this file or folder, which is empty and locked; None: someone has it."""
    made = True
    try:
        if folder:
            partial.mkdir()
        else:
            partial.touch(exist_ok=False)
    except FileExistsError:
        made = False
    except KeyboardInterrupt:
        with suppress(OSError):
            partial.rmdir()
        raise
    if fcntl is None:
        return -1 if made else None
    try:
        handle = _locked(partial, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):  # another writer has it, or had it and put it in its place
        return None
    except OSError:  # no locks here, or another user's: then only what was not there is ours
        return -1 if made else None
    if handle is not None and not made:
        for left in partial.iterdir() if folder else ():
            delete(left)
    return handle


def _locked(path: Path, how: int) -> int | None:
    """A handle with a lock on the file or folder at `path`; None: another one is there meanwhile."""
    handle = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, how)
        same = os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        same = False
    except OSError:
        os.close(handle)
        raise
    if same:
        return handle
    os.close(handle)
    return None


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """With the lock on the folder that is there: whoever put it there may not be done yet."""
    handle: int | None = -1
    if fcntl is not None:
        with suppress(OSError):
            while (handle := _locked(folder, fcntl.LOCK_EX)) is None:
                pass
    try:
        yield
    finally:
        _close(handle)


def _close(handle: int | None) -> None:
    if handle is not None and handle >= 0:
        os.close(handle)


def beside(path: Path, tag: str | None = None) -> Path:
    """A hidden name in the same folder, so that a rename is one move; without a tag, one that nothing else uses."""
    tag = secrets.token_hex(4) if tag is None else tag
    name = os.fsencode(path.name)
    short = path.name if len(name) <= LONGEST_NAME else hashlib.sha256(name).hexdigest()
    return path.with_name(f".{short}.{tag}{PARTIAL}" if tag else f".{short}{PARTIAL}")


def delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
