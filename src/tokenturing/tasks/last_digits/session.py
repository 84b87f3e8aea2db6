"""A model that watches pictures and says which digits were the last."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenturing.errors import choose
from tokenturing.media.steps import MediaStep
from tokenturing.runtime import Runtime
from tokenturing.tasks.contract import NOTHING_YET, Answer, Event
from tokenturing.tasks.last_digits.model import DEPTH, NOTHING, SIDE

QUESTIONS = ("last", "2nd last", "3rd last", "4th last")


class DigitSession:
    """One stream of pictures.

    Args:
        model: on the runtime.
    """

    questions: Sequence[str] = QUESTIONS
    rotation: Sequence[str] = QUESTIONS
    knows: str = "handwritten digits, seen; it takes note of a digit as soon as no other answer is likelier, however unsure it is"

    def __init__(self, model: Runtime):
        self.model, self.state = model, model.initial_state(1)
        self.shares: np.ndarray | None = None
        """[DEPTH, 11], of the last step"""

    def snapshot(self) -> dict[str, np.ndarray]:
        """All that it needs to go on."""
        shares = np.zeros((DEPTH, NOTHING + 1), np.float32) if self.shares is None else self.shares
        state = {f"state.{name}": leaf for name, leaf in zip(self.state._fields, self.state, strict=True)}
        return {"began": np.array([self.shares is not None]), "shares": shares, **state}

    def restore(self, kept: Mapping[str, np.ndarray]) -> None:
        """Go on from where `snapshot()` was taken."""
        self.shares = kept["shares"] if kept["began"][0] else None
        self.state = type(self.state)(*(kept[f"state.{name}"] for name in self.state._fields))

    def take(self, step: MediaStep) -> list[Event]:
        """One step; a new last digit is an event."""
        frame = np.zeros((SIDE, SIDE), np.float32) if step.frame is None else _small(step.frame)
        before = self.ask(QUESTIONS[0])
        logits, self.state = self.model.step(frame[None], self.state)
        weights = np.exp(logits[0] - logits[0].max(-1, keepdims=True))
        self.shares = weights / weights.sum(-1, keepdims=True)
        (now,) = self.ask(QUESTIONS[0])
        changed = not before or before[0].answer != now.answer
        return [Event("sees", now.answer, now.confidence)] if changed and now.answer != NOTHING_YET else []

    def ask(self, *questions: str) -> list[Answer]:
        """The answers as of the last step taken; none before the first."""
        indices = [QUESTIONS.index(choose("question", question, QUESTIONS)) for question in questions]
        return [] if self.shares is None else [_answer(QUESTIONS[index], self.shares[index]) for index in indices]


def _small(frame: np.ndarray) -> np.ndarray:
    """[H, W] -> [SIDE, SIDE] by means, where the sizes are multiples of SIDE."""
    height, width = frame.shape
    return frame.reshape(SIDE, height // SIDE, SIDE, width // SIDE).mean((1, 3)).astype(np.float32)


def _answer(question: str, shares: Any) -> Answer:
    digit = int(shares.argmax())
    return Answer(question, NOTHING_YET if digit == NOTHING else str(digit), float(shares.max()))
