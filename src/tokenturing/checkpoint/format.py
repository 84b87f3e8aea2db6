"""What the files of models and of states have in common: names, their version, the model's class and config."""

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from tokenturing.errors import CheckpointError

FORMAT_VERSION = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
OWN_KEYS = ("format_version", "class_name", "tokenturing_version", "save_id", "notes")
"""what config.json holds besides the constructor's arguments"""
WRAPPER = "_orig_mod"
"""where torch.compile keeps the module inside"""


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside what torch.compile and wrappers of several devices or ranks returned, or the module itself."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif WRAPPER in getattr(model, "_modules", ()):
            model = model._modules[WRAPPER]  # type: ignore[assignment]
        else:
            return model


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
    try:
        return json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{what} cannot be written as JSON ({error}): expected plain values") from error


def check_keys(content: Any, where: str) -> None:
    """Refuse tables whose keys JSON would turn into other ones."""
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, str):
                raise CheckpointError(
                    f"{where} has the key {key!r}, and comes back with {str(key)!r} from JSON: expected text, or a list of pairs"
                )
            check_keys(value, f"{where}.{key}")
    elif isinstance(content, list | tuple):
        for value in content:
            check_keys(value, where)


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
