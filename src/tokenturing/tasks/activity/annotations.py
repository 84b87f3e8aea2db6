"""Who did what when, as it is found: Charades CSV, ActivityNet JSON, arrays by frame, folders of npz; what is odd is counted."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenturing.errors import OptionError, closest
from tokenturing.files import LARGEST_JSON
from tokenturing.tasks.activity.arrays import as_float32, read_arrays

LARGEST_CSV = 256 * 2**20
"""bytes"""


class Span(NamedTuple):
    """An activity from one time to another."""

    start: float
    end: float
    """seconds"""
    label: int


@dataclass
class Annotations:
    """Spans of each video, by its name, and what was odd about them."""

    classes: list[str]
    videos: dict[str, list[Span]] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)
    """seconds, where the annotations say so"""
    problems: Counter[str] = field(default_factory=Counter)
    """what kind, and how often"""
    examples: dict[str, str] = field(default_factory=dict)
    """one of each kind"""

    def add(self, video: str, start: float, end: float, label: int) -> None:
        """One span; what of it is empty, or outside of the video, is counted and cut or left out."""
        where = f"{video}: {self.classes[label]} from {start:g} to {end:g} s"
        length = self.durations.get(video, math.inf)
        spans = self.videos.setdefault(video, [])
        if not (math.isfinite(start) and math.isfinite(end)) or end <= start:
            self.note("empty or backward spans, left out", where)
            return
        if end <= 0 or start >= length:
            self.note("spans outside of the video, left out", f"{where}, of {length:g} s")
            return
        if start < 0 or end > length:
            self.note("spans past the video, cut", f"{where}, of {length:g} s")
            start, end = max(start, 0.0), min(end, length)
        if any(one.label == label and one.start < end and start < one.end for one in spans):
            self.note("spans that overlap another of the same class", where)
        spans.append(Span(start, end, label))

    def lasts(self, video: str, length: object) -> None:
        """The seconds of a video, as they are annotated: nothing, or a number."""
        seconds = _number(length)
        if seconds is not None and seconds > 0:
            self.durations[video] = seconds
        elif length is not None and str(length).strip():
            self.note("lengths that cannot be, not used", f"{video}: {str(length)[:60]}")

    def end(self, video: str, seconds: float) -> None:
        """A video has turned out to end then: what of its spans lies behind is counted and cut or left out."""
        spans, self.videos[video] = self.videos[video], []
        for span in spans:
            where = f"{video}: {self.classes[span.label]} from {span.start:g} to {span.end:g} s, of {seconds:g} s by its features"
            if span.start >= seconds:
                self.note("spans outside of the video, left out", where)
                continue
            if span.end > seconds:
                self.note("spans past the video, cut", where)
            self.videos[video].append(span._replace(end=min(span.end, seconds)))

    def note(self, kind: str, example: str) -> None:
        """Something odd."""
        self.problems[kind] += 1
        self.examples.setdefault(kind, example)

    def match(self, names: Iterable[str]) -> list[str]:
        """The videos that are there and annotated, in order; others are counted."""
        there = list(names)
        for name in sorted(set(there) - self.videos.keys()):
            self.note("videos without annotations, left out", name)
        for name in sorted(self.videos.keys() - set(there)):
            self.note("annotated videos that are missing", name)
        return [name for name in there if name in self.videos]

    def report(self) -> list[str]:
        """What was odd, a line each."""
        return [f"{count} {kind} (such as {self.examples[kind]})" for kind, count in self.problems.items()]


def to_frames(spans: Sequence[Span], times: np.ndarray, classes: int) -> np.ndarray:
    """bool [T, C]: what goes on at each time (seconds [T])."""
    found = np.zeros((len(times), classes), bool)
    for start, end, label in spans:
        found[(times >= start) & (times < end), label] = True
    return found


def read_charades(file: Path, classes: int = 157) -> Annotations:
    """A Charades CSV: columns `id`, `actions` ("c092 11.90 21.20;c147 0.00 12.60") and, if there, `length`.

    Raises:
        OptionError: it is none.
    """
    found = Annotations([f"c{number:03}" for number in range(classes)])
    rows = _rows(file)
    head = [name.strip().lower() for name in next(rows, [])]
    if head.count("id") != 1 or head.count("actions") != 1:
        raise OptionError(f"{file} has the columns {', '.join(head)[:200]}: expected id and actions, each once")
    for row in rows:
        about = dict(zip(head, row, strict=False))
        video = about["id"].strip() if "id" in about else ""
        if not video or "actions" not in about or any(row[len(head) :]):
            found.note("rows with too few columns or too many, left out", ",".join(row)[:60])
            continue
        if video in found.videos:
            found.note("videos that are there twice", video)
        found.videos.setdefault(video, [])
        found.lasts(video, about.get("length"))
        for action in filter(str.strip, about["actions"].split(";")):
            name, *times = action.split()
            numbers = [_number(text) for text in times]
            if name not in found.classes or len(numbers) != 2 or None in numbers:
                found.note("actions that cannot be read, left out", f"{video}: {action[:60]}")
                continue
            found.add(video, numbers[0] or 0.0, numbers[1] or 0.0, found.classes.index(name))
    return found


def _rows(file: Path) -> Iterator[list[str]]:
    """The rows of a CSV, but for empty lines; Excel's mark of UTF-8 at its begin is none of its text."""
    with _opened(file, LARGEST_CSV).open(encoding="utf-8-sig", newline="") as lines:
        try:
            yield from filter(None, csv.reader(lines))
        except (UnicodeDecodeError, csv.Error) as error:
            raise OptionError(
                f"{file} cannot be read ({error}): expected a CSV in UTF-8 with the columns id and actions"
            ) from None


