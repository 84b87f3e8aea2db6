"""What the files of models and of states have in common: names, their version, the model's class and config."""

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tokenturing.errors import CheckpointError, a

FORMAT_VERSION = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
OWN_KEYS = ("format_version", "class_name", "tokenturing_version", "save_id", "notes")
"""what config.json holds besides the constructor's arguments"""


def uncompiled(model: nn.Module) -> nn.Module:
    """The module inside what torch.compile returned, or the module itself."""
    return getattr(model, "_orig_mod", model)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The state dict by the names it has where no part of the model is compiled."""
    return {plain_name(name): tensor for name, tensor in model.state_dict().items()}


def plain_name(name: str) -> str:
    """A weight's name without what torch.compile puts into those of a compiled part."""
    return name.replace("_orig_mod.", "")


def config_of(model: nn.Module) -> dict[str, Any]:
    """The arguments that build the model, which its class keeps as `config`."""
    config, name = getattr(model, "config", None), type(model).__name__
    if not isinstance(config, dict):
        raise CheckpointError(f"{name} has no config: expected a dict with which the class builds it")
    if taken := sorted(set(config) & set(OWN_KEYS)):
        raise CheckpointError(f"the key {taken[0]!r} of {name}'s config is the format's own: rename it")
    return config


def to_json(content: dict[str, Any], what: str) -> str:
    """The text of `content`, always the same for the same values; `what` names it in errors."""
    _check_keys(content, what)
    try:
        return json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{what} cannot be written as JSON ({error}): expected plain values") from error


def _check_keys(content: Any, what: str) -> None:
    """JSON has no keys but texts: others would come back as texts, silently."""
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, str):
                raise CheckpointError(f"{what} has the key {key!r}, {a(type(key).__name__)}: expected texts as keys")
            _check_keys(value, what)
    elif isinstance(content, list | tuple):
        for value in content:
            _check_keys(value, what)


def package_version() -> str:
    return importlib.import_module("tokenturing").__version__


def check_version(version: Any, where: str | Path) -> None:
    """Refuse a version of the format that this package cannot read; `where` names the file in the error."""
    try:
        number = int(version)
    except (TypeError, ValueError):
        raise CheckpointError(f"{where} has the format version {version!r}: expected a number") from None
    if not 1 <= number <= FORMAT_VERSION:
        raise CheckpointError(
            f"{where} has format version {number}, and tokenturing {package_version()} reads up to {FORMAT_VERSION}: "
            "upgrade with pip install --upgrade tokenturing"
        )


def abbreviated(names: Iterable[str]) -> str:
    """The first few names, for messages."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")
