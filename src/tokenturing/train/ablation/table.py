"""The table of an ablation: means over settings and seeds, and differences from the base, run by run of the same data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenturing.errors import OptionError, closest
from tokenturing.evaluate.figures import Figure
from tokenturing.evaluate.spread import spread
from tokenturing.train.ablation.jobs import Outcome
from tokenturing.train.ablation.plan import Plan, Row

ALL = "mean"
"""what is compared where the recipe names no figure: the mean of all that the evaluation has"""


def result(plan: Plan, outcomes: Mapping[str, Outcome], command: str = "") -> dict[str, Any]:
    """All that came of an ablation so far, as plain values: what ablation.json holds.

    Raises:
        OptionError: the evaluation has no figure of that name.
    """
    names = plan.figures or (ALL,)
    values = {
        place: {name: value_of(outcome.found["figures"], name) for name in names}
        for place, outcome in outcomes.items()
        if outcome.found
    }
    base = [values.get(cell.place) for cell in plan.of(plan.rows[0])]
    return {
        "command": command,
        "figures": list(names),
        "over": [over for over in plan.over if over],
        "seeds": list(plan.seeds),
        "evaluate": dict(plan.evaluate),
        "paper": plan.paper,
        "rows": [_row(plan, row, names, outcomes, values, base) for row in plan.rows],
    }


def value_of(figures: Sequence[Mapping[str, Any]], name: str) -> float:
    """The mean of the figures whose kind or measure has this name; of all for `ALL`."""
    found = [Figure.from_json(figure) for figure in figures]
    chosen = [figure.value for figure in found if name in (ALL, figure.kind, figure.measure)]
    if not chosen:
        known = dict.fromkeys(part for figure in found for part in (figure.kind, figure.measure))
        raise OptionError(f"ablate.figures: the evaluation has no {name!r}: expected {closest(name, known)}")
    return sum(chosen) / len(chosen)


def _row(
    plan: Plan,
    row: Row,
    names: Sequence[str],
    outcomes: Mapping[str, Outcome],
    values: Mapping[str, Mapping[str, float]],
    base: Sequence[Mapping[str, float] | None],
) -> dict[str, Any]:
    cells = plan.of(row)
    found = [values.get(cell.place) for cell in cells]
    whole = [outcome.found for cell in cells if (outcome := outcomes.get(cell.place)) and outcome.found]
    over = [cell.over for cell in cells]
    pairs = [
        (where, ours[names[0]] - theirs[names[0]])
        for where, ours, theirs in zip(over, found, base, strict=True)
        if ours and theirs
    ]
    is_base = [cell.place for cell in cells] == [cell.place for cell in plan.of(plan.rows[0])]
    return {
        "axis": row.axis,
        "label": row.label,
        "settings": [*row.settings, *([f"{row.key}={row.value}"] if row.key else [])],
        "base": is_base,
        "parameters": whole[0]["parameters"] if whole else None,
        "multiply_adds": whole[0]["multiply_adds"] if whole else None,
        "growing": bool(whole and whole[0]["growing"]),
        "figures": {name: _mean((where, one[name]) for where, one in zip(over, found, strict=True) if one) for name in names},
        "difference": None if is_base else _mean(pairs),
        "paper": row.paper,
        "paper_cost": row.paper_cost,
        "runs": [
            {
                "over": cell.over,
                "seed": cell.seed,
                "folder": cell.place,
                **_outcome(outcomes.get(cell.place), values.get(cell.place)),
            }
            for cell in cells
        ],
    }


def _outcome(outcome: Outcome | None, values: Mapping[str, float] | None) -> dict[str, Any]:
    if outcome is None:
        return {"state": "to be run"}
    if outcome.found is None:
        return {"state": "failed", "error": outcome.error}
    kept = {name: outcome.found.get(name) for name in ("seconds", "validation")}
    return {"state": "ended", "figures": dict(values or {}), **kept}


def _mean(values: Iterable[tuple[str, float]]) -> dict[str, Any] | None:
    """(setting, value) of some runs -> their mean and interval, over the means of the settings, or of one setting over seeds."""
    by_setting: dict[str, list[float]] = {}
    for where, value in values:
        by_setting.setdefault(where, []).append(value)
    if not by_setting:
        return None
    found = spread(by_setting)
    low, high = (None if math.isnan(end) else end for end in (found.low, found.high))
    return {"value": found.mean, "low": low, "high": high, "runs": sum(map(len, by_setting.values()))}


def columns(result: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The table's head, and its rows as (axis, cells)."""
    first, *others = result["figures"]
    papers = any(row["paper"] is not None for row in result["rows"])
    costs = any(row["paper_cost"] is not None for row in result["rows"])
    head = ["", "parameters", "multiply-adds", first, "against the base", *others]
    head += [f"paper{', ' + result['paper'] if result['paper'] else ''}"] * papers + ["paper, multiply-adds"] * costs
    return head, [(row["axis"], _cells(row, first, others, papers, costs)) for row in result["rows"]]


