"""`tokenturing inspect`"""

from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from tokenturing.cli.options import argument
from tokenturing.errors import OptionError

if TYPE_CHECKING:
    from torch import nn

WRITES_SHOWN = 375
"""steps: half a minute"""


def inspect(
    checkpoint: Annotated[Positional[str], argument("CHECKPOINT")] = "",
    cost: bool = False,
    writes: bool = False,
) -> None:
    """Show what a checkpoint is: its settings, size, cost of a step, and how it was made.

    Args:
        checkpoint: the folder of a model or of its run, or the name of a shipped one.
        cost: print the costs in the paper's tables beside those of the models here.
        writes: print what a Token Turing Machine writes into which slot, step by step over half a minute of test images and
            voices.
    """
    if cost:
        from tokenturing.evaluate.cost import format_table, paper_table

        print(format_table(paper_table()))
    if checkpoint and writes:
        _show_writes(checkpoint)
    elif checkpoint:
        _show(checkpoint)
    elif not cost:
        from tokenturing.checkpoint import shipped

        names = ", ".join(shipped()) or "none are shipped yet"
        raise OptionError(f"inspect needs a checkpoint (a folder, or one of: {names}), or --cost")


def _show(name: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from tokenturing.checkpoint import find_folder, load
    from tokenturing.cli.common import model_folder

    folder = model_folder(name)
    model: Any = load(folder)
    title = f"{name}: a {type(model).__name__}"
    table = Table(box=None, show_header=False, title=title, title_justify="left")
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    table.add_row("folder", str(find_folder(folder)))
    for key, value in _facts(model).items():
        table.add_row(key, value)
    for key, value in model.notes.items():
        if key != "figures":
            table.add_row(key.replace("_", " "), _text(value))
    Console().print(table)
    _show_figures(name, model.notes.get("figures"))


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
        raise OptionError(f"{name} is a {type(model).__name__}: --writes expects a model of the recall task")
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


def _facts(model: Any) -> dict[str, str]:
    """Settings, parameters, size of the state and cost of a step."""
    from tokenturing import state as states

    facts = {"settings": _text(getattr(model, "config", {})), "parameters": f"{_count(model):,}"}
    memory: Any = getattr(model, "memory", None)
    if memory is not None:
        facts["parameters of the memory"] = f"{_count(memory):,}"
    if hasattr(model, "initial_state"):
        facts["state at the start"] = f"{states.nbytes(model.initial_state(1)):,} bytes a stream"
    for what, cost in _costs(model).items():
        facts[what] = f"{cost:,} multiply-adds a step at the start of a stream"
    return facts


def _costs(model: Any) -> dict[str, int]:
    """Multiply-adds of a step, and of the memory in it."""
    from tokenturing.evaluate.cost import count, multiply_adds
    from tokenturing.models.contract import RecurrentModel, StreamModel
    from tokenturing.models.flat import FlatStep, example

    memory = getattr(model, "memory", None)
    if isinstance(model, RecurrentModel):
        tokens = model.input_tokens or 1
        return {f"cost with N = {tokens}": multiply_adds(model, tokens)}
    if not isinstance(model, StreamModel):
        return {}
    step = FlatStep(model)  # type: ignore[arg-type]  # a module that keeps the contract
    whole = count(step, tuple(example(step.signature, 1).values()), tuple(step.initial_leaves(1).values()))
    if not isinstance(memory, RecurrentModel):
        return {"cost": whole}
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
    """A (nested) value as short text; shares with three digits."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(part) or '-'}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
