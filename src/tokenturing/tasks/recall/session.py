"""A model that watches a file or camera step by step, in constant memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tokenturing.encoders.sound import SpeechEmbedding
from tokenturing.errors import OptionError
from tokenturing.media.steps import MediaStep
from tokenturing.runtime import Runtime, take
from tokenturing.tasks.recall.world.questions import ANSWERS, NOTHING, QUESTIONS

INPUTS = ("frames", "sound", "question", "has_frame", "has_sound")

SURE = 0.7
"""how sure the perception must be, two steps in a row, for a digit to count as noticed"""
GONE = 4
"""steps without it after which the same digit would be noticed anew"""


class Answer(NamedTuple):
    """What the model says to a question."""

    question: str
    answer: str
    confidence: float


class Notice(NamedTuple):
    """The perception sees or hears a digit that was not there before."""

    sense: str
    """"sees" or "hears" """
    digit: int
    confidence: float


@dataclass
class Noticing:
    """Tells when a digit comes, out of the perception's guess at each step."""

    sense: str
    candidate: int = NOTHING
    present: int = NOTHING
    absent: int = 0

    def advance(self, shares: np.ndarray) -> Notice | None:
        """Shares [11] of a step -> the digit that came, if one did."""
        share, digit = (float(shares.max()), int(shares.argmax()))
        if share < SURE:
            digit = NOTHING
        again, self.candidate = digit == self.candidate, digit
        if digit == NOTHING:
            self.absent += 1
            if self.absent >= GONE:
                self.present = NOTHING
            return None
        self.absent = 0
        if digit == self.present or not again:
            return None
        self.present = digit
        return Notice(self.sense, digit, share)


class Watcher:
    """Takes media step by step; questions are asked of a fork of the state, so that asking changes nothing.

    Args:
        model: eyes, ears and memory, exported or behind `tokenturing.export.eager`.
        hears: whether there is a sound track; only then the speech embedding is loaded.

    Raises:
        OptionError: the model is none of the recall task.
    """

    def __init__(self, model: Runtime, hears: bool):
        if set(model.inputs) != set(INPUTS):
            raise OptionError(f"the model takes {', '.join(model.inputs)}: expected one of the recall task")
        self.model = model
        self.embedding = SpeechEmbedding() if hears else None
        self.sound_state = self.embedding.initial_state() if self.embedding else None
        self.state = model.initial_state(1)
        self.before = self.state
        self.inputs: dict[str, np.ndarray] = {}
        self.eyes, self.ears = Noticing("sees"), Noticing("hears")

    def take(self, step: MediaStep) -> list[Notice]:
        """Go on by one step -> what is noticed in it."""
        present = {"frames": step.frame, "sound": self._embed(step.sound)}
        self.inputs = {name: self._absent(name) if array is None else array[None] for name, array in present.items()}
        self.inputs |= {
            "question": np.array([-1]),
            "has_frame": np.array([step.frame is not None]),
            "has_sound": np.array([step.sound is not None]),
        }
        self.before = self.state
        _, self.state, perceived = self.model.step_and_perceive(self.inputs, self.state)
        seen = self.eyes.advance(perceived["seen"][0]) if step.frame is not None else None
        heard = self.ears.advance(perceived["heard"][0]) if step.sound is not None else None
        return [notice for notice in (seen, heard) if notice]

    def _absent(self, name: str) -> np.ndarray:
        shape, dtype = self.model.inputs[name]
        return np.zeros((1, *shape[1:]), dtype)  # type: ignore[arg-type]

    def _embed(self, samples: np.ndarray | None) -> np.ndarray | None:
        if samples is None or self.embedding is None or self.sound_state is None:
            return None
        vector, self.sound_state = self.embedding.step(samples, self.sound_state)
        return vector

    def ask(self, questions: Sequence[str]) -> list[Answer]:
        """Questions asked at the step that was taken last, each alone."""
        if not self.inputs or not questions:
            return []
        rows = [0] * len(questions)
        asked = {name: array[rows] for name, array in self.inputs.items()}
        asked["question"] = np.array([QUESTIONS.index(question) for question in questions])
        logits, _ = self.model.step(asked, take(self.before, rows))
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return [
            Answer(question, ANSWERS[int(share.argmax())], float(share.max()))
            for question, share in zip(questions, shares, strict=True)
        ]
