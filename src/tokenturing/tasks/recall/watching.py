"""A model watches a minute step by step, its memory laid open."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenturing.evaluate.trace import StepTrace, trace_step
from tokenturing.tasks.recall.minute import Minute, as_tensors
from tokenturing.tasks.recall.model import PerceivedInput, RecallModel
from tokenturing.tasks.recall.world.questions import ANSWERS, QUESTIONS


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


@dataclass(frozen=True)
class Moment:
    """One step of the minute as the model lived it."""

    step: int
    sees: tuple[int, float]
    """the digit that the eyes see (10: none) and how sure they are"""
    hears: tuple[int, float]
    trace: StepTrace
    asked: list[Asked]


@torch.no_grad()
def watch(model: RecallModel, minute: Minute) -> Iterator[Moment]:
    """The moments of a minute; a question is asked of a fork of the state, so that asking changes nothing."""
    frames, sound = as_tensors(minute)
    tokens = model.perception(frames, sound)
    seen, heard = (logits.softmax(-1)[0] for logits in model.perception.classify(tokens))
    questions: dict[int, list[tuple[int, int]]] = {}
    for step, question, truth in minute.questions:
        questions.setdefault(step, []).append((question, truth))
    state = model.initial_state(1)
    for step in range(frames.shape[1]):
        asked = [_ask(model, tokens[:, step], state, step, question, truth) for question, truth in questions.get(step, ())]
        _, state, trace = _advance(model, tokens[:, step], state, -1)
        yield Moment(step, _surest(seen[step]), _surest(heard[step]), trace, asked)


def _advance(model: RecallModel, tokens: Tensor, state: tuple, question: int) -> tuple:
    """One traced step -> output tokens, state, trace."""
    present = torch.ones(1, dtype=torch.bool)
    x, mask = model.tokens(PerceivedInput(tokens, torch.tensor([question]), present, present))
    return trace_step(model.memory, x, state, mask)


def _ask(model: RecallModel, tokens: Tensor, state: tuple, step: int, question: int, truth: int) -> Asked:
    y, _, _ = _advance(model, tokens, state, question)
    confidence, answer = model.read_off(y, torch.tensor([question]))[0].softmax(-1).max(-1)
    return Asked(step, QUESTIONS[question], ANSWERS[int(answer)], ANSWERS[truth], float(confidence))


def _surest(shares: Tensor) -> tuple[int, float]:
    share, digit = shares.max(-1)
    return int(digit), float(share)


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
