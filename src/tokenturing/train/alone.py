"""One run in a folder at a time; one that fails before it has anything to keep leaves no folder."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tokenturing.errors import OptionError
from tokenturing.train.distributed import is_first

LOCK = ".lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other run may write to the folder meanwhile; the processes of one run are one.

    Raises:
        OptionError: another run does.
    """
    ours = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if not is_first():
        yield
        return
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OptionError(f"another process trains in {folder}: wait for it, or choose another --out") from None
    try:
        yield
    except BaseException:
        if ours and [one.name for one in folder.iterdir()] == [LOCK]:
            with suppress(OSError):  # where a file that is open cannot be deleted, or another process has put something there
                (folder / LOCK).unlink()
                folder.rmdir()
        raise
    finally:
        lock.release()
