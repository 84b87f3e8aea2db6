"""A recording in a file, as the steps that a model takes: a sensor's samples (.csv or .npz), or features that are made (.npz)."""

import csv
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenturing.errors import OptionError
from tokenturing.tasks.activity.annotations import LARGEST_CSV
from tokenturing.tasks.activity.sensors import as_steps
from tokenturing.tasks.contract import Segment

TIMES = ("time", "times", "t", "seconds", "timestamp")
"""names of a column of seconds"""
LARGEST_NPZ = 2**30
"""bytes"""
LONG_GAP = 1.0
"""seconds without a sample, from which on it is said"""


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
    tokens, columns = about["features"]
    if not about["samples"]:
        features = _arrays(file, ("features",))["features"] if file.suffix == ".npz" else None
        if features is None or features.ndim not in (2, 3) or features.shape[1:] not in ((tokens, columns), (columns,)):
            came = "a .csv" if features is None else f"features {list(features.shape)}"
            raise OptionError(f"{file} has {came}: expected an .npz with features [T, {tokens}, {columns}] or [T, {columns}]")
        return features.reshape(len(features), tokens, columns).astype(np.float32), about["seconds"]
    source = about["source"]
    channels, rate = source["channels"], float(source["rate"])
    samples, times = (_csv if file.suffix == ".csv" else _npz)(file, channels, rate)
    even = at_rate(samples, times, rate, file)
    steps = as_steps(even, about["seconds"], tokens, rate)
    if not len(steps):
        raise OptionError(
            f"{file} has {len(even)} samples at {rate:g} a second: expected a step of {about['seconds']:g} s at least"
        )
    return steps, about["seconds"]


def at_rate(samples: np.ndarray, times: np.ndarray, rate: float, file: Path) -> np.ndarray:
    """Samples [n, channels] of those times, n seconds ascending, as float64 at so many a second; what is missing is bridged."""
    if len(times) < 2 or not (np.diff(times) > 0).all():
        raise OptionError(f"{file}: expected two samples or more, whose times ascend")
    whole = np.isfinite(samples).all(1)
    if missing := int((~whole).sum()):
        warnings.warn(f"{file}: {missing} of {len(samples)} samples lack a number and are bridged", stacklevel=1)
    samples, times = samples[whole], times[whole]
    if len(times) < 2:
        raise OptionError(f"{file} has {len(times)} whole samples: expected two or more")
    gaps = np.diff(times)
    if (long := int((gaps > LONG_GAP).sum())) and gaps.max() > LONG_GAP:
        warnings.warn(
            f"{file}: {long} gaps of more than {LONG_GAP:g} s, the longest {gaps.max():.1f} s, are bridged", stacklevel=1
        )
    wanted = times[0] + np.arange(int((times[-1] - times[0]) * rate + 1.5)) / rate
    return np.stack([np.interp(wanted, times, channel) for channel in samples.T], axis=1)


def _csv(file: Path, channels: Sequence[str], rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Columns by their names, and one of times; without a head of names the channels in their order."""
    if file.stat().st_size > LARGEST_CSV:
        raise OptionError(f"{file} has {file.stat().st_size} bytes: expected a recording of at most {LARGEST_CSV}")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.reader(lines))
    except (UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"{file} is no CSV ({error}): expected columns {', '.join(channels)}") from None
    head = [name.strip().lower() for name in rows[0]] if rows else []
    named = not all(map(_is_number, head))
    if not named:
        head = [*channels] if len(head) == len(channels) else ["time", *channels]
    missing = [name for name in channels if name.lower() not in head]
    if missing or not rows:
        raise OptionError(
            f"{file} has no column {', '.join(missing) or 'at all'}: expected {', '.join(channels)}, and time if it varies"
        )
    body = [row for row in rows[1 if named else 0 :] if row]
    values = np.full((len(body), len(head)), np.nan)
    for index, row in enumerate(body):
        for column, text in enumerate(row[: len(head)]):
            if _is_number(text):
                values[index, column] = float(text)
    clock = next((head.index(name) for name in TIMES if name in head), None)
    times = np.arange(len(body)) / rate if clock is None else values[:, clock]
    if not np.isfinite(times).all():
        raise OptionError(f"{file}: {int((~np.isfinite(times)).sum())} times are no numbers: expected seconds")
    return values[:, [head.index(name.lower()) for name in channels]], times


def _npz(file: Path, channels: Sequence[str], rate: float) -> tuple[np.ndarray, np.ndarray]:
    """`samples` [n, channels] with `times` [n], or at a `rate`, or at that of the model."""
    found = _arrays(file, ("samples",))
    samples = found["samples"]
    if samples.ndim != 2 or samples.shape[1] != len(channels) or samples.dtype.kind not in "fiu":
        raise OptionError(
            f"{file}: samples are {samples.dtype} {list(samples.shape)}: expected [n, {len(channels)}], {', '.join(channels)}"
        )
    own = float(found["rate"]) if "rate" in found and found["rate"].size == 1 else rate
    times = found.get("times", np.arange(len(samples)) / own).astype(float)
    if times.shape != samples.shape[:1]:
        raise OptionError(f"{file}: times {list(times.shape)} for {len(samples)} samples: expected one each")
    return samples.astype(float), times


def _arrays(file: Path, needed: Sequence[str]) -> dict[str, np.ndarray]:
    if file.stat().st_size > LARGEST_NPZ:
        raise OptionError(f"{file} has {file.stat().st_size} bytes: expected a recording of at most {LARGEST_NPZ}")
    try:
        with np.load(file, allow_pickle=False) as content:
            if missing := [name for name in needed if name not in content.files]:
                raise OptionError(f"{file} holds {', '.join(content.files)}: expected {', '.join(missing)}")
            return {name: content[name] for name in content.files if name in (*needed, "times", "rate")}
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"{file} cannot be read ({error}): expected an .npz with {', '.join(needed)}") from None


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
