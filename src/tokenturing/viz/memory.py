"""A stream as pictures, and the memory over time: what each slot holds, its gates, what is read."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from tokenturing.viz.style import BROAD, HEARD, IDLE, NARROW, RIGHT, SEEN, WRONG, figure, svg

COLORS = {"seen": SEEN, "heard": HEARD}
PICTURE_ZOOM = {False: 1.5, True: 1.0}
"""points a pixel, in a broad and in a narrow figure"""
STRIP_SECONDS = 15.0
"""of each strip that a narrow figure of a stream is cut into"""
GAP_SECONDS = 0.12
"""left free after a bar, so that neighbours of one colour can be told apart"""
MARGIN = 1.0
"""seconds around a strip, so that a picture at its edge has room"""
SHORTEST_LABEL = {False: 1.3, True: 2.6}
"""seconds that a label needs, in a broad and in a narrow figure"""
FULL_INK = 0.995
"""quantile of the reading weights that is drawn opaque"""


class Happening(NamedTuple):
    """A digit that was seen or heard."""

    kind: str
    """"seen" or "heard" """
    digit: int
    time: float
    """seconds"""
    picture: np.ndarray | None = None
    """[H, W] of the frame in the middle of a sighting"""


class Question(NamedTuple):
    """A question that was asked."""

    time: float
    right: bool


def stream_figure(
    happenings: Sequence[Happening], questions: Sequence[Question], seconds: float, name: str, *, narrow: bool = False
) -> str:
    """Pictures of what was seen, the words heard, questions answered right and wrong -> SVG; a narrow one in strips."""
    length = STRIP_SECONDS if narrow else seconds
    starts = [length * strip for strip in range(max(1, ceil(seconds / length)))]
    with figure(NARROW, 0.2 + 1.95 * len(starts)) if narrow else figure(BROAD, 3.4) as drawn:
        for axes, start in zip(drawn.subplots(len(starts), 1, squeeze=False).flat, starts, strict=True):
            strip = [one for one in happenings if start <= one.time < start + length]
            _draw_happenings(axes, strip, narrow)
            _draw_questions(axes, [one for one in questions if start <= one.time < start + length])
            axes.set_xlim(start - MARGIN, start + length + MARGIN)
            axes.set_xticks(np.arange(start, start + length + 0.1, 5 if narrow else 10))
            axes.set_yticks([0.5, 1.5, 4.05], ["asked", "heard", "seen"])
            axes.set_ylim(0, 5.9)
            axes.tick_params(left=False)
            axes.spines["left"].set_visible(False)
        axes.set_xlabel("seconds")
        return svg(drawn, name)


def _draw_happenings(axes: Axes, happenings: Sequence[Happening], narrow: bool) -> None:
    sighted = [happening for happening in happenings if happening.kind == "seen"]
    for index, happening in enumerate(sighted):
        _draw_sighting(axes, happening, 3.2 if index % 2 else 4.9, narrow)
    for happening in happenings:
        if happening.kind == "heard":
            axes.text(
                happening.time,
                1.5,
                str(happening.digit),
                ha="center",
                va="center",
                fontweight="bold",
                color="white",
                bbox={"boxstyle": "round,pad=0.3", "facecolor": HEARD, "edgecolor": "none"},
            )


def _draw_questions(axes: Axes, questions: Sequence[Question]) -> None:
    for mark, color, right in (("o", RIGHT, True), ("X", WRONG, False)):
        times = [question.time for question in questions if question.right == right]
        axes.plot(times, [0.5] * len(times), mark, color=color, markersize=6, markeredgewidth=0)


def _draw_sighting(axes: Axes, happening: Happening, height: float, narrow: bool) -> None:
    """A picture and its digit; in one of two rows, because pictures would overlap in one."""
    zoom = PICTURE_ZOOM[narrow]
    if happening.picture is not None:
        picture = OffsetImage(happening.picture, zoom=zoom, cmap="gray", norm=Normalize(0, 1))
        frame = {"facecolor": "none", "edgecolor": IDLE, "linewidth": 0.7}
        axes.add_artist(AnnotationBbox(picture, (happening.time, height), pad=0.02, bboxprops=frame))
    axes.annotate(
        str(happening.digit),
        (happening.time, height),
        (-18 * zoom, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color=SEEN,
        fontweight="bold",
    )


def memory_figure(
    held: np.ndarray,
    gates: np.ndarray,
    reads: np.ndarray,
    happenings: Sequence[Happening],
    step_seconds: float,
    name: str,
    *,
    narrow: bool = False,
) -> str:
    """Contents, gates and reads of the slots over time -> SVG.

    Args:
        held: int [T, M], index of the happening in each slot; negative: none.
        gates: [T, M] in [0, 1].
        reads: [T, M], how much each slot is read.
        happenings: those that `held` indexes.
        step_seconds: length of a step.
        name: of the figure.
        narrow: drawn for a narrow window.
    """
    slots = held.shape[1]
    with figure(NARROW, 2.2 + 0.3 * slots) if narrow else figure(BROAD, 2.2 + 0.38 * slots) as drawn:
        draw_memory(drawn, held, gates, reads, happenings, step_seconds, narrow=narrow)
        return svg(drawn, name)


def draw_memory(
    drawn: Figure,
    held: np.ndarray,
    gates: np.ndarray,
    reads: np.ndarray,
    happenings: Sequence[Happening],
    step_seconds: float,
    *,
    narrow: bool = False,
) -> None:
    """The same into an empty figure."""
    steps, slots = held.shape
    rows = drawn.subplots(3, 1, sharex=True, height_ratios=[2.2, 1, 1])
    _draw_held(rows[0], held, happenings, step_seconds, SHORTEST_LABEL[narrow])
    rows[0].set_title("what each slot holds")
    extent = (0, steps * step_seconds, slots - 0.5, -0.5)
    for axes, strength, title in (
        (rows[1], np.sqrt(gates.clip(0, 1)), "where it writes: its gates"),
        (rows[2], (reads / full_ink(reads)).clip(0, 1), "what it reads"),
    ):
        picture = _map(strength, held, happenings)
        axes.imshow(picture, aspect="auto", extent=extent, interpolation="none")
        axes.set_title(title)
    for axes in rows:
        axes.set_ylabel("slot")
        axes.set_yticks(range(0, slots, 4))
    rows[2].set_xlabel("seconds")


def full_ink(reads: np.ndarray) -> float:
    """The reading weight from which on the map of reads is opaque."""
    return max(float(np.quantile(reads, FULL_INK)), 1e-9)


def _draw_held(axes: Axes, held: np.ndarray, happenings: Sequence[Happening], step_seconds: float, shortest: float) -> None:
    steps, slots = held.shape
    axes.set_ylim(slots - 0.5, -0.5)
    axes.set_xlim(0, steps * step_seconds)
    for slot in range(slots):
        for begin, end, index in _stretches(held[:, slot]):
            if index < 0:
                continue
            happening, start = happenings[index], begin * step_seconds
            length = (end - begin) * step_seconds
            axes.broken_barh(
                [(start, max(length - GAP_SECONDS, 0.04))],
                (slot - 0.42, 0.84),
                facecolor=COLORS[happening.kind],
                linewidth=0,
            )
            if length >= shortest:
                axes.text(
                    start + 0.3,
                    slot + 0.02,
                    str(happening.digit),
                    color="white",
                    va="center",
                    fontsize=8,
                    fontweight="bold",
                )


def _stretches(values: np.ndarray) -> list[tuple[int, int, int]]:
    """(first, end, value) of runs of the same value."""
    borders = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(first, end, int(values[first])) for first, end in pairwise(borders)]


def _map(strength: np.ndarray, held: np.ndarray, happenings: Sequence[Happening]) -> np.ndarray:
    """RGBA [M, T, 4]: the colour of what a slot holds, as opaque as `strength` [T, M] says."""
    palette = np.array([to_rgba(IDLE)] + [to_rgba(COLORS[h.kind]) for h in happenings])
    picture = palette[np.maximum(held.T, -1) + 1]
    picture[..., 3] = strength.T
    return picture
