"""How well activities were detected: by frame, by segment, and how soon. All take numpy arrays of one or more videos.

Scores are [T, C] floats, the larger the surer; labels are [T] class numbers, or [T, C] bools where several may go on at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tokenturing.errors import ShapeError

CHARADES_FRAMES = 25
"""equally spaced frames of each video that the Charades protocol scores"""


class Segment(NamedTuple):
    """A stretch of one label."""

    start: int
    end: int
    """frames, the end not included"""
    label: int


class Latency(NamedTuple):
    """How soon activities were recognised."""

    recognised: float
    """share of the true segments in which their own label was predicted at all"""
    median: float
    """frames from the start of a segment that was recognised to the first right one; NaN if none was"""


def average_precisions(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """AP of each class: scores [T, C] and bool [T, C] -> [C], NaN for classes that never go on. As scikit-learn has it."""
    from sklearn.metrics import average_precision_score

    _check(scores, truth)
    found = np.full(scores.shape[1], np.nan)
    for label in np.flatnonzero(truth.any(0)):
        found[label] = average_precision_score(truth[:, label], scores[:, label])
    return found


def mean_average_precision(scores: np.ndarray, truth: np.ndarray, ignored: Sequence[int] = ()) -> float:
    """Per-frame mAP over the classes that go on at all, without the `ignored` ones (the background of online detection)."""
    return _mean(average_precisions(scores, truth), ignored)


def calibrated_average_precisions(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Calibrated AP of each class [C] (De Geest et al., 2016): precision as if a class went on in half of the frames.

    Precision is w TP / (w TP + FP), where w is the number of frames without the class by that of frames with it. Frames of equal
    score count together, as in scikit-learn's AP. NaN for classes that never go on.
    """
    _check(scores, truth)
    found = np.full(scores.shape[1], np.nan)
    for label in np.flatnonzero(truth.any(0)):
        order = np.argsort(-scores[:, label], kind="stable")
        sorted_scores, sorted_truth = scores[order, label], truth[order, label]
        last = np.flatnonzero(np.append(np.diff(sorted_scores) != 0, True))
        positives = np.cumsum(sorted_truth)[last]
        negatives = last + 1 - positives
        total = positives[-1]
        weight = (len(truth) - total) / total
        precision = positives * weight / np.maximum(positives * weight + negatives, np.finfo(float).tiny)
        if weight == 0:  # it goes on in every frame
            precision = np.ones(len(last))
        found[label] = np.sum(np.diff(positives, prepend=0) / total * precision)
    return found


def mean_calibrated_average_precision(scores: np.ndarray, truth: np.ndarray, ignored: Sequence[int] = ()) -> float:
    """mcAP over the classes that go on at all, without the `ignored` ones."""
    return _mean(calibrated_average_precisions(scores, truth), ignored)


