"""The state of a session as bytes or a file: safetensors, with the fingerprint of the model it belongs to."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tokenturing import state as states
from tokenturing.checkpoint.format import FORMAT_VERSION, check_version
from tokenturing.checkpoint.owner import Owner
from tokenturing.checkpoint.tensors import TensorBytes, check_is_file, pack
from tokenturing.errors import CheckpointError, a
from tokenturing.files import write_file

KIND = "a session's state"


def dump_state(state: tuple, model: Any) -> bytes:
    """The state of a session as bytes, with the fingerprint of the model it belongs to.

    Args:
        state: of any number of rows.
        model: the model that made the state, or its `checkpoint.Owner`.

    Raises:
        CheckpointError: the model cannot have made this state.
    """
    owner = _owner(model)
    leaves = dict(states.leaves(state))
    owner.check({name: (tuple(leaf.shape), leaf.dtype) for name, leaf in leaves.items()}, "the state")
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "kind": "state",
        "class_name": owner.class_name,
        "fingerprint": owner.fingerprint,
    }
    return pack(leaves, metadata, checksum="crc32")


def parse_state(
    data: bytes | bytearray | memoryview,
    model: Any,
    *,
    device: str | torch.device | None = None,
    allow_other_weights: bool = False,
) -> Any:
    """The state that `dump_state` made bytes of, for the same model to go on from.

    Args:
        data: from anywhere; what is wrong with it is found before any of it is used.
        model: the model whose state it is, or its `checkpoint.Owner`.
        device: where to put it; None: where the model is.
        allow_other_weights: take the state of a model with other weights too, as before a fine-tuning, with a warning; the class
            and all shapes must be the same.

    Raises:
        CheckpointError: the data is truncated, corrupted, foreign or newer, or the state is another model's.
    """
    return _parse(data if isinstance(data, bytes) else bytes(memoryview(data)), model, device, "the data", allow_other_weights)


def save_state(state: tuple, file: str | Path, model: Any) -> None:
    """Write the bytes of `dump_state` to a file, in one move.

    Args:
        state: of any number of rows.
        file: is replaced if it is there.
        model: the model that made the state, or its `checkpoint.Owner`.

    Raises:
        CheckpointError: the model cannot have made this state.
    """
    data, path = dump_state(state, model), Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)


def load_state(
    file: str | Path, model: Any, *, device: str | torch.device | None = None, allow_other_weights: bool = False
) -> Any:
    """The state that `save_state` wrote, for the same model to go on from.

    Args:
        file: as `save_state` wrote it.
        model: the model whose state it is, or its `checkpoint.Owner`.
        device: where to put it; None: where the model is.
        allow_other_weights: take the state of a model with other weights too, as before a fine-tuning, with a warning; the class
            and all shapes must be the same.

    Raises:
        CheckpointError: the file is missing, truncated, corrupted, foreign or newer, or the state is another model's.
    """
    path = Path(file)
    check_is_file(path, KIND)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}): expected {KIND}") from error
    return _parse(data, model, device, path, allow_other_weights)


def _parse(
    data: bytes, model: Any, device: str | torch.device | None, where: str | Path, allow_other_weights: bool = False
) -> Any:
    source, owner = TensorBytes(data, KIND, where), _owner(model)
    if source.metadata.get("kind") != "state":
        raise CheckpointError(f"{where} holds no state: expected what tokenturing.save_state or dump_state wrote")
    check_version(source.metadata.get("format_version"), where)
    if owner.fingerprint != source.metadata.get("fingerprint"):
        _take_other(source.metadata, owner, where, allow_other_weights)
    owner.check(source.leaves(), where)
    return owner.rebuild(source.tensors(owner.device if device is None else device))


def _take_other(metadata: Mapping[str, str], owner: Owner, where: str | Path, allowed: bool) -> None:
    """Refuse a state of another model, or warn where only the weights are others and that is allowed."""
    name, theirs = metadata.get("class_name"), metadata.get("fingerprint")
    what = (
        f"{where} is the state of another model: of {a(str(name))} with the fingerprint {theirs}, and this {owner.class_name} "
        f"has {owner.fingerprint}"
    )
    if not allowed:
        way = "; or pass allow_other_weights=True, if it was this model before it was trained further"
        raise CheckpointError(f"{what}; load the model that it was saved with{way * (name == owner.class_name)}")
    if name != owner.class_name:
        raise CheckpointError(f"{what}: another class, where allow_other_weights expects the same")
    warnings.warn(f"{what}: it goes on with other weights than it was made with", stacklevel=4)


def _owner(model: Any) -> Owner:
    return model if isinstance(model, Owner) else Owner.of(model)
