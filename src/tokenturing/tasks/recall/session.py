"""A model that watches a file or camera step by step, in constant memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenturing.encoders.sound import SpeechEmbedding
from tokenturing.errors import OptionError, choose
from tokenturing.media.steps import MediaStep
from tokenturing.runtime import Runtime
from tokenturing.tasks.contract import Answer, Event
from tokenturing.tasks.recall.world.questions import ANSWERS, NOTHING, QUESTIONS
from tokenturing.tasks.recall.world.streams import RecallInput

SURE = 0.7
"""how sure the perception must be, two steps in a row, for a digit to count as noticed"""
GONE = 4
"""steps without it after which the same digit would be noticed anew"""


@dataclass
class Noticing:
    """Tells when a digit comes, out of the perception's guess at each step."""

    sense: str
    candidate: int = NOTHING
    present: int = NOTHING
    absent: int = 0

    def advance(self, shares: np.ndarray) -> Event | None:
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
        return Event(self.sense, str(digit), share)


class RecallSession:
    """Takes media step by step; questions are asked of what the last step gave, so that asking changes nothing.

    Args:
        model: eyes, ears and memory on the runtime.
        hears: whether there is a sound track; only then the speech embedding is loaded.

    Raises:
        OptionError: the model is none of the recall task.
    """

    questions: Sequence[str] = tuple(QUESTIONS)
    rotation: Sequence[str] = ("seen 1 last", "heard 1 last", "how long ago seen", "seen 2 last", "heard 2 last")

    def __init__(self, model: Runtime, hears: bool):
        check_inputs(model)
        self.model = model
        self.embedding = SpeechEmbedding() if hears else None
        self.sound_state = self.embedding.initial_state() if self.embedding else None
        self.state = model.initial_state(1)
        self.before = self.state
        """the state before the last step"""
        self.y: np.ndarray | None = None
        """what the last step gave"""
        self.inputs: dict[str, np.ndarray] = {}
        """of the last step"""
        self.perceived: dict[str, np.ndarray] = {}
        """shares [1, 11] of what was seen and heard at the last step"""
        self.eyes, self.ears = Noticing("sees"), Noticing("hears")

    def take(self, step: MediaStep) -> list[Event]:
        """Go on by one step -> what is noticed in it."""
        present = {"frames": step.frame, "sound": self._embed(step.sound)}
        self.inputs = {name: self._absent(name) if array is None else array[None] for name, array in present.items()}
        self.inputs |= {
            "has_frame": np.array([step.frame is not None]),
            "has_sound": np.array([step.sound is not None]),
        }
        self.before = self.state
        self.y, self.state, self.perceived = self.model.step_and_perceive(self.inputs, self.state)
        seen = self.eyes.advance(self.perceived["seen"][0]) if step.frame is not None else None
        heard = self.ears.advance(self.perceived["heard"][0]) if step.sound is not None else None
        return [event for event in (seen, heard) if event]

    def _absent(self, name: str) -> np.ndarray:
        shape, dtype = self.model.inputs[name]
        return np.zeros((1, *shape[1:]), dtype)  # type: ignore[arg-type]

    def _embed(self, samples: np.ndarray | None) -> np.ndarray | None:
        if samples is None or self.embedding is None or self.sound_state is None:
            return None
        vector, self.sound_state = self.embedding.step(samples, self.sound_state)
        return vector

    def ask(self, *questions: str) -> list[Answer]:
        """The answers as of the last step taken; none before the first step.

        Raises:
            OptionError: a question is none of `questions`.
        """
        indices = np.array([QUESTIONS.index(choose("question", question, QUESTIONS)) for question in questions])
        if self.y is None or not questions:
            return []
        logits = self.model.ask(self.y, indices[None])[0]
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return [
            Answer(question, ANSWERS[int(share.argmax())], float(share.max()))
            for question, share in zip(questions, shares, strict=True)
        ]


def check_inputs(model: Runtime) -> None:
    """Raise an OptionError where a model is none of the recall task."""
    if set(model.inputs) != set(RecallInput._fields):
        raise OptionError(f"the model takes {', '.join(model.inputs)}: expected one of the recall task")
