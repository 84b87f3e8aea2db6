"""Streams of labelled features, whatever they were made from, and which of them are trained, validated and tested on."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tokenturing.errors import OptionError

SPLITS = ("train", "validation", "test")
SPLIT_SEED = 20261
AXES = 3
"""of a sensor: its channels are in groups of three"""


@dataclass(frozen=True)
class Stream:
    """One video or recording, or several in a row."""

    name: str
    group: str
    """of streams that are tested on together, such as those of one subject"""
    features: np.ndarray
    """float32 [T, N, F]"""
    labels: np.ndarray
    """int64 [T], -1 where nothing is known; or bool [T, C] where several activities may go on at once"""
    times: np.ndarray
    """float64 [T], seconds at which the steps end"""
    known: np.ndarray
    """bool [T], whether the labels say anything"""
    parts: tuple[int, ...] = (0,)
    """steps at which recordings begin that were put in a row"""


@dataclass
class Streams:
    """A data set."""

    streams: list[Stream]
    classes: list[str]
    multi_label: bool = False
    samples: int = 0
    """of a sensor that one token holds, [samples, channels] flattened; 0: features that are no samples"""
    mirror: tuple[float, ...] = ()
    """signs of a sensor's channels on the other arm; empty: it has no other side"""
    background: tuple[int, ...] = ()
    """classes that stand for nothing going on: left out of mAP, of segments and of latencies"""
    source: dict[str, Any] = field(default_factory=dict)
    """what the features were made by, so that others can be made like them; plain JSON values"""
    problems: list[str] = field(default_factory=list)
    """what was odd, a line each"""
    parts: tuple[str, ...] = ()
    """all groups that there may be, where they are known beforehand, so that a fold stays what it is whatever streams there are;
    empty: those of the streams"""
    by_name: bool = False
    """whether a stream's name alone says if it is validated on, so that others may come and go"""

    @property
    def groups(self) -> list[str]:
        """In order, numbers as numbers."""
        return list(self.parts) or sorted({one.group for one in self.streams}, key=_natural)


class Split(NamedTuple):
    """Which streams are for what."""

    train: list[Stream]
    validation: list[Stream]
    test: list[Stream]


def folds_of(groups: Sequence[str], leave_out: int, test: str = "") -> list[list[str]]:
    """The groups that each fold tests: `leave_out` after `leave_out` in order, or only the one called `test`."""
    if test:
        if test not in groups:
            raise OptionError(f"no stream is of the group {test!r}: expected one of {', '.join(groups)}")
        return [[test]]
    if leave_out >= len(groups):
        raise OptionError(
            f"data.leave_out={leave_out} of {len(groups)} groups: expected fewer, so that some are left to train on"
        )
    return [list(groups[at : at + leave_out]) for at in range(0, len(groups), leave_out)]


def split(streams: Streams, fold: int, leave_out: int, validation: float, test: str = "", validation_groups: int = 0) -> Split:
    """The streams of a fold. The validation part is drawn from the training streams, the same for every seed and model.

    Args:
        streams: all of them.
        fold: which groups are tested; -1: none, all are trained on.
        leave_out: groups a fold.
        validation: share of the training streams that is not trained on; one at least, unless it is 0.
        test: the group that is tested on in a data set that says so itself.
        validation_groups: in place of that share, so many whole groups: those that follow the tested ones.

    Raises:
        OptionError: there is no such fold, or nothing is left to train on.
    """
    folds = folds_of(streams.groups, leave_out, test) if fold >= 0 else []
    if fold >= len(folds) and fold >= 0:
        raise OptionError(f"data.fold={fold} of {len(folds)} folds: expected 0 to {len(folds) - 1}, or -1 to test on nothing")
    tested = folds[fold] if folds else []
    rest = [one for one in streams.streams if one.group not in tested]
    if tested and len(rest) == len(streams.streams):
        there = filled_folds(streams, leave_out, test)
        raise OptionError(
            f"data.fold={fold} tests nothing, as there is no stream of {', '.join(tested)}: expected one of "
            f"{', '.join(map(str, there))}, which have some"
        )
    if validation_groups:
        return _by_groups(streams, tested, validation_groups)
    count = max(round(validation * len(rest)), 1) if validation else 0
    if count >= len(rest):
        raise OptionError(f"{len(rest)} streams are left to train on, and {count} of them to validate on: expected more streams")
    held = _held(rest, validation, fold) if streams.by_name else _drawn(rest, count, fold)
    return Split(
        [one for one in rest if one.name not in held],
        [one for one in rest if one.name in held],
        [one for one in streams.streams if one.group in tested],
    )


