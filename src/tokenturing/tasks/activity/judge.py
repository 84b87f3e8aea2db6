"""How well a model names what goes on in whole streams, watched once from their begin, with the state carried and no future."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from tokenturing.errors import ShapeError
from tokenturing.evaluate.figures import Figure
from tokenturing.runtime import Runtime
from tokenturing.tasks.activity.metrics import (
    CHARADES_FRAMES,
    Latency,
    check_finite,
    detection_waits,
    edit_score,
    frame_accuracy,
    latency_of,
    segmental_counts,
)
from tokenturing.tasks.activity.streams import Stream
from tokenturing.tasks.contract import Report, device_of

ROWS, CHUNK = 16, 128
"""streams side by side, and steps between two reports"""
OVERLAPS = (10, 25, 50)
"""per cent, of F1"""
LOW, HIGH = 2.5, 97.5
"""per cent, of the resamples"""
Measure = Callable[[np.ndarray], float]
"""how often each stream counts, whole numbers [n] -> a figure"""


class Watched(NamedTuple):
    """A stream as a model saw it."""

    scores: np.ndarray
    """float32 [T, C] of the steps of which something is known"""
    labels: np.ndarray
    """int64 [T] or bool [T, C]"""


def watch(model: Any, streams: Sequence[Stream], sigmoid: bool, report: Report | None = None, name: str = "") -> list[Watched]:
    """Every stream from its begin to its end; the model is one as trained, or on the runtime."""
    order = sorted(range(len(streams)), key=lambda index: len(streams[index].labels))
    found: dict[int, Watched] = {}
    total, done = sum(len(one.labels) for one in streams), 0
    for at in range(0, len(order), ROWS):
        some = order[at : at + ROWS]
        features = [streams[index].features for index in some]
        padded = np.stack([np.pad(one, [(0, len(features[-1]) - len(one)), (0, 0), (0, 0)]) for one in features])
        logits = _by_runtime(model, padded) if isinstance(model, Runtime) else _by_model(model, padded)
        for row, index in enumerate(some):
            one = streams[index]
            scores = shares(logits[row, : len(one.labels)], sigmoid, one.name)
            found[index] = Watched(scores[one.known], one.labels[one.known])
            done += len(one.labels)
        if report:
            report(name or "watching", done, total)
    return [found[index] for index in range(len(streams))]


@torch.no_grad()
def _by_model(model: Any, features: np.ndarray) -> np.ndarray:
    """features [B, T, N, F] -> logits [B, T, C]"""
    state, found, place = None, [], device_of(model)
    training = model.training
    model.eval()
    for at in range(0, features.shape[1], CHUNK):
        logits, state = model(torch.from_numpy(features[:, at : at + CHUNK]).to(place), state)
        found.append(logits.float().cpu().numpy())
    model.train(training)
    return np.concatenate(found, axis=1)


def _by_runtime(model: Runtime, features: np.ndarray) -> np.ndarray:
    state, found = model.initial_state(len(features)), []
    for step in range(features.shape[1]):
        logits, state = model.step(np.ascontiguousarray(features[:, step]), state)
        found.append(logits)
    return np.stack(found, axis=1)


def shares(logits: np.ndarray, sigmoid: bool, where: str = "") -> np.ndarray:
    """Scores [T, C] as probabilities; of several at once, each by itself.

    Raises:
        ShapeError: some are not finite; it names the stream and the step.
    """
    check_finite(logits, where)
    if sigmoid:
        return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def figures(
    watched: Sequence[Watched], seconds: float, background: Sequence[int] = (), resamples: int = 0, seed: int = 0
) -> list[Figure]:
    """All that fits the labels, with 95 % intervals over streams (bootstrap; without resamples the value itself).

    Args:
        watched: streams of one model.
        seconds: of a step.
        background: classes that stand for nothing going on.
        resamples: how often streams are drawn anew, with replacement.
        seed: of the drawing.

    Raises:
        ShapeError: there is no stream, or one of which no step is known.
    """
    if not watched or not all(len(one.labels) for one in watched):
        raise ShapeError(
            f"streams with {[len(one.labels) for one in watched][:10]} known steps: expected one stream or more, a step in each"
        )
    count = len(watched)
    drawn = np.random.default_rng([seed, count]).multinomial(count, np.full(count, 1 / count), size=resamples)
    found = []
    for kind, measure in measures(watched, seconds, background).items():
        value = measure(np.ones(count, np.int64))
        others = np.array([measure(times) for times in drawn])
        others = others[np.isfinite(others)]
        low, high = np.percentile(others, (LOW, HIGH)) if len(others) else (value, value)
        found.append(Figure(kind, float(value), float(low), float(high), count, "value"))
    return found


def measures(watched: Sequence[Watched], seconds: float, background: Sequence[int] = ()) -> dict[str, Measure]:
    """The figures by name."""
    single = watched[0].labels.ndim == 1
    scores = [one.scores for one in watched]
    classes = scores[0].shape[1]
    truths = [np.eye(classes, dtype=bool)[one.labels] if single else one.labels for one in watched]
    precision = Precisions(scores, truths, background)
    ranked: dict[str, Measure] = {"mAP": precision.mean, "calibrated mAP": precision.calibrated}
    if not single:
        frames = [np.arange(CHARADES_FRAMES) * len(one) // CHARADES_FRAMES for one in scores]
        few, right_few = ([part[at] for part, at in zip(parts, frames, strict=True)] for parts in (scores, truths))
        some = Precisions(few, right_few, background)
        ranked[f"mAP of {CHARADES_FRAMES} frames a stream"] = some.mean
        if not background:
            return ranked
    predicted = [one.argmax(-1) for one in scores]
    # Of several at once the first; the background, which is the first class, goes on alone.
    labels = [one.argmax(-1) for one in truths]
    right = np.array([frame_accuracy(*pair) * len(pair[0]) for pair in zip(predicted, labels, strict=True)])
    lengths = np.array([len(one) for one in labels])
    edits = np.array([edit_score(*pair, background) for pair in zip(predicted, labels, strict=True)])

    waits = [detection_waits(*pair, background) for pair in zip(predicted, labels, strict=True)]

    def f1(overlap: float) -> Measure:
        counts = np.array([segmental_counts(*pair, overlap, background) for pair in zip(predicted, labels, strict=True)])

        def measure(times: np.ndarray) -> float:
            right, wrong, missed = counts.T @ times
            return float(2 * right / max(2 * right + wrong + missed, 1))

        return measure

    def latency(times: np.ndarray) -> Latency:
        return latency_of(np.concatenate([waits[index] for index in np.repeat(np.arange(len(waits)), times).tolist()]))

    return {
        **({"frame accuracy": lambda times: float(right @ times / (lengths @ times))} if single else {}),
        **ranked,
        "edit": lambda times: float(edits @ times / times.sum()),
        **{f"F1@{overlap}": f1(overlap / 100) for overlap in OVERLAPS},
        "segments recognised": lambda times: latency(times).recognised,
        "median latency (s)": lambda times: latency(times).median * seconds,
    }


class Precisions:
    """Average precisions of many resamples of streams: scores are sorted once, and streams count as often as they are drawn.

    Args:
        scores: [T, C] of each stream.
        truths: bool [T, C] of each.
        ignored: classes that are left out.
    """

    def __init__(self, scores: Sequence[np.ndarray], truths: Sequence[np.ndarray], ignored: Sequence[int] = ()):
        self.stream = np.repeat(np.arange(len(scores)), [len(one) for one in scores])
        every, self.truth = np.concatenate(scores), np.concatenate(truths)
        check_finite(every)
        self.classes = [label for label in range(every.shape[1]) if label not in ignored]
        self.order = {label: np.argsort(-every[:, label], kind="stable") for label in self.classes}
        self.last = {
            label: np.flatnonzero(np.append(np.diff(every[self.order[label], label]) != 0, True)) for label in self.classes
        }
        """the last of those of equal score, which count together"""

    def mean(self, times: np.ndarray) -> float:
        """mAP over the classes that go on at all."""
        return self._mean(times, calibrated=False)

    def calibrated(self, times: np.ndarray) -> float:
        """The same of precisions as if a class went on in half of the frames."""
        return self._mean(times, calibrated=True)

    def _mean(self, times: np.ndarray, calibrated: bool) -> float:
        weights = times[self.stream]
        found = [self._one(label, weights, calibrated) for label in self.classes]
        there = [one for one in found if one is not None]
        return float(np.mean(there)) if there else float("nan")

    def _one(self, label: int, weights: np.ndarray, calibrated: bool) -> float | None:
        order, last = self.order[label], self.last[label]
        own = weights[order]
        positives = np.cumsum(own * self.truth[order, label])[last]
        every = np.cumsum(own)[last]
        total = positives[-1]
        if not total:
            return None
        factor = (every[-1] - total) / total if calibrated else 1.0
        precision = positives * factor / np.maximum(positives * factor + every - positives, np.finfo(float).tiny)
        if factor == 0:  # it goes on in every frame
            precision = np.ones(len(last))
        return float(np.sum(np.diff(positives, prepend=0) / total * precision))


def as_numbers(found: Sequence[Figure]) -> Mapping[str, float]:
    """Figures as a dict, for a training run's log; without those that are not finite."""
    return {one.kind: one.value for one in found if np.isfinite(one.value)}
