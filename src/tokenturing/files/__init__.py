"""Files and folders that are whole or not there: written aside and renamed, checked when read. No torch is needed for these."""

import ctypes
import errno
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tokenturing.errors import CheckpointError, a
from tokenturing.files.aside import PARTIAL, aside, beside, delete, held

LARGEST_JSON = 16 * 2**20
"""bytes; a config.json is a few hundred"""
RENAME_EXCHANGE, RENAME_SWAP, AT_FDCWD = 2, 2, -100
"""of Linux, of macOS, and of Linux for paths as they are"""
TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
"""a folder with something in it is where another was to go"""


def write_file(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Put `content`, or what it writes into the file that it gets, at `path` in one move: a crash leaves what was there.

    A link to a file goes on pointing to where the new one is, and a file that is replaced hands on its permissions. A pipe or a
    device is written into.

    Raises:
        CheckpointError: there is a folder at `path`, or its name is too long.
    """
    _check_length(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: expected a file, or a name that is free")
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            _put_content(file, content)
        return
    target = path.resolve()
    with aside(target, folder=False) as partial:
        with partial.open("wb") as file:
            with suppress(FileNotFoundError):
                shutil.copymode(target, partial)
            _put_content(file, content)
            file.flush()
            os.fsync(file.fileno())
        try:
            partial.replace(target)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            shutil.copyfile(partial, target)  # a file that is mounted by itself


def path_of(value: Any, name: str) -> Path:
    """What a caller gave as the argument `name`.

    Raises:
        CheckpointError: it is no path, or an empty one, which a variable that is not set would be.
    """
    if not isinstance(value, str | os.PathLike):
        raise CheckpointError(f"{name} is {a(type(value))}: expected a path")
    if not os.fspath(value):
        raise CheckpointError(f"{name} is an empty text: expected a path, such as '.' for the folder that is the current one")
    return Path(value)


def _check_length(path: Path) -> None:
    try:
        path.exists()
    except OSError as error:
        raise CheckpointError(f"{str(path)[:100]}... is no name to write to ({error.strerror})") from error


def _put_content(file: BinaryIO, content: bytes | Callable[[BinaryIO], object]) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content)


def write_folder(path: Path, write: Callable[[Path], object], *, replace: bool = True) -> None:
    """Put a folder with all that `write` writes into the one it gets at `path`, in one move: a crash leaves the old or the new.

    A folder that is there is replaced, with everything in it; a link to a folder goes on pointing to where the new one is.
    Folders above are made. After an error nothing is changed. Files have the permissions of any new file, however `write` made
    them.

    A folder that is empty, mounted or the current one, or that stands where we can't write, stays itself and is filled. Then
    the move is one for each file, that of the file which `write` wrote last at the end: let readers look for that one.

    Args:
        path: of the folder.
        write: gets a folder elsewhere.
        replace: whether a folder that has something in it may be replaced.

    Raises:
        CheckpointError: there is a file at `path`, or its name is too long.
        FileExistsError: there is something in the folder, and it may not be replaced.
    """
    _check_length(path)
    target = path.resolve()
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{path} is a file: expected a folder, or a name that is free")
    if above := next((part for part in target.parents if part.exists() and not part.is_dir()), None):
        raise CheckpointError(f"{above} is a file: expected a folder, for {path.name} to be in")
    inside = target.is_dir() and _must_stay(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with aside(target / target.name if inside else target, folder=True) as partial:
        mode = partial.stat().st_mode
        write(partial)
        for written in [*partial.rglob("*"), partial]:
            if written.is_file() and not written.is_symlink():
                written.chmod(stat.S_IMODE(written.stat().st_mode) | mode & 0o666)
            _sync(written)
        if not replace and _has_content(target):
            raise FileExistsError(f"{path} has something in it")
        if inside:
            _pour(partial, target)
        else:
            _put(partial, target, replace)
        _sync(target.parent)


def _must_stay(folder: Path) -> bool:
    """Whether another folder can't, or should not, take the place of this one."""
    with suppress(FileNotFoundError):  # ours may be gone
        if os.path.samefile(folder, os.curdir):
            return True
    return os.path.ismount(folder) or not os.access(folder.parent, os.W_OK) or not _has_content(folder)


def _has_content(folder: Path) -> bool:
    """Whether there is more in it than what is being written."""
    return folder.is_dir() and any(not name.endswith(PARTIAL) for name in os.listdir(folder))


def _put(partial: Path, target: Path, replace: bool) -> None:
    """Rename the new folder to the target; an old one that is there is then at `partial`, or gone."""
    while not _put_unless_moved(partial, target, replace):
        pass


def _put_unless_moved(partial: Path, target: Path, replace: bool) -> bool:
    """Whether it could be put there; false: another writer took the target away or put its own there meanwhile.

    Where the system can't exchange two folders it takes two renames: killed between them, we leave the old one under its
    hidden name.
    """
    try:
        partial.rename(target)  # a free name, or an empty folder
        return True
    except OSError as error:
        if not target.is_dir():
            if error.errno in TAKEN:
                return False
            raise
        if not replace:
            raise FileExistsError(f"{target} has something in it") from error
    with held(target):  # what stands at `partial` after the exchange is ours to delete
        try:
            shutil.copymode(target, partial)
            was, old = target.lstat(), beside(target)
        except FileNotFoundError:
            return False
        try:
            if _exchange(partial, target):
                return True
            target.rename(old)
            partial.rename(target)
        except OSError as error:
            if old.exists():
                if error.errno in TAKEN:
                    return False
                raise
            if not target.exists():
                return False
            with aside(target / target.name, folder=True) as inner:  # it is mounted there from the same disk
                shutil.copytree(partial, inner, dirs_exist_ok=True)
                _pour(inner, target)
        finally:
            if old.exists() and not target.exists():
                with suppress(OSError):  # another writer's stands there by now
                    old.rename(target)
            shutil.rmtree(old, ignore_errors=True)
            if partial.exists() and os.path.samestat(was, partial.lstat()):
                shutil.rmtree(partial, ignore_errors=True)
    return True


def _pour(partial: Path, target: Path) -> None:
    """Move what is in a folder inside of `target` up into it, in place of all that is there; what was written last comes last."""
    new = sorted(partial.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    if new:
        delete(target / new[-1].name)  # no reader may take half of each for a whole
    for path in new[:-1]:
        if path.is_dir():
            delete(target / path.name)
        path.replace(target / path.name)
    names = {path.name for path in new}
    for path in target.iterdir():
        if path.name not in names and not path.name.endswith(PARTIAL):
            delete(path)
    for path in new[-1:]:
        path.replace(target / path.name)


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
    with suppress(OSError) if path.is_dir() else nullcontext():  # some file systems can't sync folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def cache_folder() -> Path:
    """Where what can be made again is kept: $TOKENTURING_CACHE, or else ~/.cache/tokenturing."""
    return Path(os.environ.get("TOKENTURING_CACHE") or Path.home() / ".cache" / "tokenturing")


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