def markdown(result: Mapping[str, Any]) -> str:
    """The table as a page: rows by axis, then what failed."""
    head, rows = columns(result)
    table = [f"| {' | '.join(head)} |", f"|{' --- |'}{' ---: |' * (len(head) - 1)}"]
    named = ""
    for axis, cells in rows:
        if axis != named:
            named = axis
            table.append(f"| **{_text(axis)}** |{' |' * (len(head) - 1)}")
        table.append(f"| {' | '.join(map(_text, cells))} |")
    return "\n".join([*_intro(result), "", *table, *_failures(result)]) + "\n"


def _intro(result: Mapping[str, Any]) -> list[str]:
    count = max(1, len(result["over"])) * len(result["seeds"])
    over = f"{len(result['over'])} settings ({', '.join(result['over'])}) and " if result["over"] else ""
    seeds = f"{len(result['seeds'])} seed{'s' * (len(result['seeds']) > 1)}"
    what = "settings" if len(result["over"]) > 1 else "seeds"
    lines = [f"`{result['command']}`", ""] if result["command"] else []
    if count == 1:
        return [*lines, "One run a row: nothing here says what is noise. More seeds do (`--seeds 0 1 2`)."]
    return [
        *lines,
        f"Means over {over}{seeds}, {count} runs a row, ± half of the 95 % interval over the {what}. A row and the base are "
        "compared run by run, with the same data and seed. Where that interval holds 0, the difference may be noise; else it is "
        "in bold.",
    ]


def _cells(row: Mapping[str, Any], first: str, others: Sequence[str], papers: bool, costs: bool) -> list[str]:
    label = f"{row['label']}{' (the base)' if row['base'] and row['axis'] else ''}"
    cells = [label, _count(row["parameters"]), _count(row["multiply_adds"]) + (", growing" if row["growing"] else "")]
    cells += [_interval(row["figures"][first]), "" if row["base"] else _difference(row["difference"])]
    cells += [_interval(row["figures"][name]) for name in others]
    cells += [_number(row["paper"])] * papers
    return cells + ["" if row["paper_cost"] is None else f"{row['paper_cost']:g} G"] * costs


def _failures(result: Mapping[str, Any]) -> list[str]:
    runs = {run["folder"]: run for row in result["rows"] for run in row["runs"]}
    failed = [f"- `{run['folder']}`: {run['error']}" for run in runs.values() if run["state"] == "failed"]
    left = sum(run["state"] == "to be run" for run in runs.values())
    lines = ["", "## Failed", "", *failed] if failed else []
    return [*lines, "", f"{left} of {len(runs)} runs are still to be made."] if left else lines


def _interval(mean: Mapping[str, Any] | None, sign: str = "") -> str:
    """The interval is as long to either side."""
    if mean is None:
        return "–"
    value = f"{mean['value'] + 0.0:{sign}.3f}"
    return value if mean["low"] is None else f"{value} ± {mean['high'] - mean['value']:.3f}"


def _difference(mean: Mapping[str, Any] | None) -> str:
    text = _interval(mean, "+")
    told = mean is not None and mean["low"] is not None and not mean["low"] <= 0 <= mean["high"]
    return f"**{text}**" if told else text


def _count(value: int | None) -> str:
    """1234567 -> "1.23 M" """
    if value is None:
        return "–"
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return str(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _text(value: str) -> str:
    return value.replace("|", "\\|")