def charades_map(scores: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    """The Charades protocol: mAP over 25 equally spaced frames of each video [T, C], all videos together.

    Frame i of 25 is the one at i / 25 of the video, as in the official evaluation.

    Raises:
        ShapeError: there is no video, or one without a frame.
    """
    if not scores or len(scores) != len(truth) or not all(len(video) for video in scores):
        raise ShapeError(
            f"scores of {len(scores)} videos with {[len(video) for video in scores][:10]} frames, and truth of {len(truth)}: "
            "expected as many of both, and a frame at least in each"
        )
    places = [np.arange(CHARADES_FRAMES) * len(video) // CHARADES_FRAMES for video in scores]
    some, right = (np.concatenate([video[at] for video, at in zip(part, places, strict=True)]) for part in (scores, truth))
    return mean_average_precision(some, right)


def frame_accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Share of frames [T] whose label is right."""
    _check(predicted, truth)
    return float(np.mean(predicted == truth))


def segments(labels: np.ndarray) -> list[Segment]:
    """Labels [T] as stretches of equal ones."""
    if not len(labels):
        return []
    starts = np.flatnonzero(np.append(True, np.diff(labels) != 0))
    ends = np.append(starts[1:], len(labels))
    return [Segment(int(start), int(end), int(labels[start])) for start, end in zip(starts, ends, strict=True)]


def edit_score(predicted: np.ndarray, truth: np.ndarray, background: Sequence[int] = ()) -> float:
    """Segmental edit score of one video, 0 to 1: one less the edit distance between the orders of segments by the longer one.

    Args:
        predicted: labels [T].
        truth: labels [T].
        background: labels whose segments do not count.
    """
    ours, theirs = ([one.label for one in segments(part) if one.label not in background] for part in (predicted, truth))
    if not ours and not theirs:
        return 1.0
    distances = list(range(len(theirs) + 1))
    for row, label in enumerate(ours, 1):
        before, distances[0] = distances[0], row
        for column, other in enumerate(theirs, 1):
            before, distances[column] = (
                distances[column],
                min(distances[column] + 1, distances[column - 1] + 1, before + (label != other)),
            )
    return 1 - distances[-1] / max(len(ours), len(theirs))


def segmental_f1(
    predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray], overlap: float, background: Sequence[int] = ()
) -> float:
    """F1@overlap over videos (Lea et al., 2017): a predicted segment is right if it meets a true one of its label first.

    Args:
        predicted: labels [T] of each video.
        truth: the same.
        overlap: intersection over union that is needed, such as 0.1, 0.25, 0.5.
        background: labels whose segments do not count.
    """
    counts = [segmental_counts(*pair, overlap, background) for pair in zip(predicted, truth, strict=True)]
    right, wrong, missed = np.sum(counts, axis=0) if counts else (0, 0, 0)
    return float(2 * right / max(2 * right + wrong + missed, 1))


def segmental_counts(
    predicted: np.ndarray, truth: np.ndarray, overlap: float, background: Sequence[int] = ()
) -> tuple[int, int, int]:
    """Segments of one video that are right, wrong and missed, for `segmental_f1`."""
    _check(predicted, truth)
    right = wrong = 0
    real = [one for one in segments(truth) if one.label not in background]
    taken = [False] * len(real)
    for guess in segments(predicted):
        if guess.label in background:
            continue
        shares = [_overlap(guess, one) if one.label == guess.label else 0.0 for one in real]
        best = int(np.argmax(shares)) if shares else -1
        if best >= 0 and shares[best] >= overlap and not taken[best]:
            taken[best], right = True, right + 1
        else:
            wrong += 1
    return right, wrong, taken.count(False)


def detection_latency(predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray], background: Sequence[int] = ()) -> Latency:
    """How long after its start an activity is first recognised, over all true segments of the videos' labels [T]."""
    waits = [detection_waits(*pair, background) for pair in zip(predicted, truth, strict=True)]
    return latency_of(np.concatenate(waits) if waits else np.zeros(0))


def detection_waits(predicted: np.ndarray, truth: np.ndarray, background: Sequence[int] = ()) -> np.ndarray:
    """Frames from the start of each true segment of one video to the first right one in it; NaN where there is none."""
    _check(predicted, truth)
    waits = []
    for one in segments(truth):
        if one.label not in background:
            hits = np.flatnonzero(predicted[one.start : one.end] == one.label)
            waits.append(float(hits[0]) if len(hits) else np.nan)
    return np.array(waits)


def latency_of(waits: np.ndarray) -> Latency:
    """The waits of segments, summed up."""
    seen = waits[~np.isnan(waits)]
    return Latency(len(seen) / max(len(waits), 1), float(np.median(seen)) if len(seen) else float("nan"))


def _overlap(one: Segment, other: Segment) -> float:
    union = max(one.end, other.end) - min(one.start, other.start)
    return max(min(one.end, other.end) - max(one.start, other.start), 0) / union


def _mean(found: np.ndarray, ignored: Sequence[int]) -> float:
    kept = found[[label for label in range(len(found)) if label not in ignored]]
    return float(np.nanmean(kept)) if not np.isnan(kept).all() else float("nan")


def _check(one: np.ndarray, other: np.ndarray) -> None:
    if one.shape != other.shape or not len(one):
        raise ShapeError(
            f"scores or labels of shape {list(one.shape)} for truth of {list(other.shape)}: expected equal shapes, not empty"
        )
    check_finite(one)


def check_finite(scores: np.ndarray, where: str = "") -> None:
    """Raise a ShapeError where scores [T, ...] have no order: NaN ranks anywhere, and infinite ones hide what they were."""
    finite = np.isfinite(scores).all(tuple(range(1, scores.ndim)))
    if not finite.all():
        wrong = np.flatnonzero(~finite)
        raise ShapeError(
            f"the scores{where and ' of '}{where} are not finite at {len(wrong)} of {len(finite)} steps, the first of them "
            f"{wrong[0]}: expected finite ones; look for damaged weights, or features far beyond those of training"
        )
