"""Models on disk: JSON and safetensors, never pickle.

A checkpoint is a folder with `config.json` and `model.safetensors`, as huggingface_hub's
`PyTorchModelHubMixin` writes and reads them: the constructor's arguments stand at the top level of
config.json, beside a few keys of ours.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tokenturing.checkpoint.build import ORIGINAL_TYPES, build
from tokenturing.checkpoint.format import (
    CONFIG,
    FORMAT_VERSION,
    OWN_KEYS,
    WEIGHTS,
    check_keys,
    check_version,
    config_of,
    package_version,
    to_json,
    unwrapped,
)
from tokenturing.checkpoint.tensors import TensorFile, digest, pack
from tokenturing.checkpoint.weights import UNSAVED, Unsaved, check_storable, name_of_type, weights_of
from tokenturing.errors import CheckpointError, OptionError, a, closest, in_words
from tokenturing.files import path_of, read_json, write_file, write_folder
from tokenturing.registry import find_class, name_of

SHIPPED = Path(__file__).parents[1] / "weights"


def shipped() -> list[str]:
    """The names of the models that came with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write a model to a folder, in one move: a crash leaves the checkpoint that was there, or none.

    Args:
        model: of a registered class, with a `config` of plain JSON values.
        folder: is made if need be; an older checkpoint in it is replaced, other files stay.
        dtype: store floating-point weights in this type, to ship them small; `load` gives back their own.
        notes: a dict of plain JSON values worth keeping: recipe, seed, time, figures; None: those the model came with. A tuple
            comes back as a list, as JSON has no other.

    Raises:
        OptionError: `dtype` is no floating-point type.
        CheckpointError: `load` could not give this model back, or these notes.
    """
    _check_type(dtype)
    model = unwrapped(model)
    content = {
        "format_version": FORMAT_VERSION,
        "class_name": name_of(model),
        "tokenturing_version": package_version(),
        "notes": _checked_notes(getattr(model, "notes", {}) if notes is None else notes),
        **_checked_config(model),
    }
    weights, original = _cast(weights_of(model), dtype)
    content["save_id"] = digest(weights.items(), to_json(content, "config"))
    text = to_json(content, "config")
    metadata = {"tokenturing": text, ORIGINAL_TYPES: original, UNSAVED: Unsaved.of(model).text()}
    _write(path_of(folder, "folder"), text.encode(), pack(weights, metadata))


def _check_type(dtype: Any) -> None:
    """Refuse what weights cannot be stored in."""
    if dtype is None:
        return
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise OptionError(f"dtype={dtype!r}: expected a floating-point type, such as torch.bfloat16, or None")
    try:
        torch.ones(1).to(dtype).double()
    except (RuntimeError, NotImplementedError) as error:
        raise OptionError(
            f"dtype={dtype}: this torch converts nothing to it ({in_words(error)}): expected another type"
        ) from error


def _checked_config(model: nn.Module) -> dict[str, Any]:
    """The model's config, as long as it comes back from JSON."""
    config = config_of(model)
    check_keys(config, "config")
    to_json(config, "config")
    return config


def _checked_notes(notes: Any) -> dict[str, Any]:
    """Notes that `load` gives back."""
    if not isinstance(notes, dict):
        raise CheckpointError(f"notes is {a(type(notes))}: expected a dict of plain values")
    check_keys(notes, "notes")
    to_json(notes, "notes")
    return notes


def _cast(weights: dict[str, Tensor], dtype: torch.dtype | None) -> tuple[dict[str, Tensor], str]:
    """The weights in `dtype`, and as JSON what types those had that were changed."""
    check_storable(weights)
    weights = {name: tensor.detach() for name, tensor in weights.items()}
    stored = {
        name: tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor for name, tensor in weights.items()
    }
    changed = {name: name_of_type(tensor.dtype) for name, tensor in weights.items() if stored[name].dtype != tensor.dtype}
    for name in changed:
        if weights[name].double().isfinite().all() and not stored[name].double().isfinite().all():
            raise CheckpointError(f"{name} has values too large for {dtype}: save it in another type")
    return stored, json.dumps(changed)


