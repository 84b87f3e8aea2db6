"""Models and session states on disk: JSON and safetensors, never pickle.

A checkpoint is a folder with `config.json` and `model.safetensors`, as huggingface_hub's
`PyTorchModelHubMixin` writes and reads them: the constructor's arguments stand at the top level of
config.json, beside a few keys of ours.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenturing import state as states
from tokenturing.building import build, fill
from tokenturing.errors import CheckpointError, closest
from tokenturing.files import beside, read_json, some, write_file
from tokenturing.registry import find_class, name_of, register
from tokenturing.storage import TensorFile, digest, pack

__all__ = [
    "find_class",
    "find_folder",
    "fingerprint",
    "load",
    "load_folder",
    "load_state",
    "register",
    "save",
    "save_state",
    "shipped",
]

FORMAT_VERSION = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
OWN_KEYS = ("format_version", "class_name", "tokenturing_version", "save_id", "notes")
"""what config.json holds besides the constructor's arguments"""
SHIPPED = Path(__file__).parent / "weights"


def shipped() -> list[str]:
    """The names of the models that came with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


# --- models


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
        notes: plain JSON values worth keeping: recipe, seed, time, figures; None: those the model came with.
    """
    model = _plain(model)
    content = {
        "format_version": FORMAT_VERSION,
        "class_name": name_of(model),
        "tokenturing_version": _version(),
        "notes": getattr(model, "notes", {}) if notes is None else notes,
        **_config(model),
    }
    weights, original = _cast(model.state_dict(), dtype)
    content["save_id"] = digest(weights.items(), _json(content, "notes"))
    text = _json(content, "config")
    _write(Path(folder), text.encode(), pack(weights, {"tokenturing": text, "original_types": original}))


def _cast(weights: dict[str, Tensor], dtype: torch.dtype | None) -> tuple[dict[str, Tensor], str]:
    """The weights in `dtype`, and as JSON what types those had that were changed."""
    stored = {
        name: tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }
    changed = {
        name: str(tensor.dtype).removeprefix("torch.")
        for name, tensor in weights.items()
        if stored[name].dtype != tensor.dtype
    }
    for name in changed:
        if weights[name].isfinite().all() and not stored[name].isfinite().all():
            raise CheckpointError(f"{name} has values too large for {dtype}: save it in another type")
    return stored, json.dumps(changed)


def _write(folder: Path, config: bytes, weights: bytes) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        aside = beside(folder.absolute())
        aside.mkdir(parents=True)
        write_file(aside / WEIGHTS, weights)
        write_file(aside / CONFIG, config)
        aside.rename(folder)
    elif not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: expected a folder, or a name that is free")
    elif (folder / WEIGHTS).exists():
        # The weights carry the config too, so that this one rename is the moment of change: if we die before
        # the next one, `load` sees two save_ids and believes the weights.
        write_file(folder / WEIGHTS, weights)
        write_file(folder / CONFIG, config)
    else:
        write_file(folder / CONFIG, config)
        write_file(folder / WEIGHTS, weights)


def load(folder_or_name: str | Path, *, device: str | torch.device = "cpu") -> Any:
    """A model from a folder that `save` wrote, or by the name of one that came with the package.

    The model is in evaluation mode; what was noted when it was saved is in `model.notes`.

    Raises:
        CheckpointError: there is no such model, or its files are corrupted, foreign or of a newer version.
    """
    return load_folder(find_folder(folder_or_name), device=device)


def find_folder(folder_or_name: str | Path) -> Path:
    """The folder itself if it exists, else the shipped model of that name."""
    folder, name = Path(folder_or_name), str(folder_or_name)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{folder} is a file: expected the folder that holds {CONFIG} and {WEIGHTS}")
    if name not in shipped():
        known = f" or {closest(name, shipped())}" if shipped() else ""
        raise CheckpointError(
            f"no folder or model of the package is named {name!r}: expected a folder{known}"
        )
    return SHIPPED / name


def load_folder(
    folder: Path, cls: type[nn.Module] | None = None, *, device: str | torch.device = "cpu"
) -> Any:
    """The model in `folder`, a `cls` if that is given.

    A folder that huggingface_hub wrote does not name its class; then it needs `cls`.
    """
    content = read_json(folder / CONFIG)
    file = TensorFile(folder / WEIGHTS, "a model's weights")
    content = _newest(content, file)
    _check_version(content.get("format_version", FORMAT_VERSION), folder / CONFIG)
    name = content.get("class_name")
    if name is None and cls is None:
        raise CheckpointError(f"{folder / CONFIG} names no class: expected one that tokenturing.save wrote")
    found = cls if name is None else find_class(str(name))
    assert found is not None
    if cls is not None and not issubclass(found, cls):
        raise CheckpointError(
            f"{folder} holds a {name}: expected a {cls.__name__}; tokenturing.load takes either"
        )
    model = build(found, {key: value for key, value in content.items() if key not in OWN_KEYS}, file)
    fill(model, file)
    model.notes = content.get("notes") or {}  # type: ignore[assignment]
    return model.eval().to(device)


