"""How a picture is to be turned before it is shown: phones record sideways and say so beside the pixels."""

from typing import Any, NamedTuple

import numpy as np

SIDE_DATA = "DISPLAYMATRIX"
"""FFmpeg's name for it: nine 32-bit integers a b u c d v x y w that put the pixel (p, q) at (a p + c q + x, b p + d q + y)"""


class Orientation(NamedTuple):
    """One of the eight ways in which a square can lie: first rows become columns, then each axis is mirrored or not."""

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """[H, W] or [H, W, 3] as stored -> as shown."""
        shown = picture.swapaxes(0, 1) if self.transposed else picture
        shown = shown[:, ::-1] if self.mirrored_x else shown
        return shown[::-1] if self.mirrored_y else shown


UPRIGHT = Orientation()


def orientation_of(frame: Any) -> Orientation:
    """What the file or the camera says of a frame; angles between are taken for the nearest quarter turn."""
    for part in frame.side_data:
        if part.type.name == SIDE_DATA:
            return of_matrix(np.frombuffer(bytes(part), np.int32))
    return UPRIGHT


def of_matrix(matrix: np.ndarray) -> Orientation:
    """A display matrix, int32 [9] -> the orientation; one that maps a side to nothing is no orientation."""
    if len(matrix) != 9:
        return UPRIGHT
    a, b, _, c, d, *_ = (int(part) for part in matrix)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0) if a and d else UPRIGHT
    return Orientation(True, c < 0, b < 0) if b and c else UPRIGHT