def _write(folder: Path, config: bytes, weights: bytes) -> None:
    def write(new: Path) -> None:
        (new / WEIGHTS).write_bytes(weights)
        (new / CONFIG).write_bytes(config)

    if not os.path.exists(folder):
        with suppress(FileExistsError):  # another rank was faster
            write_folder(folder, write, replace=False)
            return
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: expected a folder, or a name that is free")
    if (folder / WEIGHTS).exists():
        # The weights carry the config too, so that this one rename is the moment of change: if we die before
        # the next one, `load` sees two save_ids and believes the weights.
        write_file(folder / WEIGHTS, weights)
        write_file(folder / CONFIG, config)
    else:
        # Without weights there is no checkpoint yet: they come last.
        write_file(folder / CONFIG, config)
        write_file(folder / WEIGHTS, weights)


def check_savable(model: nn.Module) -> None:
    """Raise a CheckpointError where `save` could not write the model: its class, config or tensors."""
    model = unwrapped(model)
    name_of(model)
    _checked_config(model)
    check_storable({name: tensor for name, tensor in weights_of(model).items() if not is_lazy(tensor)})
    Unsaved.of(model)


def load(folder_or_name: str | Path, *, device: str | torch.device = "cpu") -> Any:
    """A model from a folder that `save` wrote, or by the name of one that came with the package.

    The model is in evaluation mode; what was noted when it was saved is in `model.notes`.

    Raises:
        CheckpointError: there is no such model, or its files are corrupted, foreign or of a newer version.
    """
    return load_folder(find_folder(folder_or_name), device=device)


def find_folder(folder_or_name: str | Path) -> Path:
    """The folder itself if it exists, else the shipped model of that name."""
    folder, name = path_of(folder_or_name, "folder"), str(folder_or_name)
    if os.path.isdir(folder):  # names that are too long are no error to it
        return folder
    if os.path.exists(folder):
        raise CheckpointError(f"{folder} is a file: expected the folder that holds {CONFIG} and {WEIGHTS}")
    if name not in shipped():
        known = f" or {closest(name, shipped())}" if shipped() else ""
        raise CheckpointError(f"no folder or model of the package is named {name!r}: expected a folder{known}")
    return SHIPPED / name


def load_folder(folder: Path, cls: type[nn.Module] | None = None, *, device: str | torch.device = "cpu") -> Any:
    """The model in `folder`, a `cls` if that is given.

    A folder that huggingface_hub wrote does not name its class; then it needs `cls`.
    """
    content = read_json(folder / CONFIG)
    file = TensorFile(folder / WEIGHTS, "a model's weights")
    content = _newest(content, file)
    check_version(content.get("format_version", FORMAT_VERSION), folder / CONFIG)
    name = content.get("class_name")
    if name is None and cls is None:
        raise CheckpointError(f"{folder / CONFIG} names no class: expected one that tokenturing.save wrote")
    found = cls if name is None else find_class(str(name))
    assert found is not None
    if cls is not None and not issubclass(found, cls):
        raise CheckpointError(f"{folder} holds {a(str(name))}: expected {a(cls)}; tokenturing.load takes either")
    model = build(found, {key: value for key, value in content.items() if key not in OWN_KEYS}, file)
    notes = content.get("notes") or {}
    if not isinstance(notes, dict):
        raise CheckpointError(f"{folder / CONFIG}: notes is {a(type(notes))}: expected a table")
    model.notes = notes  # type: ignore[assignment]
    return model.eval().to(device)


def _newest(content: dict[str, Any], file: TensorFile) -> dict[str, Any]:
    """The config of the newest weights: theirs, if config.json is of another save than they are."""
    try:
        inside = json.loads(file.metadata.get("tokenturing", "{}"))
        interrupted = "save_id" in content and "save_id" in inside and content["save_id"] != inside["save_id"]
    except (ValueError, TypeError, RecursionError):
        return content
    return inside if interrupted else content
