"""A small Token Turing Machine learns from nothing, for so many seconds."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from tokenturing.tasks.last_digits.task import LastDigits
from tokenturing.train.loop import looking
from tokenturing.train.optim import build_optimizer, set_rate
from tokenturing.train.recipe import TrainOptions

ROWS, STEPS, RATE = 64, 20, 4e-3
EVALUATE_EVERY = 2.5
"""seconds between two points of the curve"""
LEARNED, POINTS = 0.97, 3
"""share right of every digit at so many points in a row that ends the training"""


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
    """Train for at most so many seconds of wall-clock time, until it has learned, reporting every point of the curve."""
    torch.manual_seed(seed)
    task = LastDigits(seed=seed)
    model = task.build()
    optimizer = build_optimizer(model, TrainOptions(weight_decay=0.01))
    streams = task.batches("train", range(ROWS), STEPS, model)
    learned = Learned(sum(parameter.numel() for parameter in model.parameters()))
    began, due = time.monotonic(), 0.0
    while True:
        elapsed = time.monotonic() - began
        done = min(elapsed / seconds, 1.0)
        set_rate(optimizer, rate_at(learned.updates, done))
        loss = task.losses(model.train(), next(streams), None)[0]["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        learned.updates += 1
        if elapsed >= due or done == 1.0:
            due = elapsed + EVALUATE_EVERY
            learned.seconds.append(elapsed)
            with looking(model):
                learned.shares.append(list(task.validate(model).values()))
            report(Point(elapsed, done, learned.updates, loss.item()), learned)
            if done == 1.0 or has_learned(learned):
                return learned


def has_learned(learned: Learned) -> bool:
    """Whether the last points are all as good as it gets."""
    last = learned.shares[-POINTS:]
    return len(last) == POINTS and min(map(min, last)) >= LEARNED


def rate_at(updates: int, share_done: float) -> float:
    """A short warm-up, then a cosine over the time there is."""
    return RATE * min(1.0, (updates + 1) / 50) * (0.01 + 0.495 * (1 + math.cos(math.pi * share_done)))
