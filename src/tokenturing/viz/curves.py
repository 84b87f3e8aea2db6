"""Curves: learning, accuracy by delay, cost and size by length of the stream."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from tokenturing.viz.style import BROAD, IDLE, MARKS, NARROW, SERIES, figure, model_style, svg


class Share(NamedTuple):
    """An accuracy with its 95 % interval."""

    delay: float
    """seconds"""
    accuracy: float
    low: float
    high: float


class Length(NamedTuple):
    """Cost of a step and size of the state at a length of the stream."""

    seconds: float
    multiply_adds: float
    nbytes: float


DASHES = ("-", "--", "-.", ":")


def learning_figure(
    seconds: Sequence[float], curves: Mapping[str, Sequence[float]], chance: float, name: str, *, narrow: bool = False
) -> str:
    """Accuracy over training time, a line for each question, all in the colour of the one model -> SVG."""
    with figure(NARROW, 3.4) if narrow else figure(BROAD, 3.2) as drawn:
        axes = drawn.subplots()
        for index, (label, shares) in enumerate(curves.items()):
            dash, mark = DASHES[index % len(DASHES)], MARKS[index % len(MARKS)]
            axes.plot(seconds, shares, color=SERIES[0], linestyle=dash, marker=mark, markersize=3.5, label=label)
        axes.axhline(chance, color=IDLE, linestyle=":", linewidth=1.2, label="guessing")
        axes.set_ylim(0, 1.02)
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds of training on this machine")
        axes.set_ylabel("share right")
        axes.grid(True)
        drawn.legend(loc="outside upper left" if narrow else "outside right center", ncols=2 if narrow else 1)
        return svg(drawn, name)


def delay_figure(
    panels: Mapping[str, Mapping[str, Sequence[Share]]],
    models: Sequence[str],
    apart: Collection[str],
    name: str,
    *,
    narrow: bool = False,
) -> str:
    """Accuracy by delay: a panel for each kind of question, a line for each of the models -> SVG.

    The points of the panels in `apart` are not joined.
    """
    with figure(NARROW, 0.6 + 1.9 * len(panels)) if narrow else figure(BROAD, 3.6) as drawn:
        grid = (len(panels), 1) if narrow else (1, len(panels))
        row = drawn.subplots(*grid, sharey=True, squeeze=False).flat
        for axes, (title, lines) in zip(row, panels.items(), strict=True):
            delays = sorted({share.delay for shares in lines.values() for share in shares})
            for place, (model, shares) in enumerate(lines.items()):
                style = model_style(models.index(model)) | ({"linestyle": "none"} if title in apart else {})
                # Side by side, so that the intervals of equally good models can be told apart.
                aside = 0.07 * (place - (len(lines) - 1) / 2)
                _draw_shares(axes, shares, [delays.index(share.delay) + aside for share in sorted(shares)], model, style)
            axes.set_title(title)
            axes.set_xticks(range(len(delays)), [readable(delay) for delay in delays])
            axes.set_ylim(0, 1.03)
            axes.axhline(0.95, color=IDLE, linestyle=":", linewidth=1)
            axes.grid(True, axis="y")
        row[0].set_ylabel("share right")
        handles, labels = row[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside upper left", ncols=2 if narrow else min(len(labels), 6))
        return svg(drawn, name)


def _draw_shares(axes: Axes, shares: Sequence[Share], x: Sequence[float], model: str, style: Mapping[str, Any]) -> None:
    ordered = sorted(shares)
    y = np.array([share.accuracy for share in ordered])
    below = y - np.array([share.low for share in ordered])
    above = np.array([share.high for share in ordered]) - y
    axes.errorbar(x, y, yerr=np.clip([below, above], 0, None), label=model, elinewidth=1, **style)


def readable(seconds: float) -> str:
    """0.5 -> "0.5 s", 600 -> "10 min" """
    if seconds < 1:
        return f"{seconds:g} s"
    return f"{seconds / 60:.3g} min" if seconds >= 60 else f"{seconds:.0f} s"


def growth_figure(models: Mapping[str, Sequence[Length]], name: str, *, narrow: bool = False) -> str:
    """Cost of a step and size of the state by length of the stream, both axes logarithmic -> SVG."""
    with figure(NARROW, 6.6) if narrow else figure(BROAD, 4) as drawn:
        cost, size = drawn.subplots(2, 1) if narrow else drawn.subplots(1, 2)
        for index, (model, lengths) in enumerate(models.items()):
            seconds = [length.seconds for length in lengths]
            style = {"label": model, **model_style(index)}
            cost.plot(seconds, [length.multiply_adds / 1e6 for length in lengths], **style)
            size.plot(seconds, [length.nbytes / 1e3 for length in lengths], **style)
        cost.set_yscale("log")
        size.set_yscale("symlog", linthresh=0.1)  # some models have no state at all
        ticks = sorted({length.seconds for lengths in models.values() for length in lengths})
        for axes, title in (
            (cost, "multiply-adds a step, in millions"),
            (size, "state of one stream, in kB"),
        ):
            axes.set_xscale("log")
            axes.set_xticks(ticks, [readable(tick) for tick in ticks])
            axes.minorticks_off()
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("length of the stream so far")
            axes.set_title(title)
            axes.grid(True)
        handles, labels = cost.get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside upper left", ncols=2 if narrow else min(len(labels), 6))
        return svg(drawn, name)


def long_figure(
    steps: Sequence[int], milliseconds: Sequence[float], mebibytes: Sequence[float], name: str, *, narrow: bool = False
) -> str:
    """Time of a step and memory of the process by position in a very long stream, y axes from 0 -> SVG."""
    with figure(NARROW, 4.4) if narrow else figure(BROAD, 2.6) as drawn:
        grid = (2, 1) if narrow else (1, 2)
        panels = zip(drawn.subplots(*grid), (milliseconds, mebibytes), strict=True)
        for (axes, values), title in zip(panels, ("median step, in ms", "memory of the process, in MiB"), strict=True):
            axes.plot(steps, values, color=SERIES[0], marker=MARKS[0], markersize=4.5)
            axes.set_ylim(0, 1.25 * max(values))
            axes.set_xlim(0, None)
            axes.locator_params(axis="x", nbins=4 if narrow else 6)
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.set_xlabel("steps of the stream so far")
            axes.set_title(title)
            axes.grid(True)
        return svg(drawn, name)
