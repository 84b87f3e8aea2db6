"""Frozen encoders of pictures by name, and the tokens of a step."""

from typing import Protocol

import numpy as np

from tokenturing.errors import OptionError, closest
from tokenturing.media.view import View

EFFICIENTNET = "efficientnet-lite0"
LIBRARIES = ("timm", "transformers")
"""those whose models are named as in "timm:NAME" """
NAMES = (EFFICIENTNET, "timm:NAME", "transformers:NAME", "transformers:FOLDER")


class Encoder(Protocol):
    """One that was trained elsewhere and stays as it is."""

    name: str
    hash: str
    """of its weights and of how pictures are prepared for it"""
    frame_size: int
    """S, pixels"""
    crop: float
    """how much of the side of a picture's largest centred square it is to see"""

    def vector(self, frame: np.ndarray) -> np.ndarray:
        """A frame in colour, float32 [S, S, 3] in 0..1 -> what it makes of the whole of it, float32 [F]."""
        ...

    def map(self, frame: np.ndarray) -> np.ndarray:
        """The same frame -> what it makes of its parts, float32 [h, w, F]."""
        ...


def open_encoder(name: str, *, download: bool = False, threads: int = 1) -> Encoder:
    """The encoder of that name, ready.

    Args:
        name: "efficientnet-lite0", "timm:NAME", "transformers:NAME"; instead of a name the folder of a model on this machine.
        download: whether weights that are not on this machine may be fetched from the network.
        threads: cores for one frame.

    Raises:
        OptionError: there is none, or its weights are not here.
        MissingExtraError: the packages that it needs are not installed.
    """
    if name == EFFICIENTNET:
        from tokenturing.features.efficientnet import EfficientNet

        return EfficientNet(threads)
    library, _, model = name.partition(":")
    if library not in LIBRARIES or not model:
        raise OptionError(f"encoder={name!r} is not known: expected {closest(name, NAMES)}")
    if library == "timm":
        from tokenturing.features.libraries import Timm

        return Timm(model, download)
    from tokenturing.features.libraries import Transformers

    return Transformers(model, download)


def view_of(encoder: Encoder, rate: float, sound: bool = False) -> View:
    """What media have to give for it, at so many steps a second."""
    return View(frame_size=encoder.frame_size, colour=True, crop=encoder.crop, rate=rate, sound=sound)


class Tokens:
    """The tokens of each step of one stream of frames; a picture that stands still is encoded once.

    Args:
        encoder: frozen.
        grid: 1: one token, the vector of the whole frame; n: n x n tokens, means over the parts of its map.
    """

    def __init__(self, encoder: Encoder, grid: int = 1):
        if grid < 1:
            raise OptionError(f"grid={grid}: expected 1 for one token, or n for n x n")
        self._encoder, self._grid = encoder, grid
        self._frame: np.ndarray | None = None
        blank = np.zeros((encoder.frame_size, encoder.frame_size, 3), np.float32)
        self._tokens = self._made(blank)
        self.shape: tuple[int, int] = self._tokens.shape  # type: ignore[assignment]
        """N, F"""

    def take(self, frame: np.ndarray | None) -> np.ndarray:
        """float32 [S, S, 3] in 0..1 -> float32 [N, F]; zeros where there is no picture."""
        if frame is None:
            return np.zeros(self.shape, np.float32)
        if self._frame is None or not np.array_equal(frame, self._frame):
            self._frame, self._tokens = frame, self._made(frame)
        return self._tokens

    def _made(self, frame: np.ndarray) -> np.ndarray:
        if self._grid == 1:
            return self._encoder.vector(frame)[None]
        return grid_of(self._encoder.map(frame), self._grid)


def grid_of(parts: np.ndarray, grid: int) -> np.ndarray:
    """Means over the parts of a map: [h, w, F] -> [grid * grid, F], row by row.

    Raises:
        OptionError: the map has too few parts.
    """
    height, width, _ = parts.shape
    if grid > min(height, width):
        raise OptionError(f"grid={grid}: this encoder's map has {height} x {width} parts: expected at most {min(height, width)}")
    rows, columns = _bounds(height, grid), _bounds(width, grid)
    cells = [parts[top:bottom, left:right].mean((0, 1)) for top, bottom in rows for left, right in columns]
    return np.stack(cells).astype(np.float32)


def _bounds(size: int, grid: int) -> list[tuple[int, int]]:
    """Beginning and end of each cell; where they do not divide the size they overlap, as PyTorch's adaptive pooling has it."""
    return [(index * size // grid, -(-(index + 1) * size // grid)) for index in range(grid)]
