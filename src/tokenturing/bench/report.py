"""Tables and figures of a benchmark, made from its results alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import LogLocator

from tokenturing.viz.style import MARKS, SERIES, figure

MACHINE = "machine"
REFERENCE = "plain loop"
Result = Mapping[str, Any]


def markdown(result: Result) -> str:
    """A page of tables; times as they were and by the plain loop's of the same run."""
    lines = [*_head(result)]
    for title, table in tables(result):
        lines += ["", f"## {title}", "", *_table(table)]
    if result["skipped"]:
        lines += ["", "## Not measured", ""]
        lines += [f"- {name}: {reason}" for name, reason in result["skipped"].items()]
    return "\n".join(lines) + "\n"


def tables(result: Result) -> list[tuple[str, list[list[str]]]]:
    """(title, rows of cells with the head first) of all that was measured."""
    found = []
    steps, trained = result.get("step", []), result.get("training", [])
    positions, memory = result.get("position", []), result.get("memory", [])
    for batch in sorted({row["batch"] for row in steps}):
        rows = [row for row in steps if row["batch"] == batch]
        found.append((f"A step of {batch} row{'s' * (batch > 1)}", _timed(result, rows, "step")))
    if trained:
        title = f"A training step of {trained[0]['rows']} rows and {trained[0]['steps']} steps"
        found.append((title, _timed(result, trained, "training")))
    if positions:
        found.append(("By position in the stream", _positions(positions)))
    if memory:
        found.append((f"Memory of training at width {memory[0]['width']}", _memory(memory)))
    return found


def _head(result: Result) -> list[str]:
    machine, limits = result["machine"], result["limits"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    cores = f"{result['threads']} of {machine['cores']} cores in use"
    return [
        f"`{result['command']}`",
        "",
        f"{machine['processor']}, {cores} ({', '.join(machine['flags'])}); {versions}. Products of matrices reach "
        f"{limits['float32_gflops']:.0f} GFLOP/s in float32 and {limits['bfloat16_gflops']:.0f} in bfloat16, copies "
        f"{limits['copy_gbytes']:.0f} GB/s. All take turns in one run; medians, quartiles in brackets.",
    ]


def _timed(result: Result, rows: Sequence[Result], what: str) -> list[list[str]]:
    of = {one["name"]: one for one in result["contestants"]}
    base = next((row["median"] for row in rows if row["name"] == REFERENCE), None)
    head = ["", "parameters", "ms", "of the plain loop", "of the limit"]
    if what == "training":
        head.append("first, s")
    table = [head]
    for row in rows:
        cells = [
            row["name"],
            f"{of[row['name']]['parameters'] / 1e6:.2f} M",
            f"{row['median'] * 1e3:.3g} ({row['low'] * 1e3:.3g}-{row['high'] * 1e3:.3g})",
            f"{row['median'] / base:.2f}" if base else "",
            _share(result, row, of[row["name"]], what),
        ]
        table.append([*cells, f"{row['first']:.1f}"] if what == "training" else cells)
    return table


def bound(result: Result, row: Result, what: str) -> tuple[float, str]:
    """The least time, in seconds, that this machine's arithmetic or its memory allows a step of the TTM, and which of both.

    Each weight is read once a step (in training three times: forward, backward, and its gradient is written), every multiply-add
    is two operations (six in training). Caches may hold the weights: then the bound of the memory is none.
    """
    name, limits = row["name"], result["limits"]
    half = "bf" in name
    rate = limits["bfloat16_gflops" if half else "float32_gflops"] * 1e9
    if "int8" in name:  # of processors with products of 8 bits: four times that of float32, or twice that of bfloat16
        rate = max(4 * limits["float32_gflops"], 2 * limits["bfloat16_gflops"]) * 1e9
    operations = 2 * result["multiply_adds"] * row.get("batch", row.get("rows"))
    numbers = next(one["parameters"] for one in result["contestants"] if one["name"] == name)
    bytes_read = numbers * (1 if "int8" in name else 2 if half else 4)
    if what == "training":
        operations, bytes_read = 3 * operations * row["steps"], numbers * 4 * 3
    times = {
        "arithmetic": operations / rate,
        "memory": bytes_read / (limits["copy_gbytes"] * 1e9),
    }
    which = max(times, key=lambda key: times[key])
    return times[which], which


def _share(result: Result, row: Result, one: Result, what: str) -> str:
    if one["kind"] != MACHINE:
        return ""
    least, which = bound(result, row, what)
    return f"{least / row['median']:.0%} ({which})"


def _positions(rows: Sequence[Result]) -> list[list[str]]:
    table = [["", "position", "ms a step", "state, bytes"]]
    for row in sorted(rows, key=lambda row: (row["name"], row["position"])):
        mark = "" if row["reached"] else " (out of time)"
        table.append(
            [
                row["name"],
                f"{row['position']:,}{mark}",
                f"{row['median'] * 1e3:.3g}",
                f"{row['state_bytes']:,}",
            ]
        )
    return table


def _memory(rows: Sequence[Result]) -> list[list[str]]:
    table = [["steps", "recompute", "peak, MiB", "more than at 4 steps, MiB", "seconds"]]
    for row in rows:
        sizes = [f"{row['peak_mib']:.0f}", f"{row['grown_mib']:.0f}"]
        table.append([str(row["steps"]), str(row["recompute"] or "none"), *sizes, f"{row['seconds']:.1f}"])
    return table


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *rest = rows
    marks = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *rest)]


