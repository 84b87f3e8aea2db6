"""Rows of an ablation as points with intervals: what each gives, and how far it is from the base."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from tokenturing.viz.style import BROAD, IDLE, INK, NARROW, SERIES, figure

DARK, LIGHT_INK = "#15171b", "#e7e9ec"
"""paper and ink of a dark figure"""


class Point(NamedTuple):
    """A value with its interval, which is a point itself where there is one run."""

    value: float
    low: float
    high: float


class Line(NamedTuple):
    """One row."""

    axis: str
    """whose rows stand together; "" is the base"""
    label: str
    point: Point | None
    difference: Point | None
    """None of the base, and where a run is missing"""


def ablation_figure(lines: Sequence[Line], measure: str, path: Path, *, narrow: bool = False, dark: bool = False) -> None:
    """Two panels, values and differences from the base, the base's value as a line through all -> a PNG file."""
    places, height = _places(lines)
    width = NARROW if narrow else BROAD
    ink, paper = (LIGHT_INK, DARK) if dark else (INK, "#ffffff")
    tall = 0.9 + 0.27 * height
    with figure(width, (2 * tall) if narrow else tall, ink=ink, paper=paper) as drawn:
        values, differences = drawn.subplots(2, 1) if narrow else drawn.subplots(1, 2, sharey=True)
        base = next((line.point for line in lines if not line.axis), None)
        for axes, what in ((values, [line.point for line in lines]), (differences, [line.difference for line in lines])):
            _draw(axes, places, what, against_zero=axes is differences)
            if narrow or axes is values:
                axes.set_yticks(places, [line.label for line in lines])
            axes.set_ylim(height - 0.4, -0.6)
            axes.tick_params(axis="y", length=0)
            axes.locator_params(axis="x", nbins=5 if narrow else 6)
            axes.grid(True, axis="x")
        if base is not None:
            values.axvline(base.value, color=IDLE, linestyle=":", linewidth=1.2)
        differences.axvline(0, color=IDLE, linestyle=":", linewidth=1.2)
        values.set_title(measure)
        differences.set_title("difference from the base")
        for axes in (values, differences) if narrow else (values,):
            _name_axes(axes, lines, places, ink)
        drawn.savefig(path, dpi=130, format="png", facecolor=paper)


def _places(lines: Sequence[Line]) -> tuple[list[float], float]:
    """A place for each row from the top, one left free above the rows of each axis for its name; and how many there are."""
    places: list[float] = []
    at, axis = 0.0, ""
    for line in lines:
        if line.axis != axis:
            at, axis = at + 1, line.axis
        places.append(at)
        at += 1
    return places, at


def _draw(axes: Axes, places: Sequence[float], points: Sequence[Point | None], *, against_zero: bool) -> None:
    for index, (place, point) in enumerate(zip(places, points, strict=True)):
        if point is None:
            continue
        color = _verdict(point) if against_zero else SERIES[0 if index == 0 else 6]
        reach = np.clip([[point.value - point.low], [point.high - point.value]], 0, None)
        axes.errorbar([point.value], [place], xerr=reach, color=color, marker="o", markersize=5, elinewidth=1.6, zorder=3)


def _verdict(difference: Point) -> str:
    """Grey where the interval holds 0 (or there is none), so that the difference may be noise."""
    return IDLE if difference.low == difference.high or difference.low <= 0 <= difference.high else SERIES[1]


def _name_axes(axes: Axes, lines: Sequence[Line], places: Sequence[float], ink: str) -> None:
    named = ""
    for line, place in zip(lines, places, strict=True):
        if line.axis != named:
            named = line.axis
            axes.annotate(
                named,
                (0, place - 1),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                weight="bold",
                color=ink,
                annotation_clip=False,
            )
