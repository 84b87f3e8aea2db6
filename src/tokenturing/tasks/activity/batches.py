"""Chunks of training streams, in two manners: whole streams with the state carried on, or windows that begin afresh."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenturing.tasks.activity.augment import AugmentOptions, change, read_at, warp
from tokenturing.tasks.activity.streams import Stream
from tokenturing.tasks.contract import Batch

IN_THE_MIDDLE = 0.5
"""share of the walks through whole streams that begin somewhere in them"""
SPARE = 1.5
"""times as many steps are read as a window has, since a quick tempo uses more of them up"""


class ActivityTargets(NamedTuple):
    """What goes on."""

    labels: Tensor
    """int64 [B, T]; or float32 [B, T, C] where several activities may go on at once"""
    known: Tensor
    """bool [B, T], false where nothing is known of a step"""


class Walk(NamedTuple):
    """A way through a stream: steps with their labels."""

    features: np.ndarray
    labels: np.ndarray
    known: np.ndarray


class Walker:
    """Draws ways through streams.

    Args:
        streams: to walk through; long ones more often.
        samples: of a sensor in each token, 0 for other features.
        augment: how to change them.
        mean: float32 [F], of the features.
        deviation: float32 [F].
        seed: of everything drawn.
        mirror: signs of a sensor's channels on the other arm.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        samples: int,
        augment: AugmentOptions,
        mean: np.ndarray,
        deviation: np.ndarray,
        seed: Sequence[int],
        mirror: Sequence[float] = (),
    ):
        self.streams, self.samples, self.augment = streams, samples, augment
        self.mean, self.deviation, self.seed = mean, deviation, list(seed)
        self.mirror = np.tile(np.array(mirror, np.float32), samples) if mirror and augment.mirror else None
        lengths = np.array([len(one.labels) for one in streams], float)
        self.shares = lengths / lengths.sum()

    def whole(self, row: int, number: int) -> Walk:
        """Walk `number` of a row: a stream from its begin, or from somewhere in it, to its end."""
        rng, stream, parts = self._begin(row, number)
        length = sum(end - begin for begin, end in parts)
        # The first walks begin anywhere, so that rows are not all at the same place.
        middle = number == 0 or rng.random() < IN_THE_MIDDLE
        return self._made(rng, stream, parts, int(rng.integers(length)) if middle else 0, length)

    def window(self, row: int, number: int, steps: int, again: int = 0) -> Walk:
        """Up to so many steps in a row: any of a stream's steps is as often the last as any other, its first ones too.

        Args:
            row: the global row.
            number: of the chunk.
            steps: T.
            again: the how manieth window of that chunk, where those before are shorter.
        """
        rng, stream, parts = self._begin(row, number, again)
        end = int(rng.integers(sum(last - first for first, last in parts))) + 1
        start = max(end - steps, 0)
        if not self.augment.warp:
            return self._made(rng, stream, parts, start, end)
        walk = self._made(rng, stream, parts, start, start + int(SPARE * (end - start)))
        return Walk(*(part[: end - start] for part in walk))

    def _begin(self, row: int, number: int, again: int = 0) -> tuple[np.random.Generator, Stream, list[tuple[int, int]]]:
        """A stream with its parts, from one step to another, in a new order."""
        rng = np.random.default_rng([*self.seed, row, number, again])
        stream = self.streams[int(rng.choice(len(self.streams), p=self.shares))]
        ends = [*stream.parts[1:], len(stream.labels)]
        parts = list(zip(stream.parts, ends, strict=True))
        if len(parts) > 1:
            parts = [self._cropped(rng, *parts[index]) for index in rng.permutation(len(parts))]
        return rng, stream, parts

    def _cropped(self, rng: np.random.Generator, first: int, end: int) -> tuple[int, int]:
        """A piece of a recording that is put in a row with others."""
        least, most = self.augment.keep
        if least >= 1:
            return first, end
        length = max(round((end - first) * rng.uniform(least, max(most, least))), 1)
        begin = int(rng.integers(first, end - length + 1))
        return begin, begin + length

    def _made(self, rng: np.random.Generator, stream: Stream, parts: list[tuple[int, int]], start: int, end: int) -> Walk:
        """The steps from start to end of the parts in their order, changed."""
        walks, before = [], 0
        for first, last in parts:
            low, high = max(start - before, 0), min(end - before, last - first)
            before += last - first
            if low < high:
                walks.append(self._at_tempo(rng, stream, slice(first + low, first + high)))
        features, labels, known = (np.concatenate(column) for column in zip(*walks, strict=True))
        return Walk(change(features, self.augment, self.samples, self.mean, self.deviation, rng), labels, known)

    def _at_tempo(self, rng: np.random.Generator, stream: Stream, steps: slice) -> Walk:
        features, labels, known = stream.features[steps], stream.labels[steps], stream.known[steps]
        if self.mirror is not None and rng.random() < self.augment.mirror:
            features = features * self.mirror
        if not self.augment.warp:
            return Walk(features, labels, known)
        count, tokens, columns = features.shape
        within = tokens * self.samples or 1
        """things in a row that a step holds"""
        flat = features.reshape(count * within, -1)
        places = warp(len(flat), self.augment.warp, rng)
        whole = len(places) // within
        if not whole:
            return Walk(features, labels, known)
        places = places[: whole * within]
        at = np.rint(places[within - 1 :: within] / within - (within - 1) / within).astype(np.int64).clip(0, count - 1)
        return Walk(read_at(flat, places).reshape(whole, tokens, columns), labels[at], known[at])


