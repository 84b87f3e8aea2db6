"""A stream as pictures, and the memory over time: what each slot holds, its gates, what is read."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgba
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from tokenturing.viz.style import HEARD, IDLE, RIGHT, SEEN, WRONG, figure, svg

READ = "#8e5bd0"
COLORS = {"seen": SEEN, "heard": HEARD}
PICTURE_ZOOM = 1.5
"""points a pixel"""
GAP_SECONDS = 0.12
"""left free after a bar, so that neighbours of one colour can be told apart"""
SHORTEST_LABEL = 1.3
"""seconds that a label needs"""


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


def stream_figure(happenings: Sequence[Happening], questions: Sequence[Question], seconds: float, name: str) -> str:
    """Pictures of what was seen, the words heard, questions answered right and wrong -> SVG."""
    with figure(11, 3.4) as drawn:
        axes = drawn.subplots()
        _draw_stream(axes, happenings, questions)
        axes.set_xlim(0, seconds)
        axes.set_xlabel("seconds")
        return svg(drawn, name)


def _draw_stream(axes: Axes, happenings: Sequence[Happening], questions: Sequence[Question]) -> None:
    sighted = [happening for happening in happenings if happening.kind == "seen"]
    for index, happening in enumerate(sighted):
        _draw_sighting(axes, happening, 3.2 if index % 2 else 4.9)
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
    for mark, color, right in (("o", RIGHT, True), ("X", WRONG, False)):
        times = [question.time for question in questions if question.right == right]
        axes.plot(times, [0.5] * len(times), mark, color=color, markersize=6, markeredgewidth=0)
    axes.set_yticks([0.5, 1.5, 4.05], ["questions", "heard", "seen"])
    axes.set_ylim(0, 5.9)
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)


def _draw_sighting(axes: Axes, happening: Happening, height: float) -> None:
    """A picture and its digit; in one of two rows, because pictures would overlap in one."""
    if happening.picture is not None:
        picture = OffsetImage(happening.picture, zoom=PICTURE_ZOOM, cmap="gray", norm=Normalize(0, 1))
        frame = {"facecolor": "none", "edgecolor": IDLE, "linewidth": 0.7}
        axes.add_artist(AnnotationBbox(picture, (happening.time, height), pad=0.02, bboxprops=frame))
    axes.annotate(
        str(happening.digit),
        (happening.time, height),
        (-27, 0),
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
) -> str:
    """Contents, gates and reads of the slots over time -> SVG.

    Args:
        held: int [T, M], index of the happening in each slot; negative: none.
        gates: [T, M] in [0, 1].
        reads: [T, M], how much each slot is read.
        happenings: those that `held` indexes.
        step_seconds: length of a step.
        name: of the figure.
    """
    steps, slots = held.shape
    with figure(11, 2.2 + 0.38 * slots) as drawn:
        rows = drawn.subplots(3, 1, sharex=True, height_ratios=[2.2, 1, 1])
        _draw_held(rows[0], held, happenings, step_seconds)
        rows[0].set_title("what each slot holds: the digit seen (blue) or heard (orange) when it was last written")
        extent = (0, steps * step_seconds, slots - 0.5, -0.5)
        rows[1].imshow(_gate_map(gates, held, happenings), aspect="auto", extent=extent, interpolation="none")
        rows[1].set_title(f"where it writes: its gates, of which {(gates == 0).mean():.1%} are shut to the bit")
        rows[2].imshow(_read_map(reads), aspect="auto", extent=extent, interpolation="none")
        rows[2].set_title("what it reads: the stronger, the more that slot is attended to")
        for axes in rows:
            axes.set_ylabel("slot")
            axes.set_yticks(range(0, slots, 4))
        rows[2].set_xlabel("seconds")
        return svg(drawn, name)


def _draw_held(axes: Axes, held: np.ndarray, happenings: Sequence[Happening], step_seconds: float) -> None:
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
            if length >= SHORTEST_LABEL:
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


def _gate_map(gates: np.ndarray, held: np.ndarray, happenings: Sequence[Happening]) -> np.ndarray:
    """RGBA [M, T, 4]: the colour of what a slot holds, as opaque as its gate is open."""
    palette = np.array([to_rgba(IDLE)] + [to_rgba(COLORS[h.kind]) for h in happenings])
    picture = palette[np.maximum(held.T, -1) + 1]
    picture[..., 3] = np.sqrt(gates.T.clip(0, 1))
    return picture


def _read_map(reads: np.ndarray) -> np.ndarray:
    """RGBA [M, T, 4]: one colour, as opaque as the slot is read."""
    picture = np.empty((*reads.T.shape, 4))
    picture[...] = to_rgba(READ)
    picture[..., 3] = (reads.T / max(float(np.quantile(reads, 0.995)), 1e-9)).clip(0, 1)
    return picture
