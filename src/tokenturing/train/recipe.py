"""Recipes: TOML files that say what to train, on what, and how. An unknown key is an error that names the nearest.

`task` names the task, [train] says how any model is trained, [ablate] what `tokenturing ablate` compares it with, and all else is
the task's own (its `Config`). A recipe that begins with `base = "other.toml"` has what that file says, and what it says itself
instead.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from tokenturing.errors import OptionError, a, closest
from tokenturing.extras import require
from tokenturing.options import assign, build, choice, merge, number, switch
from tokenturing.registry import TASKS, find_task

MOST_BASES = 8
OWN = ("task", "train", "base", "ablate")
"""keys of a recipe that are no task's"""


@dataclass(frozen=True)
class TrainOptions:
    """How to train."""

    updates: int = number(2000, 1)
    rows: int = number(64, 1, 2**16)
    """B, streams side by side"""
    accumulate: int = number(1, 1, 2**16)
    """K, parts of the rows that are computed one after another for one update, in the memory that B / K rows take"""
    steps: int = number(48, 1, 2**20)
    """T, steps of each stream between two updates; the state goes on, gradients do not"""
    rate: float = number(2e-3, above=0)
    """peak learning rate of AdamW"""
    warmup: int = number(100, 0)
    """updates in which the rate rises"""
    weight_decay: float = number(0.02, 0)
    clip: float = number(1.0, above=0)
    """largest norm of the gradient"""
    seed: int = number(0, 0, 2**32 - 1)
    precision: str = choice("float32", "bfloat16")
    """of matrix products: "float32", or "bfloat16" (autocast); weights, state and optimiser are in float32 always"""
    compile: bool | str = switch(False, "reduce-overhead")
    """whether torch.compile makes one step of the model first, in half a minute or so, however long the streams are; with
    "reduce-overhead" as CUDA graphs where it is on a GPU"""
    threads: int = number(1, 1, 1024)
    """cores; results are the same to the bit only for the same number"""
    evaluate_every: int = number(200, 1)
    save_every: int = number(100, 1)
    average: float = number(0.0, 0, 0.9999)
    """decay of a moving average of the weights, over 1 / (1 - decay) updates or so, which the model has in place of the last"""
    keep: str = choice("last", "best")
    """which weights the model has in the end: the "last", or the "best" of all validations"""
    best_by: str = ""
    """the figure by which a validation is the best, the larger the better; empty: the first of them"""


@dataclass(frozen=True)
class Recipe:
    """All of a training run."""

    task: str
    train: TrainOptions
    options: Any
    """the task's own, an instance of its Config"""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for logs and checkpoints: as a recipe's file has them."""
        return json.loads(json.dumps({"task": self.task, "train": asdict(self.train), **asdict(self.options)}))

    def build_task(self, report: Any = None) -> Any:
        """The task.

        Raises:
            MissingExtraError: packages that it needs are not installed.
        """
        cls = find_task(self.task)
        require(*getattr(cls, "extras", ()))
        return cls(self.options, self.train.seed, report)


def load_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply settings like "train.rate=3e-4".

    Raises:
        OptionError: the file is no TOML, or a key or value does not fit.
    """
    content = read_recipe(path)
    for setting in settings:
        assign(content, setting)
    return parse_recipe(content)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """What a recipe's file and its bases say, as nested plain values that nobody has checked yet."""
    return _read(Path(path), MOST_BASES)


def parse_recipe(content: Mapping[str, Any]) -> Recipe:
    """A recipe from nested plain values."""
    task, default = _task_of(content)
    others = {key: value for key, value in content.items() if key not in ("task", "train", "ablate")}
    known = [f.name for f in fields(default)]
    for key in others:
        if key not in known:
            raise OptionError(f"{key} is not known in a recipe of the task {task!r}: expected {closest(key, ['train', *known])}")
    train = content.get("train", {})
    if not isinstance(train, Mapping):
        raise OptionError(f"train={train!r}: expected a table [train]")
    options = build(TrainOptions(), train, "train.")
    check_parts(options.accumulate, options.rows)
    return Recipe(task, options, build(default, others))