def figures(result: Result, folder: Path) -> list[Path]:
    """PNG files of what was measured."""
    made = []
    for what, draw in (("step", _draw_steps), ("position", _draw_positions), ("memory", _draw_memory)):
        if result.get(what):
            made.append(draw(result, folder / f"bench-{what}.png"))
    return made


def _draw_steps(result: Result, path: Path) -> Path:
    rows = result["step"]
    batches = sorted({row["batch"] for row in rows})
    with figure(5.2 * len(batches), 0.24 * len(result["contestants"]) + 1.0) as drawn:
        for axes, batch in zip(drawn.subplots(1, len(batches), squeeze=False)[0], batches, strict=True):
            here = sorted((row for row in rows if row["batch"] == batch), key=lambda row: -row["median"])
            kinds = {one["name"]: one["kind"] for one in result["contestants"]}
            colours = [SERIES[{"machine": 0, "baseline": 4, "peer": 8}[kinds[row["name"]]]] for row in here]
            for row, colour in zip(here, colours, strict=True):  # points: a bar on a logarithmic axis has no length to compare
                low, middle, high = (row[name] * 1e3 for name in ("low", "median", "high"))
                axes.plot([low, high], [row["name"]] * 2, color=colour, linewidth=1.6)
                axes.plot(middle, row["name"], "o", color=colour)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            axes.set_xlabel("ms a step")
            axes.set_title(f"{batch} row{'s' * (batch > 1)}")
            axes.grid(axis="x")
        drawn.savefig(path, dpi=130)
    return path


def _draw_positions(result: Result, path: Path) -> Path:
    rows = result["position"]
    names = list(dict.fromkeys(row["name"] for row in rows))
    with figure(10.5, 4.6) as drawn:
        left, right = drawn.subplots(1, 2)
        for index, name in enumerate(names):
            here = [row for row in rows if row["name"] == name]
            style: dict[str, Any] = {
                "color": SERIES[index % len(SERIES)],
                "marker": MARKS[index % len(MARKS)],
                "markersize": 4,
                "linestyle": "-" if index < len(SERIES) else "--",
                "label": name,
            }
            positions = [row["position"] for row in here]
            left.plot(positions, [row["median"] * 1e3 for row in here], **style)
            right.plot(positions, [row["state_bytes"] / 1024 for row in here], **style)
        for axes, label in ((left, "ms a step"), (right, "state of a stream, KiB")):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("position in the stream, steps")
            axes.set_title(label)
            axes.grid()
        drawn.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=8)
        drawn.savefig(path, dpi=130)
    return path


def _draw_memory(result: Result, path: Path) -> Path:
    rows = result["memory"]
    kinds = {
        "none": lambda row: row["recompute"] == 0,
        "16": lambda row: row["recompute"] == 16,
        "root of the length": lambda row: row["recompute"] not in (0, 16),
    }
    with figure(5.2, 3.4) as drawn:
        axes = drawn.subplots()
        for index, (label, belongs) in enumerate(kinds.items()):
            here = [row for row in rows if belongs(row)]
            axes.plot(
                [row["steps"] for row in here],
                [row["grown_mib"] for row in here],
                color=SERIES[index],
                marker=MARKS[index],
                label=f"recompute: {label}",
            )
        axes.set_xlabel("steps of a stream")
        axes.set_title("memory of one training step, MiB")
        axes.grid()
        axes.legend()
        drawn.savefig(path, dpi=130)
    return path
