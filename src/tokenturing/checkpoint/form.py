"""What checkpoints and states have in common: their version, and the model's class and config."""

import importlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from tokenturing.errors import CheckpointError

FORMAT_VERSION = 1
OWN_KEYS = ("format_version", "class_name", "tokenturing_version", "save_id", "notes")
"""what config.json holds besides the constructor's arguments"""


def plain(model: nn.Module) -> nn.Module:
    """The module inside what torch.compile returned."""
    return getattr(model, "_orig_mod", model)


def config_of(model: nn.Module) -> dict[str, Any]:
    config, name = getattr(model, "config", None), type(model).__name__
    if not isinstance(config, dict):
        raise CheckpointError(f"{name} has no config: expected a dict with which the class builds it")
    if taken := sorted(set(config) & set(OWN_KEYS)):
        raise CheckpointError(f"the key {taken[0]!r} of {name}'s config is the format's own: rename it")
    return config


def to_json(content: dict[str, Any], what: str) -> str:
    try:
        return json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{what} cannot be written as JSON ({error}): expected plain values") from error


def package_version() -> str:
    return importlib.import_module("tokenturing").__version__


def check_version(version: Any, path: Path) -> None:
    try:
        number = int(version)
    except (TypeError, ValueError):
        raise CheckpointError(f"{path} has the format version {version!r}: expected a number") from None
    if not 1 <= number <= FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {number}, and tokenturing {package_version()} reads up to {FORMAT_VERSION}: "
            "upgrade with pip install --upgrade tokenturing"
        )
