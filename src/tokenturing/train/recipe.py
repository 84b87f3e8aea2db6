"""Recipes: TOML files that say what to train, on what, and how. An unknown key is an error that names the nearest."""

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from tokenturing.errors import OptionError, closest
from tokenturing.tasks.recall.world.plans import RecallConfig


@dataclass(frozen=True)
class ModelRecipe:
    """The memory behind the eyes and ears."""

    memory: str = "TokenTuringMachine"
    """class name of the recurrent model"""
    options: dict[str, Any] = field(default_factory=dict)
    """its constructor's arguments"""


@dataclass(frozen=True)
class TrainRecipe:
    """How to train."""

    updates: int = 2000
    rows: int = 64
    """B, streams side by side"""
    steps: int = 48
    """T, steps of each stream between two updates; the state goes on, gradients do not"""
    rate: float = 2e-3
    """peak learning rate of AdamW"""
    warmup: int = 100
    weight_decay: float = 0.02
    clip: float = 1.0
    """largest norm of the gradient"""
    facts: float = 0.5
    """weight of the loss that reads all facts off the output at every step"""
    every: float = 0.5
    """weight of the loss of the answers to every question, asked or not"""
    early_writes: int = 0
    """updates during which a slot counts as written from a gate of a half on: order is learned sooner, and lost again later"""
    late_clock: int = 0
    """updates during which the clocks of the inputs are not read (`LookBack.heeds_clock`)"""
    seed: int = 0
    precision: str = "float32"
    """of matrix products: "float32", or "bfloat16" (autocast); weights, state and optimiser are in float32 always"""
    compile: bool = False
    """whether torch.compile makes one step of the machine first, in half a minute or so, however long the streams are"""
    threads: int = 1
    """cores; results are the same to the bit only for the same number"""
    evaluate_every: int = 200
    save_every: int = 100


@dataclass(frozen=True)
class SpeechRecipe:
    """Which voices speak."""

    folder: str = ""
    """recordings {digit}_{speaker}_{index}.wav to train on besides the synthesised voices"""
    leave_out: tuple[str, ...] = ()
    """speakers of the folder that are not trained on"""


@dataclass(frozen=True)
class Recipe:
    """All of a training run."""

    task: str = "recall"
    perception: str = "recall-perception"
    """the frozen eyes and ears: the name or folder of a checkpoint"""
    model: ModelRecipe = ModelRecipe()
    train: TrainRecipe = TrainRecipe()
    data: RecallConfig = RecallConfig()
    speech: SpeechRecipe = SpeechRecipe()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for logs and checkpoints."""
        return asdict(self)


def load_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply settings like "train.rate=3e-4".

    Raises:
        OptionError: the file is no TOML, or a key or value does not fit.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OptionError(f"there is no recipe {str(path)!r}: expected a TOML file such as recipes/recall.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise OptionError(f"{path} is not a TOML recipe: {error}") from error
    for setting in settings:
        key, found, value = setting.partition("=")
        if not found:
            raise OptionError(f"--set {setting!r}: expected key=value, as in train.rate=3e-4")
        _assign(content, key.strip().split("."), _value(value.strip()))
    return parse_recipe(content)


def parse_recipe(content: dict[str, Any]) -> Recipe:
    """A recipe from nested plain values."""
    return _build(Recipe(), content, "")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(content: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise OptionError(f"--set {'.'.join(keys)}: {key!r} is a value, not a table")
    content[keys[-1]] = value


def _build(default: Any, content: dict[str, Any], where: str) -> Any:
    known = {f.name: getattr(default, f.name) for f in fields(default)}
    changes: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{where}{key}"
        if key not in known:
            raise OptionError(f"{name} is not known in a recipe: expected {closest(key, known)}")
        changes[key] = _fit(name, known[key], value)
    return replace(default, **changes)


def _fit(name: str, default: Any, value: Any) -> Any:
    if is_dataclass(default):
        if not isinstance(value, dict):
            raise OptionError(f"{name}={value!r}: expected a table [{name}]")
        return _build(default, value, f"{name}.")
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if type(value) is not type(default):
        raise OptionError(f"{name}={value!r} is a {type(value).__name__}: expected a {type(default).__name__}")
    return value
