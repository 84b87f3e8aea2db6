"""Arrays out of people's files: what is damaged, or holds numbers that nothing can be made of, is refused by name."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tokenturing.errors import OptionError

DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, NotImplementedError, MemoryError, RuntimeError)
"""what numpy raises of files that are no arrays"""
LARGEST_NUMBER = float(np.finfo(np.float32).max)


def read_arrays(file: Path, needed: Sequence[str], others: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of an .npz that are `needed`, and those of the `others` that are there.

    Raises:
        OptionError: it is none, is damaged, or lacks one.
    """
    try:
        with zipfile.ZipFile(file):  # numpy takes other files for arrays or pickles, and says so
            pass
        with np.load(file, allow_pickle=False) as content:
            if not set(needed) <= set(content.files):
                raise OptionError(f"{file} holds {', '.join(content.files)}: expected {' and '.join(needed)}")
            return {name: content[name] for name in content.files if name in (*needed, *others)}
    except OptionError:
        raise
    except DAMAGED as error:
        raise OptionError(f"{file} cannot be read ({error}): expected an .npz with {' and '.join(needed)}") from None


def as_float32(features: np.ndarray, where: str) -> np.ndarray:
    """Numbers [T, ...] as float32.

    Raises:
        OptionError: one is not finite, or too large for that; it names the step.
    """
    with np.errstate(over="ignore"):
        found = features.astype(np.float32)
    finite = np.isfinite(found).all(tuple(range(1, found.ndim)))
    if not finite.all():
        step = int(np.flatnonzero(~finite)[0])
        value = features[step][~np.isfinite(found[step])].ravel()[0]
        raise OptionError(
            f"{where}: step {step} of {len(found)} has {value:g}: expected finite numbers up to {LARGEST_NUMBER:.2g}"
        )
    return found