def check_parts(parts: int, rows: int, processes: int = 1) -> None:
    """Raise an OptionError where the rows of a process cannot be cut into so many equal parts."""
    if rows % parts:
        each = f" of each of {processes} processes" if processes > 1 else ""
        raise OptionError(
            f"train.accumulate={parts}: the {rows} rows{each} cannot be cut into so many equal parts; expected a divisor of "
            f"{rows}, or train.rows as a multiple of {parts * processes}"
        )


def task_of(model: Any) -> Any:
    """The task of a model, or of its export: by the recipe in its notes, else by the `task` that its class names.

    What the recipe has and the task no longer knows is left out.

    Raises:
        OptionError: neither says.
    """
    recipe = getattr(model, "notes", {}).get("recipe") or {"task": getattr(model, "task", None)}
    if not isinstance(recipe, Mapping) or not isinstance(recipe.get("task"), str):
        kind = type(model).__name__
        raise OptionError(f"this {kind} does not say what task it is for: expected a model that `tokenturing train` trained")
    name = recipe["task"]
    cls = find_task(name, anywhere=False)
    options = default = _defaults(cls.Config, f"the Config of task={name!r}")
    for key in (f.name for f in fields(default)):
        try:
            options = build(options, {key: recipe[key]} if key in recipe else {})
        except OptionError:  # of an older version: the default serves
            continue
    return cls(options)


def _task_of(content: Mapping[str, Any]) -> tuple[str, Any]:
    """Its name and the defaults of its own options."""
    name = content.get("task")
    if not isinstance(name, str):
        raise OptionError(f"the recipe names no task: expected task = {closest('', TASKS)}, or module:Class")
    cls = find_task(name)
    default = _defaults(cls.Config, f"the Config of task={name!r}")
    if own := {f.name for f in fields(default)} & set(OWN):
        raise OptionError(f"the Config of task={name!r} has a field {own.pop()!r}, which is the recipe's own: rename it")
    return name, default


KINDS = "a number, a text, True or False, a tuple, a dict, or a frozen dataclass of these"


def _defaults(cls: type[Any], where: str) -> Any:
    """An instance of a task's Config: its fields are what a recipe may set, and what kind each is stands in its default.

    Raises:
        OptionError: a field has none, or one of no kind that a recipe can write.
    """
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise OptionError(f"{where} is no dataclass: expected one, frozen, with a default for each field")
    for one in fields(cls):
        if one.init and one.default is MISSING and one.default_factory is MISSING:
            raise OptionError(f"{where} has the field {one.name!r} without a default: expected {KINDS}")
    default = cls()
    _check_kinds(default, where)
    return default


def _check_kinds(default: Any, where: str) -> None:
    for one in fields(default):
        value = getattr(default, one.name)
        if is_dataclass(value) and not isinstance(value, type):
            _check_kinds(value, f"{where}, in {one.name!r},")
        elif not isinstance(value, int | float | str | tuple | dict):
            raise OptionError(f"{where} has {one.name}={value!r} for a default, {a(type(value))}: expected {KINDS}")


def _read(path: Path, bases: int) -> dict[str, Any]:
    """The content of a file over that of its base."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OptionError(f"there is no recipe {str(path)!r}: expected a TOML file such as those in recipes/") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise OptionError(f"{path} is not a TOML recipe: {error}") from error
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str) or not bases:
        raise OptionError(f"{path}: base={base!r}: expected the name of a recipe beside it, and no circle of bases")
    below = _read(path.parent / base, bases - 1)
    task, default = _task_of(below | content)
    if task != below.get("task", task):
        return content  # tables of another task
    trains = [part["train"] for part in (below, content) if "train" in part]
    merged = merge(default, below, content)
    if len(trains) == 2 and all(isinstance(train, Mapping) for train in trains):
        merged["train"] = {**trains[0], **trains[1]}
    return merged
