"""Colours that are readable on white and on black, each with one meaning, and figures as SVG in the page's own text colour."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

INK = "#123456"
"""stands for the page's text colour until the SVG is written"""
SEEN, HEARD, RIGHT, WRONG = "#3d85c6", "#e0862d", "#2e9e5b", "#dc4438"
IDLE = "#8a8f98"
SERIES = ("#8e5bd0", "#1fa3a3", "#d9569f", "#a58b1f", "#9a6a4c", "#84a82a", "#64809a", "#b04fb0", "#8a8f98", INK)
"""colours of models, the first for the one that matters; none of them means anything else"""
MARKS = "osD^vPX<>h"
SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlecolor": INK,
    "legend.frameon": False,
    "grid.color": "#8a8f98",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
}
BROAD, NARROW = 11.0, 4.2
"""inches; at these widths the text is legible on a desktop and on a phone"""


def model_style(index: int) -> dict[str, Any]:
    """How the lines of a model are drawn, by its place among all of them."""
    color = index if index < len(SERIES) else 1 + (index - 1) % (len(SERIES) - 1)  # nobody else gets the first
    return {
        "color": SERIES[color],
        "marker": MARKS[index % len(MARKS)],
        "markersize": 4.5,
        "linestyle": "-" if index < len(SERIES) else "--",
        "linewidth": 2.6 if index == 0 else 1.4,
        "zorder": 10 - index / 10,
    }


@contextmanager
def figure(width: float, height: float, *, ink: str = INK, paper: str = "white") -> Iterator[Figure]:
    """An empty figure in our style; draw and save inside the `with`. Ink and paper are colours, of files that are no pages."""
    colours = {name: ink for name, value in SETTINGS.items() if value == INK}
    with mpl.rc_context({**SETTINGS, **colours, "figure.facecolor": paper, "axes.facecolor": paper}):
        yield Figure(figsize=(width, height))


def svg(drawn: Figure, name: str) -> str:
    """A figure as an SVG element for a page: no prologue, no addresses, ink in the page's text colour.

    Args:
        drawn: the figure, inside `with figure(...)`.
        name: unique on the page, so that no two figures share ids.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"', "", text.split(">", 1)[0]) + (">" + text.split(">", 1)[1])
    text = text.replace("xlink:href", "href").replace(INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
