"""A model that watches a file or camera step by step, in constant memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenturing.encoders.sound import shared_embedding
from tokenturing.errors import OptionError, choose
from tokenturing.media.clock import STEP_SECONDS
from tokenturing.media.steps import MediaStep
from tokenturing.runtime import Runtime
from tokenturing.tasks.contract import NOTHING_YET, Answer, Event
from tokenturing.tasks.recall.world.questions import AGO, ANSWERS, BOUND, HEARD, NOTHING, QUESTIONS
from tokenturing.tasks.recall.world.streams import RecallInput

SURE = {"sees": 0.9, "hears": 0.7}
"""how sure the perception must be, two steps in a row, for a digit to count as noticed; textures look like digits more often
than sounds sound like them"""
GONE = 4
"""steps without it after which the same digit would be noticed anew"""


@dataclass
class Noticing:
    """Tells when a digit comes, out of the perception's guess at each step."""

    sense: str
    candidate: int = NOTHING
    present: int = NOTHING
    absent: int = 0
    surest: float = 0.0
    """the largest share that any digit ever had in both of two steps in a row"""
    before: np.ndarray = field(default_factory=lambda: np.zeros(NOTHING))
    """the digits' shares of the last step"""

    @property
    def noticed(self) -> bool:
        """Whether any digit ever came."""
        return self.surest >= SURE[self.sense]

    def advance(self, shares: np.ndarray) -> Event | None:
        """Shares [11] of a step -> the digit that came, if one did."""
        digits = shares[:NOTHING].copy()
        self.surest = max(self.surest, float(np.minimum(self.before, digits).max()))
        self.before = digits
        share, digit = (float(shares.max()), int(shares.argmax()))
        if share < SURE[self.sense]:
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

    def snapshot(self) -> np.ndarray:
        """float64 [14], all that it needs to go on."""
        return np.array([self.candidate, self.present, self.absent, self.surest, *self.before], np.float64)

    def restore(self, kept: np.ndarray) -> None:
        """Go on from where `snapshot()` was taken."""
        self.candidate, self.present, self.absent = (int(number) for number in kept[:3])
        self.surest, self.before = float(kept[3]), kept[4:].copy()


