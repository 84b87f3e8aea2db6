"""A small Token Turing Machine learns from nothing to recall the last digits that it saw.

Short streams of real handwritten digits (scikit-learn's, 8 x 8) with noise between them; at every step the machine
is to name the last, second last ... digit. Nothing is pretrained: eyes, memory and answers learn together.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenturing.models.machine import TokenTuringMachine
from tokenturing.tasks.digits import digit_images

DEPTH = 4
NOTHING = 10
PIXELS = 64
ROWS = 64
STEPS = 20
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
                at = end + int(self.rng.integers(1, 3))
        noise = torch.from_numpy(self.rng.random((rows, steps, PIXELS), np.float32)) * 0.3
        shown = torch.from_numpy(index)
        frames = torch.where(shown.unsqueeze(-1) >= 0, self.images[shown.clamp(min=0)], 0.0)
        return (frames + noise).clamp(max=1), torch.from_numpy(truth)


class SmallRecaller(nn.Module):
    """Pixels -> one token; a Token Turing Machine; its output tokens -> the last DEPTH digits."""

    def __init__(self, width: int = 32, memory_tokens: int = 8, read_tokens: int = 4):
        super().__init__()
        self.eye = nn.Sequential(nn.Linear(PIXELS, 64), nn.ReLU(), nn.Linear(64, width), nn.LayerNorm(width))
        self.memory = TokenTuringMachine(width, memory_tokens, read_tokens, layers=1, heads=2, input_tokens=1, hidden=2 * width)
        self.head = nn.Linear(read_tokens * width, DEPTH * (NOTHING + 1))

    def forward(self, frames: Tensor) -> Tensor:
        """frames [B, T, 64] -> logits [B, T, DEPTH, 11]"""
        tokens = self.eye(frames).unsqueeze(-2)
        y, _ = self.memory(tokens)
        return self.head(y.flatten(-2)).unflatten(-1, (DEPTH, NOTHING + 1))


@dataclass
class Learned:
    """The course of the training."""

    parameters: int
    updates: int = 0
    seconds: list[float] = field(default_factory=list)
    shares: list[list[float]] = field(default_factory=list)
    """for each of the seconds, the share right of the last, second last ... digit on held-out images"""


class Point(NamedTuple):
    """How far the training is."""

    seconds: float
    share_done: float
    updates: int
    loss: float


def learn(seconds: float, report: Callable[[Point, Learned], None], seed: int = 0) -> Learned:
    """Train for so many seconds of wall-clock time, reporting every point of the curve."""
    torch.manual_seed(seed)
    model = SmallRecaller()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.01, betas=(0.9, 0.98))
    streams, held_out = Streams("train", seed), Streams("test", seed + 1).draw(128, 2 * STEPS)
    learned = Learned(sum(parameter.numel() for parameter in parameters))
    began, due = time.monotonic(), 0.0
    while True:
        elapsed = time.monotonic() - began
        done = min(elapsed / seconds, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(learned.updates, done)
        loss = _update(model, optimizer, parameters, streams)
        learned.updates += 1
        if elapsed >= due or done == 1.0:
            due = elapsed + EVALUATE_EVERY
            learned.seconds.append(elapsed)
            learned.shares.append(held_out_shares(model, *held_out))
            report(Point(elapsed, done, learned.updates, loss), learned)
        if done == 1.0:
            return learned


def rate_at(updates: int, share_done: float) -> float:
    """A short warm-up, then a cosine over the time there is."""
    return RATE * min(1.0, (updates + 1) / 50) * (0.01 + 0.495 * (1 + math.cos(math.pi * share_done)))


def _update(model: SmallRecaller, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], streams: Streams) -> float:
    frames, truth = streams.draw(ROWS, STEPS)
    loss = F.cross_entropy(model(frames).flatten(0, 2), truth.flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def held_out_shares(model: SmallRecaller, frames: Tensor, truth: Tensor) -> list[float]:
    """The share right of each of the last DEPTH digits, once there were as many."""
    right = model(frames).argmax(-1) == truth
    there = truth != NOTHING
    return [float(right[..., k][there[..., k]].float().mean()) for k in range(DEPTH)]
