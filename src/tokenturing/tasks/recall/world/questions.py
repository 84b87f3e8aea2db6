"""The questions of the recall task, their answers, and what is true at each step of a stream.

A digit is *seen* from the first step on which it is visible; a spoken digit is *heard* from the step after the one in
which its last sound falls.
"""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenturing.media.clock import STEP_SECONDS

DEPTH = 4
"""k-th last, k = 1 ... DEPTH"""
AGO_BORDERS = (1.0, 4.0, 16.0, 64.0)
"""seconds; "how long ago" is answered by the class between two borders"""

NOTHING = 10
UNASKED = -1
"""in place of an answer: the question is not to be asked now"""
ANSWERS = [
    *(str(d) for d in range(10)),
    "nothing yet",
    "under 1 s",
    "1 to 4 s",
    "4 to 16 s",
    "16 to 64 s",
    "over 64 s",
]
FIRST_AGO = 11

QUESTIONS = [
    *(f"seen {k} last" for k in range(1, DEPTH + 1)),
    *(f"heard {k} last" for k in range(1, DEPTH + 1)),
    *(f"heard before {x} was seen" for x in range(10)),
    "how long ago seen",
]
SEEN, HEARD, BOUND, AGO = 0, DEPTH, 2 * DEPTH, 2 * DEPTH + 10
KINDS = [
    *(f"seen-{k}" for k in range(1, DEPTH + 1)),
    *(f"heard-{k}" for k in range(1, DEPTH + 1)),
    "bound",
    "ago",
]

FACTS = 3 * DEPTH + 1
"""seen k-th last, heard k-th last, heard when the k-th last was seen, how long ago: what a full memory knows"""
ASKED = 3 * DEPTH + 2
"""questions of one moment in training (`ask_all`)"""


def kind_of(question: int) -> str:
    """The kind of a question: "seen-1" ... "heard-4", "bound" or "ago"."""
    return KINDS[min(question, BOUND)] if question < AGO else "ago"


def ago_class(steps: int) -> int:
    """The answer to "how long ago", for a number of steps."""
    return FIRST_AGO + bisect_right(AGO_BORDERS, steps * STEP_SECONDS)


@dataclass
class Truth:
    """What has been seen and heard so far; `advance` to each step in turn."""

    seen: list[tuple[int, int, int]]
    """(first step, last step, digit) by first step"""
    heard: list[tuple[int, int]]
    """(step from which it counts, digit) in order"""
    seen_count: int = 0
    heard_count: int = 0
    step: int = -1

    def advance(self, step: int) -> None:
        """Move on to a later step."""
        self.step = step
        while self.seen_count < len(self.seen) and self.seen[self.seen_count][0] <= step:
            self.seen_count += 1
        while self.heard_count < len(self.heard) and self.heard[self.heard_count][0] <= step:
            self.heard_count += 1

    def seen_last(self, k: int) -> int:
        """The digit seen k-th last, or NOTHING."""
        return self.seen[self.seen_count - k][2] if k <= self.seen_count else NOTHING

    def heard_last(self, k: int) -> int:
        """The digit heard k-th last, or NOTHING."""
        return self.heard[self.heard_count - k][1] if k <= self.heard_count else NOTHING

    def bound_last(self, k: int) -> int:
        """The digit heard most recently before or while the k-th last seen digit was visible, or NOTHING."""
        if k > self.seen_count:
            return NOTHING
        moment = min(self.step, self.seen[self.seen_count - k][1])
        for counts_from, digit in reversed(self.heard[: self.heard_count]):
            if counts_from <= moment:
                return digit
        return NOTHING

    def bound(self, digit: int) -> int | None:
        """The digit heard most recently before or while `digit` was last seen.

        NOTHING where it was never seen, or nothing had been heard; None (not asked) where it was last seen more than
        DEPTH sightings ago.
        """
        for k in range(1, self.seen_count + 1):
            if self.seen_last(k) == digit:
                return self.bound_last(k) if k <= DEPTH else None
        return NOTHING

    def ago(self) -> int:
        """The class of the time since a digit was last visible, or NOTHING."""
        if not self.seen_count:
            return NOTHING
        return ago_class(max(0, self.step - self.seen[self.seen_count - 1][1]))

    def answer(self, question: int) -> int | None:
        """The true answer to a question now (an index into ANSWERS), or None where it is not to be asked."""
        if question < HEARD:
            return self.seen_last(question - SEEN + 1)
        if question < BOUND:
            return self.heard_last(question - HEARD + 1)
        return self.bound(question - BOUND) if question < AGO else self.ago()

    def facts(self) -> list[int]:
        """All that can be asked about now, as FACTS answers."""
        depths = range(1, DEPTH + 1)
        return [
            *map(self.seen_last, depths),
            *map(self.heard_last, depths),
            *map(self.bound_last, depths),
            self.ago(),
        ]

    def draw_question(self, rng: np.random.Generator) -> tuple[int, int]:
        """A random (question, answer), each kind about equally often."""
        kind = rng.integers(0, 2 * DEPTH + 4)
        if kind < 2 * DEPTH:
            return int(kind), self.answer(int(kind))  # type: ignore[return-value]
        if kind == 2 * DEPTH + 3:
            return AGO, self.ago()
        recent = self.seen_last(int(rng.integers(1, DEPTH + 1)))
        digit = recent if recent != NOTHING and rng.random() < 0.85 else int(rng.integers(10))
        answer = self.bound(digit)
        return (BOUND + digit, answer) if answer is not None else self.draw_question(rng)


def ask_all(facts: Tensor, question: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """All there is to ask of a moment: 2 DEPTH orders, the time, what was heard with each digit seen lately, one of its own.

    The facts do not tell what was heard with a digit that was never seen from one seen too long ago: the moment's own question
    teaches that.

    Args:
        facts: int64 [..., FACTS].
        question: int64 [...], -1: none.
        answer: int64 [...], to that question.

    Returns:
        ASKED questions and their answers, int64 [..., ASKED]; where there is nothing to ask, a question whose answer is UNASKED.
    """
    seen, bound = facts[..., :DEPTH], facts[..., 2 * DEPTH : 3 * DEPTH]
    before = [(seen[..., :k] == seen[..., k, None]).any(-1) for k in range(DEPTH)]
    lost = torch.stack(before, dim=-1) | (seen == NOTHING)
    own = question >= BOUND
    own &= question < AGO
    fixed = torch.tensor([*range(BOUND), AGO], device=facts.device).expand(*question.shape, -1)
    questions = [fixed, BOUND + seen.masked_fill(lost, 0), question.where(own, 0).unsqueeze(-1)]
    answers = [
        facts[..., : 2 * DEPTH],
        facts[..., -1:],
        bound.masked_fill(lost, UNASKED),
        answer.where(own, UNASKED).unsqueeze(-1),
    ]
    return torch.cat(questions, dim=-1), torch.cat(answers, dim=-1)