def read_activitynet(file: Path, subset: str | None = None) -> Annotations:
    """ActivityNet-style JSON: {"database": {video: {"duration", "subset", "annotations": [{"segment": [s, e], "label"}]}}}.

    Args:
        file: to read.
        subset: only videos of it, such as "training"; None: all.

    Raises:
        OptionError: it is none.
    """
    try:
        content = json.loads(_opened(file, LARGEST_JSON * 16).read_text(encoding="utf-8-sig"))
        database: Mapping[str, Mapping] = content["database"]
        chosen = {video: about for video, about in database.items() if subset in (None, about.get("subset"))}
        labels = sorted({str(one["label"]) for about in database.values() for one in about.get("annotations", ())})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OptionError(
            f"{file} is not as ActivityNet's ({type(error).__name__}: {error}): expected a database of videos"
        ) from None
    if subset is not None and not chosen:
        there = {str(about.get("subset")) for about in database.values()}
        raise OptionError(
            f"{file} has no videos of the subset {subset!r}: expected {closest(subset, sorted(there))}; by itself a file needs "
            '"training" and "validation", and with data.test_annotations, which is another such file, none'
        )
    found = Annotations(labels)
    for video, about in chosen.items():
        found.videos.setdefault(video, [])
        found.lasts(video, about.get("duration"))
        for one in about.get("annotations", ()):
            span = one.get("segment")
            numbers = [_number(part) for part in span] if isinstance(span, list) else []
            if len(numbers) != 2 or None in numbers:
                found.note("segments that cannot be read, left out", f"{video}: {span}")
                continue
            found.add(video, numbers[0] or 0.0, numbers[1] or 0.0, labels.index(str(one["label"])))
    return found


class Framed(NamedTuple):
    """A video, or a recording, as arrays by step."""

    features: np.ndarray
    """float32 [T, F], or [T, N, F] of N tokens a step"""
    labels: np.ndarray
    """int64 [T], or bool [T, C]; -1 where nothing is known"""


def read_npz(file: Path) -> Framed:
    """A file with `features` [T, F] or [T, N, F] and `labels` [T] or [T, C].

    Raises:
        OptionError: it is none.
    """
    content = read_arrays(file, ("features", "labels"))
    return framed(content["features"], content["labels"], str(file))


def framed(features: np.ndarray, labels: np.ndarray, where: str) -> Framed:
    """Features and per-frame labels of one video, checked; scores of one class a frame, one-hot or not, become numbers.

    Raises:
        OptionError: they do not fit each other.
    """
    if features.ndim not in (2, 3) or features.dtype.kind != "f":
        raise OptionError(
            f"{where}: features are {features.dtype} {list(features.shape)}: expected finite floats [T, F] or [T, N, F]"
        )
    features = as_float32(features, where)
    if labels.ndim not in (1, 2) or len(labels) != len(features) or not len(labels):
        raise OptionError(f"{where}: labels {list(labels.shape)} for {len(features)} steps: expected [T] or [T, C]")
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all():
            raise OptionError(f"{where}: labels [T, C] hold {labels.min():g} to {labels.max():g}: expected 0 and 1")
        return Framed(features, labels.astype(bool))
    if labels.dtype.kind not in "iu" or labels.min() < -1:
        raise OptionError(f"{where}: labels are {labels.dtype} from {labels.min()}: expected class numbers, or -1 for unknown")
    return Framed(features, labels.astype(np.int64))


def read_folder(folder: Path) -> dict[str, Framed]:
    """All npz files of a folder, by name.

    Raises:
        OptionError: there are none, or they have different numbers of features.
    """
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if not files:
        raise OptionError(f"there is no .npz in {folder}: expected files with features [T, F] and labels [T]")
    found = {file.stem: read_npz(file) for file in files}
    shapes = {one.features.shape[1:] for one in found.values()}
    if len(shapes) > 1 or len({one.labels.ndim for one in found.values()}) > 1:
        raise OptionError(f"the files in {folder} differ: features of a step have the shapes {sorted(map(list, shapes))}")
    return found


def _opened(file: Path, largest: int) -> Path:
    if not file.is_file():
        raise OptionError(f"there is no file {file}: expected annotations")
    if file.stat().st_size > largest:
        raise OptionError(f"{file} has {file.stat().st_size} bytes: expected annotations of at most {largest}")
    return file


def _number(value: object) -> float | None:
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None
