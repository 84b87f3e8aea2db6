"""Figures of an evaluation: typed rows, JSON in and out, intervals, and the one place that pools them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenturing.errors import OptionError

READABLE = {
    "TokenTuringMachine": "Token Turing Machine",
    "ScenicTokenTuringMachine": "official Token Turing Machine",
    "MinGRU": "minGRU",
    "Memoryless": "no memory",
    "TemporalMixer": "temporal Mixer",
    "WindowTransformer": "window Transformer",
    "FullTransformer": "full Transformer",
    "RecurrentTransformer": "recurrent Transformer",
    "Retrieval": "retrieval",
}
"""what people call the models, by class name; those that are missing go by it"""
NUMBERS = ("low", "high", "count")


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    kind: str
    """what was asked, or which class"""
    value: float
    low: float
    """of the 95 % interval"""
    high: float
    count: int
    """of cases"""
    measure: str = "accuracy"
    where: Mapping[str, float | str] = field(default_factory=dict)
    """under which conditions, such as {"delay": 0.5}"""

    @classmethod
    def share(cls, kind: str, right: int, count: int, **where: float | str) -> "Figure":
        """`right` of `count`, with Wilson's interval."""
        return cls(kind, right / count if count else 0.0, *wilson(right, count), count, where=where)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the measured number stands under the measure's name."""
        named = {} if self.measure == "accuracy" else {"measure": self.measure}
        return {"kind": self.kind, **self.where, **named, self.measure: self.value, **{n: getattr(self, n) for n in NUMBERS}}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Figure":
        """The inverse of `to_json`.

        Raises:
            OptionError: something is missing.
        """
        measure = str(row.get("measure", "accuracy"))
        if missing := {"kind", measure, *NUMBERS} - set(row):
            raise OptionError(f"a figure lacks {', '.join(sorted(missing))}: expected what `evaluate --json` writes")
        where = {key: value for key, value in row.items() if key not in ("kind", "measure", "model", measure, *NUMBERS)}
        return cls(row["kind"], row[measure], row["low"], row["high"], row["count"], measure, where)


def readable(class_name: str) -> str:
    """What people call a model of that class."""
    return READABLE.get(class_name, class_name)


def pool(figures: Iterable[Figure]) -> Figure | None:
    """Shares of several kinds as one, weighted by their counts; None for none."""
    rows: Sequence[Figure] = list(figures)
    count = sum(row.count for row in rows)
    if not count:
        return None
    right = sum(row.value * row.count for row in rows)
    return Figure("all", right / count, *wilson(round(right), count), count, rows[0].measure)


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share of `right` out of `count`; (0, 1) where nothing was counted."""
    if not count:
        return 0.0, 1.0
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)
