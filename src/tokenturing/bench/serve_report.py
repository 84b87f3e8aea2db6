"""The table and the figure of a server under load."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenturing.bench.serve import BATCHED, PLAIN, SINGLE, best_other
from tokenturing.bench.serve_load import PERIOD, RATE
from tokenturing.viz.style import MARKS, SERIES, figure

SAID = {BATCHED: "batches", SINGLE: "--batch 1", PLAIN: "one lock"}
Result = dict[str, Any]


def table(result: Result) -> list[list[str]]:
    """Rows of cells, the head first; of a number that was tried again the better try."""
    head = ["", "sessions", "median, ms", "99th percentile, ms", "in time", "steps a second", "server, cores"]
    return [head, *(_cells(row) for row in _best(result["rows"]))]


def _cells(row: dict[str, Any]) -> list[str]:
    odd = [f"{count} {code}" for code, count in row["errors"].items()] + [f"{row['unanswered']} unanswered"] * (
        row["unanswered"] > 0
    )
    return [
        SAID[row["name"]],
        str(row["sessions"]),
        _milliseconds(row["median"]),
        _milliseconds(row["p99"]),
        f"{row['in_time']:.1%}" + (f" ({', '.join(odd)})" if odd else ""),
        f"{row['rate']:.0f}",
        f"{row['server_cpu']:.2f}",
    ]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f}" if seconds > 0.1 else f"{1e3 * seconds:.3g}"


def _best(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    best: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        key = row["name"], row["sessions"]
        if key not in best or row["p99"] < best[key]["p99"]:
            best[key] = row
    return sorted(best.values(), key=lambda row: (list(SAID).index(row["name"]), row["sessions"]))


def in_short(result: Result) -> list[str]:
    """What it comes down to."""
    found = result["held"]
    lines = [
        f"{SAID[name]}: {number} sessions at {RATE:g} steps a second, 99th percentile at most {1e3 * PERIOD:g} ms"
        for name, number in found.items()
    ]
    if len(found) > 1 and best_other(found):
        lines.append(f"{found[BATCHED] / best_other(found):.2f} times the better of the others")
    if soaked := result.get("soak"):
        memory = soaked["memory"]
        lines.append(
            f"{soaked['sessions']} sessions for {soaked['minutes']:g} minutes: {soaked['steps']} steps, "
            f"{soaked['unanswered']} unanswered, errors: {soaked['errors'] or 'none'}, "
            f"99th percentile {1e3 * soaked['p99']:.3g} ms, "
            f"memory {memory[0]['mib']:.0f} MiB at first and {memory[-1]['mib']:.0f} MiB at last"
        )
    return lines


def markdown(result: Result) -> str:
    """The same as a page's part."""
    head, *rows = table(result)
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [f"`{result['command']}`", "", f"{machine['processor']}, {machine['cores']} cores; {versions}.", ""]
    lines += [f"- {line}" for line in in_short(result)]
    lines += ["", *(f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows))]
    return "\n".join(lines) + "\n"


def draw(result: Result, path: Path) -> Path:
    """Median and 99th percentile by the number of sessions."""
    rows = _best(result["rows"])
    with figure(7.5, 4.2) as drawn:
        axes = drawn.subplots()
        for index, (name, label) in enumerate(SAID.items()):
            here = [row for row in rows if row["name"] == name]
            if not here:
                continue
            style: Any = {"color": SERIES[index], "marker": MARKS[index], "markersize": 4}
            held = f"{label}: holds {result['held'][name]}"
            axes.plot(
                [row["sessions"] for row in here], [1e3 * row["p99"] for row in here], label=f"{held}, 99th percentile", **style
            )
            axes.plot(
                [row["sessions"] for row in here], [1e3 * row["median"] for row in here], label="median", linestyle=":", **style
            )
        axes.axhline(1e3 * PERIOD, color="#8a8f98", linewidth=1, label=f"{1e3 * PERIOD:g} ms, when the next step is due")
        axes.set_xscale("log")
        axes.set_yscale("log")
        numbers = [row["sessions"] for row in rows]
        ticks = [tick for power in (1, 10, 100, 1000) for tick in (power, 2 * power, 5 * power)]
        axes.set_xticks([tick for tick in ticks if min(numbers) <= tick <= max(numbers)])
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        axes.set_xlabel(f"sessions at {RATE:g} steps a second")
        axes.set_title("from when a step is due to its reply, ms")
        axes.grid()
        drawn.legend(loc="outside right upper", fontsize=7.5)
        drawn.savefig(path, dpi=130)
    return path