class RecallSession:
    """Takes media step by step; questions are asked of what the last step gave, so that asking changes nothing.

    A model that was trained where digits come has something to say about them even where none came. So a question about a
    sense that has not noticed any yet is not the model's to answer: the answer is "nothing yet", the more confidently the
    further that sense has stayed from taking something for a digit.

    Args:
        model: eyes, ears and memory on the runtime.
        hears: whether there is a sound track; only then the speech embedding is loaded.

    Raises:
        OptionError: the model is none of the recall task.
    """

    questions: Sequence[str] = tuple(QUESTIONS)
    rotation: Sequence[str] = ("seen 1 last", "heard 1 last", "how long ago seen", "seen 2 last", "heard 2 last")
    knows: str = (
        f"handwritten digits, seen, and English digits, heard; it notes one that it is {SURE['sees']:.0%} sure to see, or "
        f"{SURE['hears']:.0%} to hear, two steps of {1000 * STEP_SECONDS:g} ms in a row"
    )

    def __init__(self, model: Runtime, hears: bool):
        check_inputs(model)
        self.model = model
        self.embedding = shared_embedding() if hears else None
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
        return self.take_inputs(self.encode(step))

    def encode(self, step: MediaStep) -> dict[str, np.ndarray]:
        """What the model gets of a step, arrays [1, ...] by the names of `RecallInput`; the ears go on by it."""
        present = {"frames": step.frame, "sound": self._embed(step.sound)}
        inputs = {name: self._absent(name) if array is None else array[None] for name, array in present.items()}
        has = {"has_frame": np.array([step.frame is not None]), "has_sound": np.array([step.sound is not None])}
        return inputs | has

    def take_inputs(self, inputs: Mapping[str, np.ndarray]) -> list[Event]:
        """The same with the sound already embedded: arrays [1, ...] by the names of `RecallInput`."""
        return self.absorb(inputs, *self.model.step_and_perceive(dict(inputs), self.state))

    def absorb(
        self, inputs: Mapping[str, np.ndarray], y: np.ndarray, state: Any, perceived: Mapping[str, np.ndarray]
    ) -> list[Event]:
        """Take what the model made of a step, alone or among those of other sessions -> what is noticed in it."""
        self.inputs, self.before = dict(inputs), self.state
        self.y, self.state, self.perceived = y, state, dict(perceived)
        seen = self.eyes.advance(self.perceived["seen"][0]) if self.inputs["has_frame"][0] else None
        heard = self.ears.advance(self.perceived["heard"][0]) if self.inputs["has_sound"][0] else None
        return [event for event in (seen, heard) if event]

    def memory(self) -> dict[str, np.ndarray]:
        """For each slot [M] how much of it the last step wrote, 0 to 1, and how many steps ago it was last written anew.

        Where the step gives no gates, the writes are told by what they changed. Models without slots have nothing to show.
        """
        if not {"memory", "age"} <= set(self.state._fields):
            return {}
        if "written" in self.perceived:
            return {"written": self.perceived["written"][0], "age": self.state.age[0]}
        before, after = self.before.memory[0], self.state.memory[0]
        size = np.maximum(np.linalg.norm(before, axis=-1), 1e-6)
        written = (np.linalg.norm(after - before, axis=-1) / size).clip(0, 1)
        return {"written": written.astype(np.float32), "age": self.state.age[0]}

    def snapshot(self) -> dict[str, np.ndarray]:
        """All that it needs to go on."""
        y = np.zeros((1, *self.model.description["output"]), np.float32) if self.y is None else self.y
        state = {f"state.{name}": leaf for name, leaf in zip(self.state._fields, self.state, strict=True)}
        sound = {} if self.sound_state is None else {f"sound.{name}": part for name, part in self.sound_state._asdict().items()}
        senses = {"eyes": self.eyes.snapshot(), "ears": self.ears.snapshot()}
        return {"began": np.array([self.y is not None]), "y": y, **state, **sound, **senses}

    def restore(self, kept: Mapping[str, np.ndarray]) -> None:
        """Go on from where `snapshot()` was taken."""
        self.y = kept["y"] if kept["began"][0] else None
        self.state = self.before = type(self.state)(*(kept[f"state.{name}"] for name in self.state._fields))
        if self.sound_state is not None:
            self.sound_state = type(self.sound_state)(*(kept[f"sound.{name}"] for name in self.sound_state._fields))
        self.eyes.restore(kept["eyes"])
        self.ears.restore(kept["ears"])

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
        indices = [QUESTIONS.index(choose("question", question, QUESTIONS)) for question in questions]
        if self.y is None:
            return []
        answers = {index: self._nothing_yet(index) for index in indices if self._unnoticed(index)}
        left = [index for index in indices if index not in answers]
        if left:
            answers.update(zip(left, self._ask_model(self.y, left), strict=True))
        return [answers[index] for index in indices]

    def _unnoticed(self, question: int) -> list[Noticing]:
        """The senses that a question is about and that have not noticed any digit."""
        about_seen, about_heard = question < HEARD or question >= BOUND, HEARD <= question < AGO
        needed = [self.eyes] * about_seen + [self.ears] * about_heard
        return [sense for sense in needed if not sense.noticed]

    def _nothing_yet(self, question: int) -> Answer:
        """One sense without a digit is enough, so the one that came least near to one tells how sure that is."""
        return Answer(QUESTIONS[question], NOTHING_YET, 1 - min(sense.surest for sense in self._unnoticed(question)))

    def _ask_model(self, y: np.ndarray, questions: Sequence[int]) -> Iterable[Answer]:
        logits = self.model.ask(y, np.array([questions]))[0]
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        for question, share in zip(questions, shares, strict=True):
            yield Answer(QUESTIONS[question], ANSWERS[int(share.argmax())], float(share.max()))


def check_inputs(model: Runtime) -> None:
    """Raise an OptionError where a model is none of the recall task."""
    if set(model.inputs) != set(RecallInput._fields):
        raise OptionError(f"the model takes {', '.join(model.inputs)}: expected one of the recall task")