class ActivityBatches:
    """An endless iterator over chunks of T steps of walks.

    Args:
        walker: draws them.
        rows: the global rows.
        steps: T.
        windows: whether each chunk begins with a walk of its own; else walks go on from chunk to chunk.
    """

    def __init__(self, walker: Walker, rows: range, steps: int, windows: bool):
        self.walker, self.rows, self.steps, self.windows = walker, rows, steps, windows
        self.places = {row: [0, 0] for row in rows}
        """of each row: the number of its walk, and how many steps of it were taken"""
        self._walks: dict[int, Walk] = {}

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        rows = [self._row(row) for row in self.rows]
        features, labels, known, reset = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
        return Batch(features, ActivityTargets(labels.float() if labels.dtype == torch.bool else labels, known), reset)

    def _row(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The next T steps of a row."""
        return self._window(row) if self.windows else self._next(row)

    def _window(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """A window, and others before it where it is the begin of a stream and so shorter: what is learned from is at the end."""
        number, left = self.places[row][0], self.steps
        pieces: list[Walk] = []
        reset = np.zeros(self.steps, bool)
        while left:
            pieces.insert(0, self.walker.window(row, number, left, len(pieces)))
            left -= len(pieces[0].labels)
            reset[left] = True
        self.places[row] = [number + 1, 0]
        return *(np.concatenate(column) for column in zip(*pieces, strict=True)), reset  # type: ignore[return-value]

    def _next(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Walks through whole streams, one after the other."""
        pieces: list[Walk] = []
        reset = np.zeros(self.steps, bool)
        filled = 0
        while filled < self.steps:
            number, offset = self.places[row]
            walk = self._walk(row, number)
            piece = Walk(*(part[offset : offset + self.steps - filled] for part in walk))
            if not offset:
                reset[filled] = True
            pieces.append(piece)
            filled += len(piece.labels)
            ended = offset + len(piece.labels) == len(walk.labels)
            self._move(row, [number + 1, 0] if ended else [number, offset + len(piece.labels)])
        return *(np.concatenate(column) for column in zip(*pieces, strict=True)), reset  # type: ignore[return-value]

    def _walk(self, row: int, number: int) -> Walk:
        if row not in self._walks:
            self._walks[row] = self.walker.whole(row, number)
        return self._walks[row]

    def _move(self, row: int, place: list[int]) -> None:
        if place[0] != self.places[row][0]:
            self._walks.pop(row, None)
        self.places[row] = place

    def state(self) -> dict[str, Any]:
        """Where each row stands."""
        return {"rows": [list(self.places[row]) for row in self.rows]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state()` was taken; its rows are all from row 0 on."""
        self.places = {row: list(state["rows"][row]) for row in self.rows}
        self._walks = {}
