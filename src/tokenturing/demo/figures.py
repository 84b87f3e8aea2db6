"""All memories side by side: what the shipped ones remember, what all of them cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from tokenturing.checkpoint import load, shipped
from tokenturing.errors import TokenTuringError
from tokenturing.evaluate.figures import Figure, pool, readable
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
AGO = "how long ago"
TITLES = {
    "recall": "Token Turing Machine, gated",
    "recall-ttm": "Token Turing Machine, gated",
    "recall-paper": "Token Turing Machine of the paper",
    "recall-lstm-wide": "LSTM, equal multiply-adds",
}
"""of checkpoints and recipes; the others bear the names of their memories"""
GROUPS = {
    "seen": (SEEN, ""),
    "heard, new voices": (HEARD, ""),
    "heard, a new human": (HEARD, "human"),
    "heard before x seen": (("bound",), ""),
    AGO: (("ago",), ""),
}
"""title: kinds of question and whose voices ("": synthesised ones)"""


@dataclass(frozen=True)
class Compared:
    """One model of the comparison."""

    name: str
    parameters: int
    figures: list[Figure]
    """those noted in the checkpoint, with "voices" where those are human; empty where none are"""
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
            if getattr(model, "task", None) == "recall":
                models[name] = model
    found = [
        _measure(called(name, type(model.memory).__name__), model.memory, getattr(model, "notes", None) or {}, lengths)
        for name, model in models.items()
    ]
    for path in sorted(RECIPES.glob("recall-*.toml")):
        recipe = load_recipe(path).options.model
        if path.stem not in models:  # what a step costs does not depend on the weights
            memory = build_memory(recipe.memory, recipe.options)
            found.append(_measure(called(path.stem, recipe.memory), memory, {}, lengths))
    return found


def called(name: str, kind: str) -> str:
    """What a checkpoint or recipe of this name, with a memory of this class, is called."""
    return TITLES.get(name, readable(kind))


def _measure(name: str, memory: RecurrentModel, notes: dict[str, Any], lengths: Sequence[float]) -> Compared:
    sizes = growth(memory, INPUT_TOKENS, [ceil(length / STEP_SECONDS) for length in lengths])
    figures = [Figure.from_json(row) for row in notes.get("figures", ())]
    parameters = sum(parameter.numel() for parameter in memory.parameters())
    grows = bool(memory.growing)
    return Compared(name, parameters, figures, sizes, grows, notes)


def by_delay(compared: Sequence[Compared]) -> dict[str, dict[str, list[Share]]]:
    """Group of kinds -> model -> its shares by delay, the kinds of a group taken together."""
    panels = {
        title: {model.name: shares for model in compared if (shares := _pooled(model.figures, kinds, voices))}
        for title, (kinds, voices) in GROUPS.items()
    }
    return {title: lines for title, lines in panels.items() if lines}


def _pooled(figures: Sequence[Figure], kinds: Sequence[str], voices: str) -> list[Share]:
    found = [figure for figure in figures if figure.kind in kinds and figure.where.get("voices", "") == voices]
    delays = sorted({float(figure.where["delay"]) for figure in found})
    pooled = [(delay, pool(figure for figure in found if figure.where["delay"] == delay)) for delay in delays]
    return [Share(delay, figure.value, figure.low, figure.high) for delay, figure in pooled if figure]


def by_length(compared: Sequence[Compared]) -> dict[str, list[Length]]:
    """Model -> cost and size by the length of the stream."""
    return {
        model.name: [Length(size.steps * STEP_SECONDS, size.multiply_adds, size.nbytes) for size in model.sizes]
        for model in compared
    }
