"""A model watches a minute step by step, its memory laid open."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from tokenturing import state as states
from tokenturing.evaluate.trace import StepTrace, trace_step
from tokenturing.media.clock import STEP_SAMPLES, STEP_SECONDS
from tokenturing.media.steps import MediaStep
from tokenturing.models.eager import eager
from tokenturing.tasks.recall.minute import Minute
from tokenturing.tasks.recall.model import RecallModel
from tokenturing.tasks.recall.session import RecallSession
from tokenturing.tasks.recall.world.questions import ANSWERS, FIRST_AGO, QUESTIONS, kind_of
from tokenturing.tasks.recall.world.streams import RecallInput


@dataclass(frozen=True)
class Asked:
    """One question and what came of it."""

    step: int
    question: str
    answer: str
    truth: str
    confidence: float

    @property
    def right(self) -> bool:
        """Whether the answer is true."""
        return self.answer == self.truth

    @property
    def kind(self) -> str:
        """The kind of the question: "seen-1" ... "heard-4", "bound" or "ago"."""
        return kind_of(QUESTIONS.index(self.question))

    @property
    def possible(self) -> int:
        """How many answers such a question can have: the lengths of time or the digits, and "nothing yet"."""
        return len(ANSWERS) - FIRST_AGO + 1 if self.kind == "ago" else FIRST_AGO


@dataclass(frozen=True)
class Moment:
    """One step of the minute as the model lived it."""

    step: int
    sees: tuple[int, float]
    """the digit that the eyes see (10: none) and how sure they are"""
    hears: tuple[int, float]
    trace: StepTrace
    asked: list[Asked]
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """what came in, as in `RecallInput` [1, ...]: pictures, and the sound already embedded"""


def watch(model: RecallModel, minute: Minute) -> Iterator[Moment]:
    """The moments of a minute, as a session lives it."""
    questions: dict[int, list[tuple[int, int]]] = {}
    for step, question, truth in minute.questions:
        questions.setdefault(step, []).append((question, truth))
    session = RecallSession(eager(model), hears=True)
    for step, frame in enumerate(minute.frames):
        samples = minute.waveform[step * STEP_SAMPLES : (step + 1) * STEP_SAMPLES]
        session.take(MediaStep(step * STEP_SECONDS, frame, samples))
        asked = [_ask(session, step, question, truth) for question, truth in questions.get(step, ())]
        sees, hears = (_surest(session.perceived[sense][0]) for sense in ("seen", "heard"))
        yield Moment(step, sees, hears, _trace(model, session), asked, dict(session.inputs))


def answers(model: RecallModel, moments: Sequence[Moment]) -> list[Asked]:
    """What another model, of any memory, answers to the questions of these moments, having lived through the same ones."""
    session, found = RecallSession(eager(model), hears=False), []
    for moment in moments:
        session.take_inputs(moment.inputs)
        found += [_ask(session, one.step, QUESTIONS.index(one.question), ANSWERS.index(one.truth)) for one in moment.asked]
    return found


@torch.no_grad()
def _trace(model: RecallModel, session: RecallSession) -> StepTrace:
    """What happened inside at the session's last step."""
    inputs = RecallInput(**{name: torch.from_numpy(array) for name, array in session.inputs.items()})
    x, mask = model.tokens(inputs)
    like = model.initial_state(1)
    leaves = [torch.from_numpy(leaf) for leaf in session.before]
    before = states.rebuild(like, dict(zip((name for name, _ in states.leaves(like)), leaves, strict=True)))
    return trace_step(model.memory, x, before, mask)[2]


def _ask(session: RecallSession, step: int, question: int, truth: int) -> Asked:
    (answer,) = session.ask(QUESTIONS[question])
    return Asked(step, answer.question, answer.answer, ANSWERS[truth], answer.confidence)


def _surest(shares: np.ndarray) -> tuple[int, float]:
    return int(shares.argmax()), float(shares.max())


@dataclass(frozen=True)
class Watched:
    """A whole minute as arrays."""

    gates: np.ndarray
    """[T, M]"""
    reads: np.ndarray
    """[T, M], the most that any read token takes of each slot"""
    ages: np.ndarray
    """[T, M]"""
    asked: list[Asked]

    @classmethod
    def of(cls, moments: list[Moment]) -> "Watched":
        """Moments in order -> arrays."""
        traces = [moment.trace for moment in moments]
        slots = len(traces[0].gate)
        return cls(
            np.stack([trace.gate for trace in traces]),
            np.stack([trace.read[:, :slots].max(0) for trace in traces]),
            np.stack([trace.age for trace in traces]),
            [asked for moment in moments for asked in moment.asked],
        )
