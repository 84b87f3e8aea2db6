"""Means over runs, with the 95 % interval of Student's t: what differs by more than the runs of one thing do among themselves."""

import math
from collections.abc import Sequence
from typing import NamedTuple

QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""97.5 % of Student's t with 1, 2, ... degrees of freedom"""
NORMAL = 1.960


class Mean(NamedTuple):
    """Of some runs."""

    value: float
    low: float | None
    """of the 95 % interval; None: one run has none"""
    high: float | None
    runs: int


def mean_of(values: Sequence[float]) -> Mean | None:
    """The mean of runs that are taken for independent; None of none.

    Runs with other seeds on the same data are not quite: then the interval is rather too narrow.
    """
    count = len(values)
    if not count:
        return None
    value = math.fsum(values) / count
    if count == 1:
        return Mean(value, None, None, 1)
    variance = math.fsum((one - value) ** 2 for one in values) / (count - 1)
    half = student(count - 1) * math.sqrt(variance / count)
    return Mean(value, value - half, value + half, count)


def student(degrees: int) -> float:
    """How many standard errors the 95 % interval reaches to each side; from 31 degrees of freedom on rather too many."""
    if degrees <= len(QUANTILES):
        return QUANTILES[degrees - 1]
    return QUANTILES[-1] if degrees < 1000 else NORMAL