def filled_folds(streams: Streams, leave_out: int, test: str = "") -> list[int]:
    """The folds in which there is something to test on."""
    there = {one.group for one in streams.streams}
    return [fold for fold, groups in enumerate(folds_of(streams.groups, leave_out, test)) if there & set(groups)]


def share_of(name: str, purpose: str) -> float:
    """A number from 0 to 1 that depends on the name alone, and for another purpose is another."""
    return int.from_bytes(hashlib.blake2b(f"{purpose}/{name}".encode(), digest_size=6).digest()) / 2**48


def _held(rest: Sequence[Stream], validation: float, fold: int) -> set[str]:
    """Names of about this share of the streams, by the hash of each; of few streams the first by that order."""
    places = {one.name: share_of(one.name, f"validation {SPLIT_SEED} {max(fold, 0)}") for one in rest} if validation else {}
    return {name for name, place in places.items() if place < validation} or set(sorted(places, key=places.__getitem__)[:1])


def _drawn(rest: Sequence[Stream], count: int, fold: int) -> set[str]:
    """Names of so many streams, by their places in the list."""
    order = np.random.default_rng([SPLIT_SEED, max(fold, 0)]).permutation(len(rest))
    return {rest[index].name for index in order[:count]}


def _by_groups(streams: Streams, tested: Sequence[str], count: int) -> Split:
    """The streams of the tested groups, those of so many groups behind them, and the others."""
    groups, there = streams.groups, {one.group for one in streams.streams}
    begin = groups.index(tested[-1]) + 1 if tested else 0
    rest = [group for group in groups[begin:] + groups[:begin] if group not in tested and group in there]
    if count >= len(rest):
        raise OptionError(f"data.validation_groups={count} of {len(rest)} groups that are not tested: expected fewer")
    parts = (rest[count:], rest[:count], tested)
    return Split(*([one for one in streams.streams if one.group in part] for part in parts))


def group_of(name: str, pattern: str) -> str:
    """The group that a name tells: what the pattern's first bracket matches, or the name itself where there is no pattern.

    Raises:
        OptionError: it tells none.
    """
    if not pattern:
        return name
    found = re.search(pattern, name)
    if not found or not found.groups():
        raise OptionError(
            f"the name {name!r} has no group by data.groups={pattern!r}: expected a pattern with one bracket, as in "
            "(split[0-9]+)_"
        )
    return found.group(1)


def normalisation(streams: Sequence[Stream], samples: int) -> tuple[np.ndarray, np.ndarray]:
    """What is taken off features and what they are divided by then, float32 [F]: mean and deviation over steps and tokens.

    Of a sensor's samples no mean is taken off and all axes in a group of three have one deviation, so that directions stay what
    they are: that of gravity says how an arm is held.
    """
    features = [one.features.reshape(-1, one.features.shape[-1]) for one in streams]
    if samples:
        features = [one.reshape(-1, one.shape[-1] // samples) for one in features]
    count = sum(len(one) for one in features)
    mean = sum(one.sum(0, dtype=np.float64) for one in features) / count
    variance = sum(((one - mean) ** 2).sum(0, dtype=np.float64) for one in features) / count
    deviation = np.sqrt(np.maximum(variance, 1e-12))
    if not samples:
        return mean.astype(np.float32), deviation.astype(np.float32)
    if len(deviation) % AXES == 0:
        deviation = np.repeat(deviation.reshape(-1, AXES).mean(1), AXES)
    return np.zeros(samples * len(deviation), np.float32), np.tile(deviation, samples).astype(np.float32)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name) if part]
