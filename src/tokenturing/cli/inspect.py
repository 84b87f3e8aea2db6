"""`tokenturing inspect`"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from tokenturing.cli.options import argument
from tokenturing.errors import OptionError, a

if TYPE_CHECKING:
    from torch import nn

WRITES_SHOWN = 375
"""steps: half a minute"""


def inspect(
    checkpoint: Annotated[Positional[str], argument("CHECKPOINT", hint="(none: the shipped models)")] = "",
    cost: bool = False,
    writes: bool = False,
    as_json: Annotated[bool, argument("", name="json", hint=None)] = False,
) -> None:
    """Show what a checkpoint is: its settings, size, cost of a step, and how it was made; or list the shipped models.

    Args:
        checkpoint: the folder of a model, of its run or of an export, or the name of a shipped one.
        cost: print the costs in the paper's tables beside those of the models here.
        writes: print what a Token Turing Machine writes into which slot, step by step over half a minute of test images and
            voices.
        as_json: print JSON, for programs.
    """
    from tokenturing.checkpoint import shipped

    if writes and not checkpoint:
        raise OptionError(f"inspect --writes needs a checkpoint: a folder, or one of {', '.join(shipped())}")
    if cost:
        from tokenturing.evaluate.cost import format_table, paper_table

        print(format_table(paper_table()))
    if writes:
        _show_writes(checkpoint)
    elif as_json:
        print(json.dumps(describe(checkpoint) if checkpoint else [describe(name) for name in shipped()], indent=1))
    elif checkpoint:
        _show(describe(checkpoint))
    elif not cost:
        _list([describe(name) for name in shipped()])


def describe(name: str) -> dict[str, Any]:
    """All there is to know of a checkpoint, as plain values."""
    from tokenturing import state as states
    from tokenturing.checkpoint import find_folder, load
    from tokenturing.cli.common import model_folder
    from tokenturing.runtime import is_export

    if is_export(name):
        return _describe_export(name)
    folder = model_folder(name)
    model: Any = load(folder)
    found: dict[str, Any] = {
        "name": name,
        "class": type(model).__name__,
        "folder": str(find_folder(folder)),
        "settings": getattr(model, "config", {}),
        "parameters": _count(model),
    }
    if (memory := getattr(model, "memory", None)) is not None:
        found["memory"] = {"class": type(memory).__name__, "parameters": _count(memory)}
    if hasattr(model, "initial_state"):
        found["state_bytes"] = states.nbytes(model.initial_state(1))
    return found | {"multiply_adds_a_step": _costs(model), "notes": model.notes}


def _describe_export(folder: str) -> dict[str, Any]:
    """All there is to know of an export; nothing of it is run."""
    from tokenturing.runtime.machine import described

    found = described(Path(folder))
    return {
        "name": folder,
        "class": found["class_name"],
        "folder": folder,
        "export": {
            "precision": found["precision"],
            "bytes": sum(file.stat().st_size for file in Path(folder).iterdir()),
            "off_the_model_by": found.get("off"),
        },
        "inputs": {part["name"]: f"{part['dtype']} [{', '.join(map(str, part['shape']))}]" for part in found["inputs"]},
        "state": found["state"],
        "queries": found.get("queries", 0),
        "of_model": found.get("fingerprint"),
        "notes": found.get("notes", {}),
    }


def _show(found: dict[str, Any]) -> None:
    """Tables: what it is, how it was made, long lists of the notes, and the figures."""
    from rich.console import Console

    notes = dict(found.pop("notes"))
    figures = notes.pop("figures", None)
    lists = {key: notes.pop(key) for key, value in list(notes.items()) if _is_table(value)}
    name = found.pop("name")
    console = Console()
    console.print(_pairs(f"{name}: {a(found.pop('class'))}", found))
    console.print(_pairs("how it was made", notes))
    for title, rows in lists.items():
        console.print(_rows(title.replace("_", " "), rows))
    _show_figures(name, figures)


def _list(all_of: list[dict[str, Any]]) -> None:
    """The shipped models, a line each."""
    from rich.console import Console

    from tokenturing.evaluate.figures import readable

    rows = [
        {
            "name": found["name"],
            "model": readable(found.get("memory", found)["class"]),
            "parameters": found.get("memory", found)["parameters"],
            "state": f"{found['state_bytes']:,} B" if "state_bytes" in found else "-",
            "task": found["notes"].get("recipe", {}).get("task", "-"),
            "trained": f"{found['notes']['seconds'] / 60:.0f} min" if "seconds" in found["notes"] else "-",
        }
        for found in all_of
    ]
    console = Console()
    console.print(_rows("models that came with the package; tokenturing inspect NAME says more", rows))


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _pairs(title: str, content: Mapping[str, Any]) -> Any:
    """A table of names and values, tables within tables by dotted names."""
    from rich.table import Table

    table = Table(box=None, show_header=False, title=title, title_justify="left", title_style="bold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in _flat(content):
        table.add_row(key if "." in key else key.replace("_", " "), value)
    return table


def _rows(title: str, rows: list[dict[str, Any]]) -> Any:
    """A table of rows that have the same names."""
    from rich.table import Table

    table = Table(box=None, title=title, title_justify="left", title_style="bold")
    for index, (key, value) in enumerate(rows[0].items()):
        side = "left" if isinstance(value, str) else "right"
        table.add_column(key.replace("_", " "), justify=side, overflow="fold", no_wrap=not index)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*map(_text, row.values()))
    return table


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def _show_writes(name: str) -> None:
    """A line for each step at which something is seen or heard or any gate opens, and a summary."""
    import numpy as np

    from tokenturing.checkpoint import load
    from tokenturing.cli.common import model_folder
    from tokenturing.evaluate.trace import machine_of
    from tokenturing.tasks.recall.eyes.perception import NOTHING
    from tokenturing.tasks.recall.minute import make_minute
    from tokenturing.tasks.recall.watching import watch

    model = load(model_folder(name))
    if getattr(model, "task", None) != "recall":
        raise OptionError(f"{name} is {a(type(model))}: --writes expects a model of the recall task")
    age = machine_of(model.memory).initial_state(1).age[0].numpy()
    print("step  sees  hears  slot: gate (steps since it was last written)")
    idle = []
    for moment in watch(model.eval(), make_minute(steps=WRITES_SHOWN)):
        gate, digits = moment.trace.gate, (moment.sees[0], moment.hears[0])
        opened = np.flatnonzero(gate >= 0.005)
        if digits == (NOTHING, NOTHING):
            idle.append(gate)
        if len(opened) or digits != (NOTHING, NOTHING):
            sees, hears = ("-" if digit == NOTHING else str(digit) for digit in digits)
            slots = "  ".join(f"{slot}: {gate[slot]:.2f} ({age[slot]:.0f})" for slot in opened)
            print(f"{moment.step:4}  {sees:>4}  {hears:>5}  {slots}".rstrip())
        age = moment.trace.age
    print(f"exactly 0 where nothing is seen or heard: {np.mean(np.stack(idle) == 0):.2%} of the gates")


def _costs(model: Any) -> dict[str, int]:
    """Multiply-adds of a step, and of the memory in it."""
    from tokenturing.evaluate.cost import multiply_adds, step_cost
    from tokenturing.models.contract import RecurrentModel

    memory = getattr(model, "memory", None)
    if isinstance(model, RecurrentModel):
        tokens = model.input_tokens or 1
        return {f"with N = {tokens}": multiply_adds(model, tokens)}
    whole = step_cost(model)
    if whole is None:
        return {}
    if not isinstance(memory, RecurrentModel):
        return {"all": whole}
    inside = multiply_adds(memory, memory.input_tokens or 1)
    return {"memory": inside, "all else": whole - inside}


def _count(module: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _show_figures(name: str, rows: Any) -> None:
    """The figures noted in a checkpoint, as `evaluate` would show them."""
    from dataclasses import replace

    from tokenturing.cli.evaluate import show
    from tokenturing.evaluate.figures import Figure

    tables: dict[str, list[Figure]] = {}
    for row in rows or ():
        figure = Figure.from_json(row)
        where = dict(figure.where)
        voices = where.pop("voices", "")
        tables.setdefault(f"{name}, {voices} voices" if voices else name, []).append(replace(figure, where=where))
    show(tables)


def _text(value: Any) -> str:
    """A value as short text: whole numbers with commas, shares with four digits."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
