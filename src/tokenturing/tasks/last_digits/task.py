"""The smallest task: which digits were the last four to be seen?

Short streams of real handwritten digits (scikit-learn's, 8 x 8) with noise between them; at every step the model is to name the
last, second last ... digit. Nothing is pretrained: eye, memory and answers learn together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenturing.evaluate.figures import Figure
from tokenturing.models.eager import eager
from tokenturing.options import build, check_arguments, number, parse
from tokenturing.registry import find_class
from tokenturing.runtime import Runtime
from tokenturing.tasks.contract import Batch, Report, Task, device_of, mean
from tokenturing.tasks.digits import digit_images
from tokenturing.tasks.last_digits.model import DEPTH, NOTHING, DigitRecaller
from tokenturing.tasks.last_digits.session import QUESTIONS, DigitSession

SMALL = {"width": 32, "memory_tokens": 8, "read_tokens": 4, "layers": 1, "heads": 2, "hidden": 64}
SPLITS = {"train": 0, "validation": 1, "test": 2}
"""each has images and random numbers of its own"""
ROWS, STEPS = 128, 40
"""of the streams that are validated and tested on"""


class DigitStreams:
    """Streams of one chunk each: digits visible for a step or two, among noise.

    Args:
        split: of the images.
        rows: the global rows.
        steps: T.
        seed: of everything drawn.
    """

    def __init__(self, split: str, rows: range, steps: int, seed: int):
        images, self.labels = digit_images(split)
        self.images = np.concatenate([images, np.zeros_like(images[:1])])  # index -1: no digit
        self.seed, self.rows, self.steps, self.number = [seed, SPLITS[split]], rows, steps, 0

    def __iter__(self) -> "DigitStreams":
        return self

    def __next__(self) -> Batch:
        frames, truths = zip(
            *(self._row(np.random.default_rng([*self.seed, row, self.number])) for row in self.rows), strict=True
        )
        self.number += 1
        reset = torch.zeros(len(self.rows), self.steps, dtype=torch.bool)
        reset[:, 0] = True
        return Batch(torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(truths)), reset)

    def _row(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """frames [T, 8, 8] and the truth int64 [T, DEPTH]: the k-th last digit, NOTHING where there is none."""
        index, truth = np.full(self.steps, -1), np.full((self.steps, DEPTH), NOTHING)
        at = int(rng.integers(0, 3))
        while at < self.steps:
            image, end = int(rng.integers(len(self.labels))), at + int(rng.integers(1, 3))
            index[at:end] = image
            truth[at:, 1:] = truth[at:, :-1].copy()
            truth[at:, 0] = self.labels[image]
            at = end + int(rng.integers(1, 3))
        noise = 0.3 * rng.random((self.steps, *self.images.shape[1:]), np.float32)
        return (self.images[index] + noise).clip(max=1), truth

    def state(self) -> dict[str, int]:
        """How many batches were drawn."""
        return {"number": self.number}

    def restore(self, state: dict[str, int]) -> None:
        """Go on from where `state()` was taken."""
        self.number = state["number"]


@dataclass(frozen=True)
class LastDigitsOptions:
    """The recipe of a model."""

    memory: str = "TokenTuringMachine"
    """class name of the recurrent model"""
    options: dict[str, Any] = field(default_factory=lambda: dict(SMALL))
    """its constructor's arguments"""

    def check(self, where: str) -> None:
        """Raise an error where the memory does not take its options."""
        check_arguments(find_class(self.memory), self.options, f"{where}options.", without=("input_tokens",))


@dataclass(frozen=True)
class EvaluationOptions:
    """What an evaluation takes from the command line."""

    rows: int = number(ROWS, 1)
    """streams to test on"""
    seed: int = number(1, 0)
    """of the streams"""


class LastDigits(Task):
    """Train, validate, evaluate and stream models that name the last digits."""

    Config: ClassVar[type] = LastDigitsOptions
    extras = ("tasks",)

    def __init__(self, options: LastDigitsOptions | None = None, seed: int = 0, report: Report | None = None):
        self.options, self.seed = options or LastDigitsOptions(), seed

    def build(self) -> DigitRecaller:
        """The untrained model."""
        return DigitRecaller(self.options.memory, self.options.options)

    def batches(self, split: str, rows: range, steps: int, model: nn.Module) -> DigitStreams:
        """Streams of the split's images."""
        return DigitStreams(split, rows, steps, self.seed)

    def losses(self, model: nn.Module, batch: Batch, state: Any) -> tuple[dict[str, Tensor], Any]:
        """The cross-entropy of all answers at all steps."""
        logits, state = model(batch.inputs, state, batch.reset)
        total = F.cross_entropy(logits.flatten(0, -2), batch.targets.flatten(), reduction="sum")
        return {"loss": mean(total, torch.tensor(batch.targets.numel()))}, state

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The share right of each of the last digits, once there were as many."""
        batch = next(DigitStreams("validation", range(ROWS), STEPS, self.seed))
        answers = model(batch.inputs.to(device_of(model)))[0].argmax(-1).cpu()
        return {figure.kind: figure.value for figure in _figures(answers, batch.targets)}

    def evaluate(
        self, models: Mapping[str, Any], options: Mapping[str, str], report: Report | None = None
    ) -> dict[str, list[Figure]]:
        """The same on test images, step by step; options are those of `EvaluationOptions`."""
        chosen = build(EvaluationOptions(), {key: parse(value) for key, value in options.items()}, "--")
        batch, found = next(DigitStreams("test", range(chosen.rows), STEPS, chosen.seed)), {}
        for name, model in models.items():
            runtime = model if isinstance(model, Runtime) else eager(model)
            state, answers = runtime.initial_state(chosen.rows), []
            for step in range(STEPS):
                logits, state = runtime.step(batch.inputs[:, step].numpy(), state)
                answers.append(torch.from_numpy(logits.argmax(-1)))
                if report:
                    report(name, step + 1, STEPS)
            found[name] = _figures(torch.stack(answers, dim=1), batch.targets)
        return found

    def tests_like(self, other: Task) -> bool:
        """The options are those of the memory alone."""
        return True

    def session(self, model: Any, media: Any) -> DigitSession:
        """A stream of pictures; the model is one as trained, or on the runtime."""
        return DigitSession(model if isinstance(model, Runtime) else eager(model))


def _figures(answers: Tensor, truth: Tensor) -> list[Figure]:
    """answers and truth int64 [B, T, DEPTH] -> the share right of each depth where there is a digit to name."""
    there = truth != NOTHING
    right = (answers == truth) & there
    return [Figure.share(kind, int(right[..., k].sum()), int(there[..., k].sum())) for k, kind in enumerate(QUESTIONS)]
