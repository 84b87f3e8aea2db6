"""A small Token Turing Machine learns from nothing to recall the last digits that it saw.

Short streams of real handwritten digits (scikit-learn's, 8 x 8) with noise between them; at every step the machine
is to name the last, second last ... digit. Nothing is pretrained: eyes, memory and answers learn together.
"""


import numpy as np
import torch
from torch import Tensor, nn

from tokenturing.models.machine import TokenTuringMachine
from tokenturing.tasks.digits import digit_images

DEPTH = 4
NOTHING = 10
PIXELS = 64
ROWS = 96
STEPS = 24
RATE = 4e-3
EVALUATE_EVERY = 2.5
"""seconds between two points of the curve"""


class Streams:
    """Streams of digits, each visible for a step or two, among noise.

    Args:
        split: of the images.
        seed: of everything drawn.
    """

    def __init__(self, split: str, seed: int):
        images, labels = digit_images(split)
        self.images = torch.from_numpy(images).flatten(1)
        self.labels = torch.from_numpy(labels)
        self.rng = np.random.default_rng(seed)

    def draw(self, rows: int, steps: int) -> tuple[Tensor, Tensor]:
        """frames [B, T, 64] and the truth int64 [B, T, DEPTH]: the k-th last digit, NOTHING where there is none."""
        index = np.full((rows, steps), -1)
        truth = np.full((rows, steps, DEPTH), NOTHING)
        labels = self.labels.numpy()
        for row in range(rows):
            at = int(self.rng.integers(0, 3))
            while at < steps:
                image, end = int(self.rng.integers(len(labels))), at + int(self.rng.integers(1, 3))
                index[row, at:end] = image
                truth[row, at:, 1:] = truth[row, at:, :-1].copy()
                truth[row, at:, 0] = labels[image]
                at = end + int(self.rng.integers(1, 4))
        noise = torch.from_numpy(self.rng.random((rows, steps, PIXELS), np.float32)) * 0.3
        shown = torch.from_numpy(index)
        frames = torch.where(shown.unsqueeze(-1) >= 0, self.images[shown.clamp(min=0)], 0.0)
        return (frames + noise).clamp(max=1), torch.from_numpy(truth)


class SmallRecaller(nn.Module):
    """Pixels -> one token; a Token Turing Machine; its output tokens -> the last DEPTH digits."""

    def __init__(self, width: int = 32, memory_tokens: int = 8, read_tokens: int = 4):
        super().__init__()
        self.eye = nn.Sequential(nn.Linear(PIXELS, 64), nn.ReLU(), nn.Linear(64, width), nn.LayerNorm(width))
        self.memory = TokenTuringMachine(
            width, memory_tokens, read_tokens, layers=1, heads=2, input_tokens=1, hidden=2 * width
        )
        self.head = nn.Linear(read_tokens * width, DEPTH * (NOTHING + 1))

    def forward(self, frames: Tensor) -> Tensor:
        """frames [B, T, 64] -> logits [B, T, DEPTH, 11]"""
        tokens = self.eye(frames).unsqueeze(-2)
        y, _ = self.memory(tokens)
        return self.head(y.flatten(-2)).unflatten(-1, (DEPTH, NOTHING + 1))
