"""What an ablation is to run: the table [ablate] of a recipe.

    [ablate]
    figures = ["last", "4th last"]              # of `tokenturing evaluate`; rows are compared by the first
    over = ["data.fold=0", "data.fold=1"]       # settings over which means are taken, each with each of the seeds
    seeds = [0, 1]
    evaluate = {rows = 64}                      # options of the evaluation
    set = ["model.options.write=gated"]         # changes for all rows, such as defaults said aloud
    paper = "mAP on Charades"                   # what the published figures beside ours are
    base = {paper = 26.34, paper_cost = 0.842}  # those of the recipe as it is

    [[ablate.axis]]
    name = "write"
    key = "model.options.write"                 # each row is a value of this key ...
    rows = ["mlp", {value = "concat", paper = 20.97, paper_cost = 0.92}]

    [[ablate.axis]]
    name = "manner"
    rows = [{label = "no warm-up", set = ["train.warmup=0"]}]  # ... or some settings

A row changes the recipe in one thing; there are no products of axes. A row that changes nothing is the recipe itself, which a
default is only where the recipe, or `set`, says it aloud.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from tokenturing.errors import OptionError, a, closest
from tokenturing.options import assign, put
from tokenturing.train.recipe import Recipe, parse_recipe, read_recipe

BASE = "as it is"
"""the label of the recipe without a change"""
KEYS = ("figures", "over", "seeds", "evaluate", "set", "paper", "base", "axis")
AXIS_KEYS = ("name", "key", "rows")
ROW_KEYS = ("label", "value", "set", "paper", "paper_cost")
MOST_CELLS = 10_000


@dataclass(frozen=True)
class Row:
    """One change of the recipe."""

    axis: str
    label: str
    settings: tuple[str, ...] = ()
    """as --set has them"""
    key: str = ""
    value: Any = None
    """of that key, where there is one"""
    paper: float | None = None
    paper_cost: float | None = None
    """in 10^9 multiply-adds a step"""

    def change(self, content: dict[str, Any]) -> None:
        """Make the change in the recipe's content."""
        if self.key:
            put(content, self.key, copy.deepcopy(self.value))
        for setting in self.settings:
            assign(content, setting)


@dataclass(frozen=True)
class Cell:
    """One run: a row under one setting, with one seed."""

    row: Row
    over: str
    seed: int
    recipe: Recipe
    place: str
    """its folder under that of the ablation; cells that come to the same recipe share one"""


@dataclass(frozen=True)
class Plan:
    """All cells of an ablation, those of the base first."""

    rows: tuple[Row, ...]
    over: tuple[str, ...]
    """settings, "" for none"""
    seeds: tuple[int, ...]
    figures: tuple[str, ...] = ()
    paper: str = ""
    evaluate: Mapping[str, str] = field(default_factory=dict)
    cells: tuple[Cell, ...] = ()

    def of(self, row: Row) -> list[Cell]:
        """The cells of a row, in the same order for every row."""
        return [cell for cell in self.cells if cell.row == row]

    def runs(self) -> dict[str, Cell]:
        """What there is to run: the first cell of each folder."""
        found: dict[str, Cell] = {}
        for cell in self.cells:
            found.setdefault(cell.place, cell)
        return found


def load_plan(
    path: str | Path,
    settings: Sequence[str] = (),
    *,
    over: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    axes: Sequence[str] = (),
) -> Plan:
    """Read the [ablate] table of a recipe; all cells' recipes are built here, so that what is wrong is said before any work.

    Args:
        path: of the recipe.
        settings: changes of the recipe itself, as for `load_recipe`.
        over: in place of the table's own.
        seeds: in place of the table's own.
        axes: names of those to run; none: all.

    Raises:
        OptionError: a key or value does not fit; the message names the row.
    """
    content = read_recipe(path)
    table = content.pop("ablate", None)
    if not isinstance(table, Mapping):
        raise OptionError(f"{path} has no table [ablate]: expected one with [[ablate.axis]], as docs/which-options.md shows")
    _check_keys(table, KEYS, "ablate")
    for setting in (*_texts(table.get("set", []), "ablate.set"), *settings):
        assign(content, setting)
    chosen = _axes(table, axes)
    rows = [_row(table.get("base", {}), "", "", 0, "ablate.base"), *(row for axis in chosen for row in _rows(axis))]
    if len({(row.axis, row.label) for row in rows}) != len(rows):
        twice = next(row for index, row in enumerate(rows) if (row.axis, row.label) in [(r.axis, r.label) for r in rows[:index]])
        raise OptionError(f"two rows of the axis {twice.axis!r} have the label {twice.label!r}: give each a label of its own")
    plan = Plan(
        rows=tuple(rows),
        over=_texts(table.get("over", []), "ablate.over") if over is None else tuple(over),
        seeds=_whole(table.get("seeds", [0]) if seeds is None else list(seeds), "ablate.seeds"),
        figures=_texts(table.get("figures", []), "ablate.figures"),
        paper=_text(table.get("paper", ""), "ablate.paper"),
        evaluate=_evaluate(table.get("evaluate", {})),
    )
    plan = plan if plan.over else replace(plan, over=("",))
    return replace(plan, cells=tuple(_cells(plan, content)))


