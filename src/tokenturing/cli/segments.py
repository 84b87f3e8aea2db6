"""Labels along time: segments out of what is said step by step, and segments out of files."""

import csv
import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from tokenturing.errors import OptionError
from tokenturing.tasks.contract import Segment

KEPT = 200_000
"""segments of a stream without an end"""
LARGEST = 64 * 2**20
"""bytes of a file of segments"""
SHARE = 0.5
"""from which on a label counts where several may be right at once"""


@dataclass
class _Going:
    """A label from its first step on."""

    start: float
    total: float = 0.0
    """of its shares"""
    steps: int = 0


class Segments:
    """Puts steps together that follow each other and have the same label.

    Args:
        labels: C of them.
        several: whether any number of labels may be right at once.
        seconds: of a step.
    """

    def __init__(self, labels: Sequence[str], several: bool, seconds: float):
        self._labels, self._several, self._seconds = list(labels), several, seconds
        self._done: deque[Segment] = deque(maxlen=KEPT)
        self._open: dict[int, _Going] = {}
        self._end = 0.0

    def add(self, start: float, shares: np.ndarray) -> None:
        """A step that begins at `start`, and the share [C] of each label; steps in between were not seen."""
        if start > self._end + self._seconds / 2:
            self._close(set(self._open))
        now = set(np.flatnonzero(shares > SHARE).tolist()) if self._several else {int(shares.argmax())}
        self._close(set(self._open) - now)
        for label in sorted(now):
            one = self._open.setdefault(label, _Going(start))
            one.total, one.steps = one.total + float(shares[label]), one.steps + 1
        self._end = start + self._seconds

    def _close(self, labels: set[int]) -> None:
        for label in sorted(labels):
            self._done.append(self._segment(label, self._open.pop(label)))

    def _segment(self, label: int, one: "_Going") -> Segment:
        return Segment(one.start, self._end, self._labels[label], one.total / one.steps)

    def going(self) -> list[Segment]:
        """Those that go on up to the last step."""
        return [self._segment(label, self._open[label]) for label in sorted(self._open)]

    def since(self, time: float) -> list[Segment]:
        """All that end after a time."""
        found = list(takewhile(lambda one: one.end > time, reversed(self._done)))
        return sorted([*found, *self.going()])


def as_json(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Plain values, times in thousandths of a second."""
    return [
        {"start": round(one.start, 3), "end": round(one.end, 3), "label": one.label, "confidence": round(one.confidence, 4)}
        for one in segments
    ]


def read_segments(file: str | Path) -> list[Segment]:
    """Of a JSON file, a list of {"start", "end", "label"} or such a list under "segments"; or a CSV with these columns.

    Raises:
        OptionError: it is none.
    """
    file = Path(file)
    if not file.is_file():
        raise OptionError(f"there is no file {file}: expected segments, as JSON or CSV with start, end and label")
    if file.stat().st_size > LARGEST:
        raise OptionError(f"{file} has {file.stat().st_size} bytes: expected segments of at most {LARGEST}")
    try:
        rows = _rows(file, file.read_text(encoding="utf-8"))
        found = [Segment(float(row["start"]), float(row["end"]), str(row["label"])) for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise OptionError(f"{file} cannot be read ({reason}): expected segments with start, end and label") from None
    for one in found:
        if not (math.isfinite(one.start) and math.isfinite(one.end) and one.start < one.end):
            raise OptionError(f"{file}: {one.label} from {one.start:g} to {one.end:g} s: expected a start before its end")
    return sorted(found)


def _rows(file: Path, text: str) -> Any:
    if file.suffix.lower() == ".csv":
        return list(csv.DictReader(text.splitlines()))
    content = json.loads(text)
    return content["segments"] if isinstance(content, dict) else content


def agreement(said: Sequence[Segment], true: Sequence[Segment], seconds: float) -> float | None:
    """The share of steps at whose middle one of the labels said is true, of those where the truth is known."""
    right = known = 0
    for one in said:
        for middle in np.arange(one.start + seconds / 2, one.end, seconds):
            there = {other.label for other in true if other.start <= middle < other.end}
            known += bool(there)
            right += one.label in there
    return right / known if known else None
