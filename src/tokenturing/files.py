"""Files and folders that are whole or not there: written aside and renamed, checked when read. No torch is needed for these."""

import ctypes
import glob
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tokenturing.errors import CheckpointError, a

LARGEST_JSON = 16 * 2**20
"""bytes; a config.json is a few hundred"""
PARTIAL = ".partial"
LEFT_SECONDS = 3600.0
"""after which a file that was being written is taken for left behind: no writer takes that long over one"""
LONGEST_NAME = 255
"""bytes that file systems give a name"""
RENAME_EXCHANGE, RENAME_SWAP, AT_FDCWD = 2, 2, -100
"""of Linux, of macOS, and of Linux for paths as they are"""


def write_file(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Put `content`, or what it writes into the file that it gets, at `path` in one move: a crash leaves what was there.

    A link to a file goes on pointing to where the new one is.

    Raises:
        CheckpointError: there is a folder at `path`.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: expected a file, or a name that is free")
    partial = beside(path)
    try:
        with partial.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Put a folder with all that `write` writes into the one it gets at `path`, in one move: a crash leaves the old or the new.

    A folder that is there is replaced, with everything in it; a link to a folder goes on pointing to where the new one is.
    Folders above are made. After an error nothing is changed.

    Raises:
        CheckpointError: there is a file at `path`.
    """
    target = path.resolve()
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{path} is a file: expected a folder, or a name that is free")
    partial = beside(target)
    try:
        partial.mkdir(parents=True)
        write(partial)
        for written in [*partial.rglob("*"), partial]:
            _sync(written)
        _put(partial, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # after an exchange, what was there before


def _put(partial: Path, target: Path) -> None:
    """Rename the new folder to the target; an old one that is there is then at `partial`, or gone.

    Where the system can't exchange two folders it takes two renames: killed between them, we leave the old one under its
    hidden name.
    """
    try:
        partial.rename(target)  # a free name, or an empty folder
        return
    except OSError:
        if not target.is_dir():
            raise
    if _exchange(partial, target):
        return
    old = beside(target)
    try:
        target.rename(old)
        partial.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one move; false where the system or the file system can't."""
    first, second = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "linux":
            failed = ctypes.CDLL(None).renameat2(AT_FDCWD, first, AT_FDCWD, second, RENAME_EXCHANGE)
        elif sys.platform == "darwin":
            failed = ctypes.CDLL(None).renamex_np(first, second, RENAME_SWAP)
        else:
            return False
    except AttributeError:  # a C library without it
        return False
    return not failed


def _sync(path: Path) -> None:
    """Have a file's content or a folder's names on the disk, where the system does that."""
    if path.is_symlink() or os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if path.is_dir() else nullcontext():  # some file systems can't sync folders
            os.fsync(handle)
    finally:
        os.close(handle)


def cache_folder() -> Path:
    """Where what can be made again is kept: $TOKENTURING_CACHE, or else ~/.cache/tokenturing."""
    return Path(os.environ.get("TOKENTURING_CACHE") or Path.home() / ".cache" / "tokenturing")


def beside(path: Path) -> Path:
    """A name in the same folder, so that a rename is one move, that nothing else uses; what killed writers left is removed."""
    name = _hidden(path.name)
    with suppress(OSError):
        for left in path.parent.glob(f".{glob.escape(name)}.*{PARTIAL}"):
            if time.time() - left.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.with_name(f".{name}.{secrets.token_hex(4)}{PARTIAL}")


def _hidden(name: str) -> str:
    """The name itself, or as much of it as leaves room for what is added to it."""
    if len(os.fsencode(name)) + len(f"..{8 * 'f'}{PARTIAL}") <= LONGEST_NAME:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def read_json(path: Path, writer: str = "tokenturing.save") -> dict[str, Any]:
    """A JSON object in a folder that `writer` wrote, or a CheckpointError that says what is wrong with the file."""
    try:
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise CheckpointError(f"{path} has {size} bytes: expected a JSON of at most {LARGEST_JSON}")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: expected a folder that {writer} wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not JSON ({error}): fetch or save it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {a(type(content))}: expected a JSON object")
    return content
