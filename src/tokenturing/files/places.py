"""Whether something can be written at a place, to be asked before long work and not only after it."""

import os
from pathlib import Path

from tokenturing.errors import OptionError


def check_place(what: str, path: str | Path, *, folder: bool = False, filled: bool = False) -> Path:
    """The path of a file (or folder) to write; folders above it may be missing, they are made.

    Args:
        what: the option or argument that names it, for the message.
        path: of the file or folder; one that is there is replaced.
        folder: whether it is a folder.
        filled: whether a folder that is there is not replaced, but gets files one by one.

    Raises:
        OptionError: nothing can be written there.
    """
    place = Path(path)
    named = f"{what} {str(path)[:100]}"
    try:
        target = place.resolve()
        there = target.exists()
        # What a name may be is known to its file system alone: it says so of one that is too long, in any of its parts.
        target.lstat()
    except FileNotFoundError:
        there = False
    except NotADirectoryError:
        raise OptionError(f"{named}: there is a file in the middle of this path: expected folders there") from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{named}: this is no name to write to ({reason}): expected another") from None
    if there and target.is_dir() != folder:
        kinds = ("a file", "a folder") if folder else ("a folder", "a file")
        raise OptionError(f"{named}: this is {kinds[0]}: expected {kinds[1]}, or a name that is free")
    if there and not folder and not target.is_file():  # a device or a pipe, which is written into
        writable = [target]
    elif there and folder:
        writable = [target] if filled else [target, target.parent]
    else:
        writable = [next(above for above in target.parents if above.exists())]
    if not writable[0].is_dir() and not there:
        raise OptionError(f"{named}: {writable[0]} is a file: expected a folder there")
    if not any(os.access(one, os.W_OK) for one in writable):
        raise OptionError(
            f"{named}: {writable[0]} may not be written to by this user: change its permissions, or name another place"
        )
    return place
