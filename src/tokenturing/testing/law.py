"""What a law is: a check with a name, and what can prevent checking a subject."""

from collections.abc import Callable
from dataclasses import dataclass

from tokenturing.testing.subject import Subject


class Unchecked(Exception):  # noqa: N818 (not an error)
    """A law cannot be checked on this subject; the message says why."""


@dataclass(frozen=True)
class Law:
    """A law: its check, and what can prevent checking a subject."""

    check: Callable[[Subject], str | None]
    obstacles: tuple[Callable[[Subject], str | None], ...]

    def obstacle(self, subject: Subject) -> str | None:
        """The first reason why it cannot be checked, or None."""
        return next((why for each in self.obstacles if (why := each(subject))), None)


LAWS: dict[str, Law] = {}


def law(name: str, *obstacles: Callable[[Subject], str | None]) -> Callable[[Callable], Callable]:
    """Register a check in `LAWS`."""

    def register(check: Callable[[Subject], str | None]) -> Callable[[Subject], str | None]:
        LAWS[name] = Law(check, obstacles)
        return check

    return register


def several_rows(subject: Subject) -> str | None:
    return "the inputs have one row" if subject.rows < 2 else None


def several_steps(subject: Subject) -> str | None:
    return "the inputs have one step" if subject.steps < 2 else None


def has_step(subject: Subject) -> str | None:
    return None if subject.step else "the module has no step"


def takes(flag: str) -> Callable[[Subject], str | None]:
    def obstacle(subject: Subject) -> str | None:
        if flag in subject.ignored:
            return f"the call takes any keyword, and {flag!r} changes nothing: name it in the signature to have it checked"
        return None if flag in subject.flags else f"the call takes no {flag!r}"

    return obstacle
