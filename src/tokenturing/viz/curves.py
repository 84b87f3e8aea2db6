"""Curves: learning, accuracy by delay, cost and size by length of the stream."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from tokenturing.viz.style import IDLE, MARKS, SERIES, figure, svg


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


def learning_figure(seconds: Sequence[float], curves: Mapping[str, Sequence[float]], chance: float, name: str) -> str:
    """Accuracy over training time, a line for each question -> SVG."""
    with figure(7.5, 3.2) as drawn:
        axes = drawn.subplots()
        for index, (label, shares) in enumerate(curves.items()):
            axes.plot(seconds, shares, color=SERIES[index % len(SERIES)], label=label)
        axes.axhline(chance, color=IDLE, linestyle=":", linewidth=1.2, label="guessing")
        axes.set_ylim(0, 1.02)
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds of training on this machine")
        axes.set_ylabel("share right")
        axes.grid(True)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return svg(drawn, name)


def delay_figure(panels: Mapping[str, Mapping[str, Sequence[Share]]], models: Sequence[str], name: str) -> str:
    """Accuracy by delay: a panel for each kind of question, a line for each of the models -> SVG."""
    with figure(11, 3.4) as drawn:
        row = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, lines) in zip(row, panels.items(), strict=True):
            delays = sorted({share.delay for shares in lines.values() for share in shares})
            for model, shares in lines.items():
                _draw_shares(axes, model, models.index(model), len(models), shares, delays)
            axes.set_title(title)
            axes.set_xticks(range(len(delays)), [readable(delay) for delay in delays])
            axes.set_ylim(0, 1.03)
            axes.axhline(0.95, color=IDLE, linestyle=":", linewidth=1)
            axes.grid(True, axis="y")
        row[0].set_ylabel("share right")
        handles, labels = row[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
        return svg(drawn, name)


def _draw_shares(axes: Axes, model: str, index: int, count: int, shares: Sequence[Share], delays: Sequence[float]) -> None:
    ordered = sorted(shares)
    # Side by side, so that the intervals of equally good models can be told apart.
    x = np.array([delays.index(share.delay) for share in ordered]) + 0.045 * (index - (count - 1) / 2)
    y = np.array([share.accuracy for share in ordered])
    below = y - np.array([share.low for share in ordered])
    above = np.array([share.high for share in ordered]) - y
    axes.errorbar(
        x,
        y,
        yerr=np.clip([below, above], 0, None),
        label=model,
        color=SERIES[index % len(SERIES)],
        marker=MARKS[index % len(MARKS)],
        markersize=4.5,
        linewidth=2.6 if index == 0 else 1.3,
        elinewidth=1,
        zorder=10 - index,
    )


def readable(seconds: float) -> str:
    """0.5 -> "0.5 s", 600 -> "10 min" """
    if seconds < 1:
        return f"{seconds:g} s"
    return f"{seconds / 60:.3g} min" if seconds >= 60 else f"{seconds:.0f} s"


def growth_figure(models: Mapping[str, Sequence[Length]], name: str) -> str:
    """Cost of a step and size of the state by length of the stream, both axes logarithmic -> SVG."""
    with figure(11, 3.8) as drawn:
        cost, size = drawn.subplots(1, 2)
        for index, (model, lengths) in enumerate(models.items()):
            seconds = [length.seconds for length in lengths]
            style = {
                "color": SERIES[index % len(SERIES)],
                "marker": MARKS[index % len(MARKS)],
                "markersize": 4.5,
                "linewidth": 2.6 if index == 0 else 1.4,
                "label": model,
                "zorder": 10 - index,
            }
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
        drawn.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
        return svg(drawn, name)


def long_figure(steps: Sequence[int], milliseconds: Sequence[float], mebibytes: Sequence[float], name: str) -> str:
    """Time of a step and memory of the process by position in a very long stream, y axes from 0 -> SVG."""
    with figure(11, 2.6) as drawn:
        panels = zip(drawn.subplots(1, 2), (milliseconds, mebibytes), strict=True)
        for (axes, values), title in zip(panels, ("median step, in ms", "memory of the process, in MiB"), strict=True):
            axes.plot(steps, values, color=SERIES[0], marker=MARKS[0], markersize=4.5)
            axes.set_ylim(0, 1.25 * max(values))
            axes.set_xlim(0, None)
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.set_xlabel("steps of the stream so far")
            axes.set_title(title)
            axes.grid(True)
        return svg(drawn, name)