def _cells(plan: Plan, content: dict[str, Any]) -> Iterator[Cell]:
    count = len(plan.rows) * len(plan.over) * len(plan.seeds)
    if count > MOST_CELLS:
        raise OptionError(f"the ablation has {count} runs: expected at most {MOST_CELLS}")
    places: dict[str, str] = {}
    taken: set[str] = set()
    for row in plan.rows:
        for over in plan.over:
            for seed in plan.seeds:
                recipe = _recipe(row, over, seed, content)
                key = json.dumps(recipe.to_json(), sort_keys=True)
                if key not in places:
                    own = f"{_slug(row.axis, row.label) if row.axis else 'base'}/{_slug(over, f'seed-{seed}')}"
                    places[key] = own if own not in taken else f"{own}-{sha256(key.encode()).hexdigest()[:8]}"
                    taken.add(places[key])
                yield Cell(row, over, seed, recipe, places[key])


def _recipe(row: Row, over: str, seed: int, content: dict[str, Any]) -> Recipe:
    changed = copy.deepcopy(content)
    where = f"row {row.label!r} of the axis {row.axis!r}: " if row.axis else ""
    try:
        if over:
            assign(changed, over)
        put(changed, "train.seed", seed)
        row.change(changed)
        return parse_recipe(changed)
    except OptionError as error:
        raise OptionError(f"{where}{error}") from error


def _axes(table: Mapping[str, Any], wanted: Sequence[str]) -> list[Mapping[str, Any]]:
    found = table.get("axis", [])
    if not isinstance(found, list) or not found or not all(isinstance(axis, Mapping) for axis in found):
        raise OptionError("the table [ablate] has no axis: expected [[ablate.axis]] with a name and rows")
    for number, axis in enumerate(found):
        _check_keys(axis, AXIS_KEYS, f"ablate.axis {number + 1}")
        if not isinstance(axis.get("name"), str) or not axis["name"]:
            raise OptionError(f"ablate.axis {number + 1} has name={axis.get('name')!r}: expected a text")
    names = [axis["name"] for axis in found]
    for name in wanted:
        if name not in names:
            raise OptionError(f"--axes {name}: expected {closest(name, names)}")
    return [axis for axis in found if not wanted or axis["name"] in wanted]


def _rows(axis: Mapping[str, Any]) -> Iterator[Row]:
    name, key, rows = axis["name"], axis.get("key", ""), axis.get("rows", [])
    if not isinstance(key, str):
        raise OptionError(f"the axis {name!r} has key={key!r}: expected the dotted name of a key, such as train.rate")
    if not isinstance(rows, list) or not rows:
        raise OptionError(f"the axis {name!r} has no rows: expected a list of values, or of tables with value or set")
    for number, row in enumerate(rows):
        content = row if isinstance(row, Mapping) and set(row) & set(ROW_KEYS) else {"value": row}
        yield _row(content, name, key, number, f"row {number + 1} of the axis {name!r}")


def _row(content: Any, axis: str, key: str, number: int, where: str) -> Row:
    if not isinstance(content, Mapping):
        raise OptionError(f"{where} is {a(type(content))}: expected a table")
    _check_keys(content, ROW_KEYS if axis else ("label", "paper", "paper_cost"), where)
    settings = _texts(content.get("set", []), f"set in {where}")
    if axis and ("value" in content) == bool(settings):
        raise OptionError(f"{where} has {'both' if settings else 'neither'} value and set: expected one of them")
    if "value" in content and not key:
        raise OptionError(
            f"{where} has a value and the axis no key: expected key to be the dotted name of one, such as train.rate"
        )
    for name in ("paper", "paper_cost"):
        if not isinstance(content.get(name, 0.0), int | float):
            raise OptionError(f"{where} has {name}={content[name]!r}: expected a number")
    label = content.get("label") or (_label(content["value"]) if "value" in content else ", ".join(settings)) or BASE
    papers = {name: float(content[name]) for name in ("paper", "paper_cost") if name in content}
    return Row(axis, str(label), settings, key if "value" in content else "", content.get("value"), **papers)


def _label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _check_keys(content: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise OptionError(f"{where} has {key!r}: expected {closest(key, known)}")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise OptionError(f"{name}={value!r} is {a(type(value))}: expected a text")
    return value


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise OptionError(f"{name}={value!r}: expected a list of texts")
    return tuple(value)


def _whole(value: Any, name: str) -> tuple[int, ...]:
    fits = isinstance(value, list) and value and all(type(part) is int and part >= 0 for part in value)
    if not fits or len(set(value)) != len(value):
        raise OptionError(f"{name}={value!r}: expected a list of different whole numbers, such as [0, 1, 2]")
    return tuple(value)


def _evaluate(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise OptionError(f"ablate.evaluate={value!r}: expected a table, such as {{rows = 64}}")
    return {key: part if isinstance(part, str) else json.dumps(part) for key, part in value.items()}


def _slug(*parts: str) -> str:
    """Parts as the name of a folder."""
    joined = "-".join(part for part in parts if part)
    return re.sub(r"[^A-Za-z0-9.=_+-]+", "-", joined).strip("-.")[:100] or "run"