def _newest(content: dict[str, Any], file: TensorFile) -> dict[str, Any]:
    """The config of the newest weights: theirs, if config.json is of another save than they are."""
    try:
        inside = json.loads(file.metadata.get("tokenturing", "{}"))
        interrupted = "save_id" in content and "save_id" in inside and content["save_id"] != inside["save_id"]
    except (ValueError, TypeError, RecursionError):
        return content
    return inside if interrupted else content


# --- session states


def fingerprint(model: nn.Module) -> str:
    """A hash of the class, the config and every weight: which model a state belongs to.

    A model that was saved in a smaller type (`save(..., dtype=)`) comes back with other weights: another one.
    """
    model = _plain(model)
    return digest(model.state_dict().items(), type(model).__name__, _json(_config(model), "config"))


def save_state(state: tuple, file: str | Path, model: nn.Module) -> None:
    """Write the state of a session, in one move, with the fingerprint of the model it belongs to.

    Args:
        state: of any number of rows.
        file: is replaced if it is there.
        model: the model that made the state.
    """
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "kind": "state",
        "class_name": type(_plain(model)).__name__,
        "fingerprint": fingerprint(model),
    }
    leaves = dict(states.leaves(state))
    _check_leaves(model, {name: tuple(leaf.shape) for name, leaf in leaves.items()}, "the state")
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, pack(leaves, metadata))


def load_state(file: str | Path, model: Any, *, device: str | torch.device | None = None) -> Any:
    """The state that `save_state` wrote, for the same model to go on from.

    Args:
        file: as `save_state` wrote it.
        model: the model whose state it is.
        device: where to put it; None: where the model is.

    Raises:
        CheckpointError: the file is missing, corrupted, foreign or newer, or the state is another model's.
    """
    source = TensorFile(Path(file), "a session's state")
    if source.metadata.get("kind") != "state":
        raise CheckpointError(f"{file} holds no state: expected a file that tokenturing.save_state wrote")
    _check_version(source.metadata.get("format_version"), source.path)
    ours, theirs = fingerprint(model), source.metadata.get("fingerprint")
    if ours != theirs:
        raise CheckpointError(
            f"{file} is the state of another model: of a {source.metadata.get('class_name')} with the "
            f"fingerprint {theirs}, and this {type(_plain(model)).__name__} has {ours}; load the model that "
            "it was saved with"
        )
    _check_leaves(model, source.shapes, str(source.path))
    like = model.initial_state(1)
    where = next(states.leaves(like))[1].device if device is None else device
    return states.move(states.rebuild(like, source.tensors()), where)


def _check_leaves(model: Any, leaves: dict[str, tuple[int, ...]], where: str) -> None:
    """Compare names and shapes with the model's own first state; only leaves that grow may be longer."""
    wanted = {name: tuple(leaf.shape) for name, leaf in states.leaves(model.initial_state(1))}
    if wanted.keys() != leaves.keys():
        raise CheckpointError(f"{where} has the leaves {some(set(leaves))}: expected {some(set(wanted))}")
    rows = {shape[:1] for shape in leaves.values()}
    for name, expected in wanted.items():
        came = leaves[name]
        longer = len(came) > 1 and came[:1] + expected[1:2] + came[2:] != came
        fixed = 2 if longer and name in _growing(model) else 1
        if len(came) != len(expected) or came[fixed:] != expected[fixed:] or len(rows) > 1:
            sizes = ["B", *["any"] * (fixed - 1), *map(str, expected[fixed:])]
            raise CheckpointError(
                f"{where}: {name} has shape {list(came)}: expected [{', '.join(sizes)}] with one B for all"
            )


def _growing(model: nn.Module) -> set[str]:
    """The names of the leaves that get longer with a step."""
    memory: Any = next((part for part in _plain(model).modules() if hasattr(part, "output_tokens")), None)
    if memory is None:
        return set()
    first = memory.initial_state(1)
    like = next(memory.parameters())
    with torch.no_grad():
        _, second = memory.step(like.new_zeros(1, memory.input_tokens or 1, memory.width), first)
    before = dict(states.leaves(first))
    return {name for name, leaf in states.leaves(second) if leaf.shape != before[name].shape}


# --- both


def _plain(model: nn.Module) -> nn.Module:
    """The module inside what torch.compile returned."""
    return getattr(model, "_orig_mod", model)


def _config(model: nn.Module) -> dict[str, Any]:
    config, name = getattr(model, "config", None), type(model).__name__
    if not isinstance(config, dict):
        raise CheckpointError(f"{name} has no config: expected a dict with which the class builds it")
    if taken := sorted(set(config) & set(OWN_KEYS)):
        raise CheckpointError(f"the key {taken[0]!r} of {name}'s config is the format's own: rename it")
    return config


def _json(content: dict[str, Any], what: str) -> str:
    try:
        return json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{what} cannot be written as JSON ({error}): expected plain values") from error


def _version() -> str:
    return importlib.import_module("tokenturing").__version__


def _check_version(version: Any, path: Path) -> None:
    try:
        number = int(version)
    except (TypeError, ValueError):
        raise CheckpointError(f"{path} has the format version {version!r}: expected a number") from None
    if not 1 <= number <= FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {number}, and tokenturing {_version()} reads up to {FORMAT_VERSION}: "
            "upgrade with pip install --upgrade tokenturing"
        )
