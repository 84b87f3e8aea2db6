"""The minute's questions answered by several: the machine, another memory, and a blind guess."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tokenturing.tasks.recall.watching import Asked

GUESS = "a blind guess"
GROUPS = {"seen": "seen", "heard": "heard", "bound": "heard before x seen", "ago": "how long ago"}
"""first part of a kind of question: what people call it"""


class Score(NamedTuple):
    """How many answers were right; of a guess, how many are to be expected."""

    right: float
    asked: int

    @property
    def share(self) -> float:
        """0 where nothing was asked."""
        return self.right / self.asked if self.asked else 0.0

    def __str__(self) -> str:
        return f"{round(self.right)} of {self.asked}"


def score(asked: Sequence[Asked]) -> Score:
    """Of those who answered."""
    return Score(sum(one.right for one in asked), len(asked))


def guess(asked: Sequence[Asked]) -> Score:
    """Of one who draws among the answers that each question can have, each as likely as the others."""
    return Score(sum(1 / one.possible for one in asked), len(asked))


def by_group(asked: Sequence[Asked]) -> dict[str, list[Asked]]:
    """The questions that were asked, by what people call their kind."""
    found = {title: [one for one in asked if one.kind.split("-")[0] == kind] for kind, title in GROUPS.items()}
    return {title: ones for title, ones in found.items() if ones}


def summary(asked: Sequence[Asked], others: Mapping[str, Sequence[Asked]]) -> str:
    """One line for the terminal."""
    rest = [f"{name} in the same minute {score(answers)}" for name, answers in others.items()]
    return ", ".join([f"Right: machine {score(asked)}", *rest, f"{GUESS} {guess(asked)}"])
