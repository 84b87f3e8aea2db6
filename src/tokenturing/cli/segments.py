"""Labels along time: segments out of what is said step by step, and segments out of files."""

import csv
import io
import json
import math
from collections import deque
from collections.abc import Callable, Sequence
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
ROUNDING = 1e-6
"""of a step"""
EXPECTED = "expected segments with start, end and label"


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
        self.end = 0.0
        """seconds, of the last step"""

    def add(self, start: float, shares: np.ndarray) -> None:
        """A step that begins at `start`, and the share [C] of each label; steps in between were not seen."""
        if start > self.end + self._seconds / 2:
            self._close(set(self._open))
        now = set(np.flatnonzero(shares > SHARE).tolist()) if self._several else {int(shares.argmax())}
        self._close(set(self._open) - now)
        for label in sorted(now):
            one = self._open.setdefault(label, _Going(start))
            one.total, one.steps = one.total + float(shares[label]), one.steps + 1
        self.end = start + self._seconds

    def _close(self, labels: set[int]) -> None:
        for label in sorted(labels):
            self._done.append(self._segment(label, self._open.pop(label)))

    def _segment(self, label: int, one: "_Going") -> Segment:
        return Segment(one.start, self.end, self._labels[label], one.total / one.steps)

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
        raise OptionError(f"there is no file {file}: {EXPECTED}, as JSON or CSV")
    if file.stat().st_size > LARGEST:
        raise OptionError(f"{file} has {file.stat().st_size} bytes: expected segments of at most {LARGEST}")
    try:
        rows = _rows(file, file.read_text(encoding="utf-8-sig"))
    except (ValueError, csv.Error, RecursionError) as error:
        raise OptionError(f"{file} cannot be read ({error}): {EXPECTED}, in UTF-8") from None
    if not rows:
        raise OptionError(f"{file} holds no segments: {EXPECTED}, one or more")
    return sorted(_segment(row, f"{file}: {where}") for where, row in rows)


def _rows(file: Path, text: str) -> list[tuple[str, Any]]:
    """Where in a file each segment is, and what is said of it."""
    if file.suffix.lower() == ".csv":
        lines = csv.DictReader(io.StringIO(text, newline=""))
        lines.fieldnames = [name.strip().lower() for name in lines.fieldnames or ()]
        return [(f"line {lines.line_num}", row) for row in lines]
    content = json.loads(text)
    if isinstance(content, dict):
        content = content.get("segments")
    if not isinstance(content, list):
        raise ValueError("no list of segments")
    return [(f"segment {number}", one) for number, one in enumerate(content, start=1)]


def _segment(row: Any, where: str) -> Segment:
    """One segment of a file.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(row, dict):
        raise OptionError(f"{where} is {str(row)[:60]!r}: {EXPECTED}")
    label = row.get("label")
    if isinstance(label, bool) or not isinstance(label, (str, int)) or not str(label).strip():
        raise OptionError(f"{where} has {'no label' if label in (None, '') else f'the label {label!r}'}: {EXPECTED}")
    times = []
    for name in ("start", "end"):
        try:
            times.append(float(row[name]))
        except (KeyError, TypeError, ValueError):
            came = f"{name} {str(row[name])[:60]!r}" if row.get(name) is not None else f"no {name}"
            raise OptionError(f"{where} has {came}: {EXPECTED}, times in seconds") from None
    start, end = times
    if not (math.isfinite(start) and math.isfinite(end) and start < end):
        raise OptionError(f"{where} has {label} from {start:g} to {end:g} s: expected a start before its end")
    return Segment(start, end, str(label).strip())


def agreement(said: Sequence[Segment], true: Sequence[Segment], seconds: float, until: float | None = None) -> float | None:
    """How much of what was said was true, over the steps of which the truth is known: 0 to 1; None where none is known.

    A step is judged as it is trained: by what goes on where it ends. One of which nothing was said is wrong, and of several
    labels that were said each counts as its share.

    Args:
        said: of steps.
        true: what goes on, and when.
        seconds: of a step.
        until: the end of what was watched; None: of what is known.
    """
    end = max((one.end for one in true), default=0.0) if until is None else until
    count = math.floor(end / seconds + ROUNDING)
    known, said_of, right = (np.zeros(count, int) for _ in range(3))
    truth = _marked(true, count, lambda one: (_ends_before(one.start, seconds), _ends_before(one.end, seconds)))
    ours = _marked(said, count, lambda one: (round(one.start / seconds), round(one.end / seconds)))
    for there in truth.values():
        known += there
    for label, there in ours.items():
        said_of += there
        right += there & truth[label] if label in truth else 0
    share = (right / np.maximum(said_of, 1))[known > 0]
    return float(share.mean()) if len(share) else None


def _marked(segments: Sequence[Segment], count: int, steps: Callable[[Segment], tuple[int, int]]) -> dict[str, np.ndarray]:
    """bool [T] of each label: the steps from one to another of all of its segments."""
    found: dict[str, np.ndarray] = {}
    for one in segments:
        first, last = steps(one)
        found.setdefault(one.label, np.zeros(count, bool))[first:last] = True
    return found


def _ends_before(time: float, seconds: float) -> int:
    """How many steps end before a time."""
    return max(math.ceil(time / seconds - ROUNDING) - 1, 0)
