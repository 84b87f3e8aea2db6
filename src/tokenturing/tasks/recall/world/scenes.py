"""Frames of 32 x 32 grey pixels: an occasional drifting digit over noise and clutter."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 32
CLUTTER_IMAGES = 2000


@dataclass(frozen=True)
class Sighting:
    """A digit that is visible from step `first` to step `last`, inclusive."""

    first: int
    last: int
    digit: int
    image: int
    """index into the split's images"""
    size: float
    """pixels across"""
    start: tuple[float, float]
    """centre (x, y) at the first step, in pixels"""
    drift: tuple[float, float]
    """pixels per step"""
    brightness: float
    turn: float
    """rotation in radians"""

    def centre(self, step: int) -> tuple[float, float]:
        """Its centre (x, y) at a step."""
        elapsed = step - self.first
        return self.start[0] + self.drift[0] * elapsed, self.start[1] + self.drift[1] * elapsed


def random_sighting(rng: np.random.Generator, first: int, steps: int, digit: int, image: int) -> Sighting:
    """A sighting of random place and size that drifts within the frame for `steps` steps."""
    size = rng.uniform(11, 20)
    margin = size / 2
    start, end = rng.uniform(margin, SIZE - margin, 2), rng.uniform(margin, SIZE - margin, 2)
    drift = np.clip((end - start) / max(steps - 1, 1), -1.5, 1.5)
    return Sighting(
        first,
        first + steps - 1,
        digit,
        image,
        float(size),
        (float(start[0]), float(start[1])),
        (float(drift[0]), float(drift[1])),
        float(rng.uniform(0.65, 1.0)),
        float(rng.uniform(-0.2, 0.2)),
    )


def clutter_bank(seed: int) -> Tensor:
    """Backgrounds [K, 32, 32]: bars and lines across the frame, gratings, gradients, specks, and empty scenes."""
    rng = np.random.default_rng([seed, 77])
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    images = np.zeros((CLUTTER_IMAGES, SIZE, SIZE), np.float32)
    for image in images[CLUTTER_IMAGES // 5 :]:
        kind = rng.integers(4)
        angle = rng.uniform(0, np.pi)
        along = x * np.cos(angle) + y * np.sin(angle)
        if kind == 0:
            for _ in range(rng.integers(1, 4)):
                offset, thick = rng.uniform(-8, 40), rng.uniform(0.5, 1.5)
                image += np.clip(thick + 0.5 - np.abs(along - offset), 0, 1) * rng.uniform(0.2, 0.6)
        elif kind == 1:
            image += 0.25 * rng.uniform(0.3, 1) * (1 + np.sin(along * rng.uniform(0.4, 2.0) + rng.uniform(0, 6)))
        elif kind == 2:
            image += (along - along.min()) / (np.ptp(along) + 1e-6) * rng.uniform(0.1, 0.5)
        else:
            for _ in range(rng.integers(4, 30)):
                i, j = rng.integers(0, SIZE, 2)
                image[i, j] += rng.uniform(0.3, 0.9)
    return torch.from_numpy(images)


class NoisePool:
    """A seeded pool of pixel noise: the noise of a frame is a stretch of it at a random offset."""

    def __init__(self, seed: int, size: int = 1 << 20):
        generator = torch.Generator().manual_seed(seed)
        self.windows = torch.randn(size, generator=generator).unfold(0, SIZE * SIZE, 1)

    def draw(self, frames: int, rng: np.random.Generator) -> Tensor:
        """[frames, 32, 32], of unit variance"""
        offsets = torch.from_numpy(rng.integers(0, self.windows.shape[0], frames))
        return self.windows[offsets].view(-1, SIZE, SIZE)


def render_digits(images: Tensor, centres: Tensor, sizes: Tensor, turns: Tensor) -> Tensor:
    """Digits [n, 8, 8] at centres [n, 2] (x, y in pixels), of sizes [n], rotated by turns [n] -> frames [n, 32, 32]."""
    axis = torch.arange(SIZE) + 0.5
    half = sizes.view(-1, 1) / 2
    x = ((axis - centres[:, :1]) / half).unsqueeze(1)
    y = ((axis - centres[:, 1:]) / half).unsqueeze(2)
    cos, sin = turns.cos().view(-1, 1, 1), turns.sin().view(-1, 1, 1)
    grid = torch.stack([x * cos + y * sin, y * cos - x * sin], dim=-1)
    return F.grid_sample(images.unsqueeze(1), grid, padding_mode="zeros", align_corners=False).squeeze(1)
