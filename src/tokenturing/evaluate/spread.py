"""One figure measured on several folds and with several seeds: its mean, an interval, and how much seeds alone change it."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
STUDENT_MORE = ((20, 2.086), (30, 2.042), (60, 2.0), (math.inf, 1.96))
"""quantiles 0.975 of Student's t for 1, 2, ... degrees of freedom, and for up to so many"""


class Spread(NamedTuple):
    """A mean over folds and seeds."""

    mean: float
    low: float
    """of the 95 % interval; NaN where there is one fold and one seed only"""
    high: float
    by_seed: float
    """standard deviation between seeds on the same fold; NaN of one seed"""
    folds: int
    seeds: int


def spread(values: Mapping[str, Sequence[float]]) -> Spread:
    """The values of each fold, one a seed -> their mean with its interval.

    Folds are tested on different people or videos, seeds of a fold on the same: so it is the folds' means that are independent,
    and the interval is Student's over them. Of one fold it is over the seeds. Values that are not finite are left out.
    """
    folds = [np.array([value for value in of_fold if math.isfinite(value)]) for of_fold in values.values()]
    folds = [of_fold for of_fold in folds if len(of_fold)]
    if not folds:
        return Spread(math.nan, math.nan, math.nan, math.nan, 0, 0)
    means = np.array([of_fold.mean() for of_fold in folds])
    independent = means if len(folds) > 1 else folds[0]
    several = [of_fold.var(ddof=1) for of_fold in folds if len(of_fold) > 1]
    count, half = len(independent), math.nan
    if count > 1:
        half = student(count - 1) * float(independent.std(ddof=1)) / math.sqrt(count)
    mean = float(means.mean())
    by_seed = float(np.sqrt(np.mean(several))) if several else math.nan
    return Spread(mean, mean - half, mean + half, by_seed, len(folds), max(map(len, folds)))


def student(freedom: int) -> float:
    """The quantile 0.975 of Student's t for so many degrees of freedom."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    return next(value for most, value in STUDENT_MORE if freedom <= most)
