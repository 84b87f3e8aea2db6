"""A model that watches a file or camera step by step, in constant memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenturing import state as states
from tokenturing.encoders.media import MediaStep
from tokenturing.encoders.sound import SpeechEmbedding
from tokenturing.models.recall import SOUND_FEATURES, PerceivedInput, RecallModel
from tokenturing.tasks.questions import ANSWERS, NOTHING, QUESTIONS
from tokenturing.tasks.scenes import SIZE

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

    def advance(self, shares: Tensor) -> Notice | None:
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
        model: eyes, ears and memory.
        hears: whether there is a sound track; only then the speech embedding is loaded.
    """

    def __init__(self, model: RecallModel, hears: bool):
        self.model = model.eval()
        self.embedding = SpeechEmbedding() if hears else None
        self.sound_state = self.embedding.initial_state() if self.embedding else None
        self.state = model.initial_state(1)
        self.before = self.state
        self.perceived: PerceivedInput | None = None
        self.eyes, self.ears = Noticing("sees"), Noticing("hears")

    @torch.no_grad()
    def take(self, step: MediaStep) -> list[Notice]:
        """Go on by one step -> what is noticed in it."""
        frame = np.zeros((SIZE, SIZE), np.float32) if step.frame is None else step.frame
        tokens = self.model.perception(
            torch.from_numpy(frame).unsqueeze(0), torch.from_numpy(self._embed(step.sound)).unsqueeze(0)
        )
        seeing, hearing = step.frame is not None, step.sound is not None
        self.perceived = PerceivedInput(
            tokens, torch.tensor([-1]), torch.tensor([seeing]), torch.tensor([hearing])
        )
        self.before = self.state
        _, self.state = self.model.step(self.perceived, self.state)
        return self._notice(tokens, seeing, hearing)

    def _embed(self, samples: np.ndarray | None) -> np.ndarray:
        if samples is None or self.embedding is None or self.sound_state is None:
            return np.zeros(SOUND_FEATURES, np.float32)
        vector, self.sound_state = self.embedding.step(samples, self.sound_state)
        return vector

    def _notice(self, tokens: Tensor, seeing: bool, hearing: bool) -> list[Notice]:
        seen, heard = (logits[0].softmax(-1) for logits in self.model.perception.classify(tokens))
        found = [self.eyes.advance(seen) if seeing else None, self.ears.advance(heard) if hearing else None]
        return [notice for notice in found if notice]

    @torch.no_grad()
    def ask(self, questions: Sequence[str]) -> list[Answer]:
        """Questions asked at the step that was taken last, each alone."""
        if self.perceived is None or not questions:
            return []
        rows = [0] * len(questions)
        asked = PerceivedInput(*(part[rows] for part in self.perceived))
        asked = asked._replace(question=torch.tensor([QUESTIONS.index(question) for question in questions]))
        logits, _ = self.model.step(asked, states.take(self.before, rows))
        confidence, answer = logits.softmax(-1).max(-1)
        return [
            Answer(question, ANSWERS[int(index)], float(share))
            for question, index, share in zip(questions, answer, confidence, strict=True)
        ]
