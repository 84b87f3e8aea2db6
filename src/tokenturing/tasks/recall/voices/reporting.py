"""Progress of work on one item after another."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tokenturing.tasks.contract import Report

Item = TypeVar("Item")


def reported(items: Iterable[Item], total: int, what: str, report: "Report | None") -> Iterator[Item]:
    """Pass items on, and report each once it is done: when the next one is asked for."""
    for done, item in enumerate(items, 1):
        yield item
        if report is not None:
            report(what, done, total)
