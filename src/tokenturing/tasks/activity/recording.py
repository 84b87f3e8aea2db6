"""A recording in a file, as the steps that a model takes: a sensor's samples (.csv or .npz), or features that are made (.npz)."""

import csv
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenturing.errors import OptionError
from tokenturing.tasks.activity.annotations import LARGEST_CSV
from tokenturing.tasks.activity.arrays import as_float32, read_arrays
from tokenturing.tasks.activity.sensors import as_steps
from tokenturing.tasks.contract import Segment

TIMES = ("time", "times", "t", "seconds", "timestamp")
"""names of a column of seconds"""
LARGEST_NPZ = 2**30
"""bytes"""
LONG_GAP = 1.0
"""seconds without a sample, from which on it is said"""
MOST_MADE = 5
"""steps of the model's rate from one sample to the next: of what lies between those that are farther apart they say nothing"""


def steps_of(file: Path, about: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """The steps of a recording, float32 [T, N, F], and how many seconds each is.

    Args:
        file: .csv or .npz.
        about: what a model says of its features: "features" [N, F], "seconds" of a step, "samples" of a token, and of a sensor
            its "source", with "rate" and "channels".

    Raises:
        OptionError: the file is no such recording.
    """
    if not file.is_file():
        raise OptionError(f"there is no file {file}: expected a recording, .csv or .npz")
    ending = file.suffix.lower()
    if not about["samples"]:
        return _features(file, ending, *about["features"]), about["seconds"]
    tokens = about["features"][0]
    source = about["source"]
    channels, rate = source["channels"], float(source["rate"])
    samples, times = (_csv if ending == ".csv" else _npz)(file, channels, rate)
    even = at_rate(samples, times, rate, file)
    steps = as_steps(even, about["seconds"], tokens, rate, str(file))
    if not len(steps):
        raise OptionError(
            f"{file} has {len(even)} samples at {rate:g} a second: expected a step of {about['seconds']:g} s at least"
        )
    return steps, about["seconds"]


def _features(file: Path, ending: str, tokens: int, columns: int) -> np.ndarray:
    features = _arrays(file, "features")["features"] if ending == ".npz" else None
    fits = features is not None and features.ndim in (2, 3) and features.shape[1:] in ((tokens, columns), (columns,))
    if features is None or not fits or features.dtype.kind not in "fiu" or not len(features):
        came = f"is a {ending}" if features is None else f"has features {list(features.shape)} of {features.dtype}"
        raise OptionError(f"{file} {came}: expected an .npz with features [T, {tokens}, {columns}] or [T, {columns}]")
    return as_float32(features.reshape(len(features), tokens, columns), str(file))


def at_rate(samples: np.ndarray, times: np.ndarray, rate: float, file: Path) -> np.ndarray:
    """Samples [n, channels] of those times, n seconds ascending, as float64 at so many a second; what is missing is bridged.

    Raises:
        OptionError: the times are none, or so far apart that most of what a model took would be made up.
    """
    if wrong := int((~np.isfinite(times)).sum()):
        raise OptionError(f"{file}: {wrong} of {len(times)} times are no numbers: expected seconds")
    if len(times) < 2:
        raise OptionError(f"{file} has {len(times)} samples: expected two or more")
    if back := int((np.diff(times) <= 0).sum()):
        raise OptionError(f"{file}: {back} of {len(times)} do not come after the one before: expected that times ascend")
    whole = np.isfinite(samples).all(1)
    if missing := int((~whole).sum()):
        warnings.warn(f"{file}: {missing} of {len(samples)} samples lack a number and are bridged", stacklevel=1)
    samples, times = samples[whole], times[whole]
    if len(times) < 2:
        raise OptionError(f"{file} has {len(times)} whole samples: expected two or more")
    gaps = np.diff(times)
    wide = gaps[gaps > MOST_MADE / rate * (1 + 1e-6)]
    if wide.sum() > gaps.sum() / 2:
        made_up, away = wide.sum() / gaps.sum(), MOST_MADE / rate
        raise OptionError(
            f"{file}: {made_up:.0%} of its {gaps.sum():g} s would be made up, between samples more than {away:g} s apart "
            f"({np.median(wide):g} s as a rule): expected times in seconds, some {rate:g} samples in each, and a file for each "
            "stretch without long pauses"
        )
    if long := int((gaps > LONG_GAP).sum()):
        warnings.warn(
            f"{file}: {long} gaps of more than {LONG_GAP:g} s, the longest {gaps.max():.1f} s, are bridged", stacklevel=1
        )
    wanted = times[0] + np.arange(int((times[-1] - times[0]) * rate + 1.5)) / rate
    return np.stack([np.interp(wanted, times, channel) for channel in samples.T], axis=1)


def _csv(file: Path, channels: Sequence[str], rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Columns by their names, and one of times; without a head of names the channels in their order, behind times or not."""
    if file.stat().st_size > LARGEST_CSV:
        raise OptionError(f"{file} has {file.stat().st_size} bytes: expected a recording of at most {LARGEST_CSV}")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"{file} is no CSV ({error}): expected columns {', '.join(channels)}") from None
    head = _head(file, rows[0] if rows else [], channels)
    body = rows[0 if all(map(_is_number, rows[0])) else 1 :]
    values = np.full((len(body), len(head)), np.nan)
    for index, row in enumerate(body):
        if any(text.strip() for text in row[len(head) :]):
            raise OptionError(f"{file}: row {index + 1} has {len(row)} values for {len(head)} columns: expected a value for each")
        for column, text in enumerate(row[: len(head)]):
            if _is_number(text):
                values[index, column] = float(text)
    clock = next((head.index(name) for name in TIMES if name in head), None)
    times = np.arange(len(body)) / rate if clock is None else values[:, clock]
    return values[:, [head.index(name.lower()) for name in channels]], times


def _head(file: Path, row: Sequence[str], channels: Sequence[str]) -> list[str]:
    """The names of the columns, in small letters, out of the first row, which may hold values already.

    Raises:
        OptionError: they do not say which column is which channel.
    """
    expected = f"expected {', '.join(channels)}, and time if it varies"
    if not row:
        raise OptionError(f"{file} has no column at all: {expected}")
    plain = [name.lower() for name in channels]
    if all(map(_is_number, row)):
        names = {len(plain): plain, len(plain) + 1: [TIMES[0], *plain]}
        if len(row) not in names:
            raise OptionError(f"{file} has {len(row)} columns without names: {expected}, named in the first row")
        return names[len(row)]
    head = [name.strip().lower() for name in row]
    if missing := [name for name in channels if name.lower() not in head]:
        raise OptionError(f"{file} has no column {', '.join(missing)}: {expected}")
    if twice := [name for name in dict.fromkeys(head) if name in (*plain, *TIMES) and head.count(name) > 1]:
        raise OptionError(f"{file} has more than one column {', '.join(twice)}: {expected}, each once")
    return head


def _npz(file: Path, channels: Sequence[str], rate: float) -> tuple[np.ndarray, np.ndarray]:
    """`samples` [n, channels] with `times` [n], or at a `rate`, or at that of the model."""
    found = _arrays(file, "samples")
    samples = found["samples"]
    if samples.ndim != 2 or samples.shape[1] != len(channels) or samples.dtype.kind not in "fiu":
        raise OptionError(
            f"{file}: samples are {samples.dtype} {list(samples.shape)}: expected [n, {len(channels)}], {', '.join(channels)}"
        )
    own = found.get("rate", np.array(rate))
    if own.size != 1 or own.dtype.kind not in "fiu" or not 0 < (own_rate := float(own.item())) < np.inf:
        came = own.item() if own.size == 1 else list(own.shape)
        raise OptionError(f"{file}: rate is {came!r}: expected samples a second, a number above 0")
    times = found.get("times", np.arange(len(samples)) / own_rate)
    if times.shape != samples.shape[:1] or times.dtype.kind not in "fiu":
        raise OptionError(
            f"{file}: times are {times.dtype} {list(times.shape)} for {len(samples)} samples: expected seconds, one each"
        )
    return samples.astype(float), times.astype(float)


def _arrays(file: Path, needed: str) -> dict[str, np.ndarray]:
    if file.stat().st_size > LARGEST_NPZ:
        raise OptionError(f"{file} has {file.stat().st_size} bytes: expected a recording of at most {LARGEST_NPZ}")
    return read_arrays(file, (needed,), ("times", "rate"))


def segments_of(shares: np.ndarray, seconds: float, classes: Sequence[str], several: bool) -> Iterator[Segment]:
    """Probabilities [T, C] -> what goes on from when to when; of several at once all that are likelier than not."""
    going = shares > 0.5 if several else np.eye(shares.shape[1], dtype=bool)[shares.argmax(-1)]
    found = []
    for label in range(shares.shape[1]):
        edges = np.flatnonzero(np.diff(going[:, label].astype(int), prepend=0, append=0))
        for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            share = float(shares[first:last, label].mean())
            found.append(Segment(first * seconds, last * seconds, classes[label], share))
    yield from sorted(found)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
