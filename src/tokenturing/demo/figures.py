"""All memories side by side: what the shipped ones remember, what all of them cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from tokenturing.checkpoint import load, shipped
from tokenturing.errors import TokenTuringError
from tokenturing.evaluate.figures import wilson
from tokenturing.evaluate.growth import Size, growth
from tokenturing.media.clock import STEP_SECONDS
from tokenturing.models.contract import RecurrentModel
from tokenturing.tasks.recall.model import INPUT_TOKENS, RecallModel, build_memory
from tokenturing.train.recipe import load_recipe
from tokenturing.viz.curves import Length, Share

RECIPES = Path(__file__).parents[1] / "recipes"
LENGTHS = (1.0, 10.0, 60.0, 600.0)
"""seconds of a stream after which cost and size are measured"""
SEEN, HEARD = (tuple(f"{sense}-{k}" for k in range(1, 5)) for sense in ("seen", "heard"))
GROUPS = {
    "seen": (SEEN, ""),
    "heard, new voices": (HEARD, ""),
    "heard, a new human": (HEARD, "human"),
    "heard before x seen": (("bound",), ""),
    "how long ago": (("ago",), ""),
}
"""title: kinds of question and whose voices ("": synthesised ones)"""
NAMES = {
    "TokenTuringMachine": "Token Turing Machine",
    "Memoryless": "no memory",
    "TemporalMixer": "temporal Mixer",
    "WindowTransformer": "window Transformer",
    "FullTransformer": "full Transformer",
    "RecurrentTransformer": "recurrent Transformer",
}
FIELDS = ("kind", "delay", "accuracy", "low", "high", "count")


@dataclass(frozen=True)
class Compared:
    """One model of the comparison."""

    name: str
    parameters: int
    rows: list[dict[str, Any]]
    """its figures as `tokenturing evaluate --json` writes them, with "voices" where those are human; empty
    where none are noted"""
    sizes: list[Size]
    grows: bool
    notes: dict[str, Any]


def compare(first: RecallModel, first_name: str, lengths: Sequence[float] = LENGTHS) -> list[Compared]:
    """The given model, all others that were shipped and can be loaded, and the memories that only have a recipe."""
    models = {first_name: first}
    for name in shipped():
        if name.startswith("recall-") and name not in models:
            try:
                model = load(name)
            except TokenTuringError:
                continue
            if isinstance(model, RecallModel):
                models[name] = model
    classes = [type(model.memory).__name__ for model in models.values()]
    found = [
        _measure(_readable(name, model, classes), model.memory, getattr(model, "notes", None) or {}, lengths)
        for name, model in models.items()
    ]
    for path in sorted(RECIPES.glob("recall-*.toml")):
        recipe = load_recipe(path).model
        if recipe.memory not in classes:  # what a step costs does not depend on the weights
            memory = build_memory(recipe.memory, recipe.options)
            found.append(_measure(NAMES.get(recipe.memory, recipe.memory), memory, {}, lengths))
    return found


def _readable(name: str, model: RecallModel, classes: Sequence[str]) -> str:
    """What the model is, or its own name where there are several of the kind."""
    kind = type(model.memory).__name__
    return name.removeprefix("recall-") if classes.count(kind) > 1 else NAMES.get(kind, kind)


def _measure(name: str, memory: RecurrentModel, notes: dict[str, Any], lengths: Sequence[float]) -> Compared:
    sizes = growth(memory, INPUT_TOKENS, [ceil(length / STEP_SECONDS) for length in lengths])
    rows = [row for row in notes.get("figures", ()) if set(FIELDS) <= set(row)]
    parameters = sum(parameter.numel() for parameter in memory.parameters())
    grows = sizes[0].nbytes != sizes[-1].nbytes
    return Compared(name, parameters, rows, sizes, grows, notes)


def by_delay(compared: Sequence[Compared]) -> dict[str, dict[str, list[Share]]]:
    """Group of kinds -> model -> its shares by delay, the kinds of a group taken together."""
    panels = {
        title: {model.name: shares for model in compared if (shares := _pooled(model.rows, kinds, voices))}
        for title, (kinds, voices) in GROUPS.items()
    }
    return {title: lines for title, lines in panels.items() if lines}


def _pooled(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str], voices: str) -> list[Share]:
    found, rows = [], [row for row in rows if row.get("voices", "") == voices]
    for delay in sorted({row["delay"] for row in rows}):
        here = [row for row in rows if row["kind"] in kinds and row["delay"] == delay]
        count = sum(row["count"] for row in here)
        right = sum(row["accuracy"] * row["count"] for row in here)
        if count:
            found.append(Share(delay, right / count, *wilson(round(right), count)))
    return found


def by_length(compared: Sequence[Compared]) -> dict[str, list[Length]]:
    """Model -> cost and size by the length of the stream."""
    return {
        model.name: [Length(size.steps * STEP_SECONDS, size.multiply_adds, size.nbytes) for size in model.sizes]
        for model in compared
    }
