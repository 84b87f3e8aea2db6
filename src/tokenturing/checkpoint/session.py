"""The state of a session as bytes or a file: safetensors, with the fingerprint of the model it belongs to."""

import warnings
from pathlib import Path
from typing import Any

import torch

from tokenturing import state as states
from tokenturing.checkpoint.format import FORMAT_VERSION, check_version
from tokenturing.checkpoint.owner import Owner
from tokenturing.checkpoint.tensors import TensorBytes, check_is_file, pack
from tokenturing.errors import CheckpointError, a
from tokenturing.files import path_of, write_file

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
    owner.check_kind(state)
    leaves = dict(states.leaves(state))
    owner.check({name: (tuple(leaf.shape), leaf.dtype) for name, leaf in leaves.items()}, "the state")
    owner.check_values(state, "the state")
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
        allow_other_weights: take the state of another model of the same class and shapes too, with a warning: that of this model
            before a fine-tune. What stands in its memory was written with the other weights.

    Raises:
        CheckpointError: the data is truncated, corrupted, foreign or newer, or the state is another model's.
    """
    try:
        content = data if isinstance(data, bytes) else bytes(memoryview(data))
    except TypeError:
        raise CheckpointError(f"the data is {a(type(data))}: expected the bytes that dump_state returned") from None
    return _parse(content, model, device, "the data", allow_other_weights)


def save_state(state: tuple, file: str | Path, model: Any) -> None:
    """Write the bytes of `dump_state` to a file, in one move.

    Args:
        state: of any number of rows.
        file: is replaced if it is there.
        model: the model that made the state, or its `checkpoint.Owner`.

    Raises:
        CheckpointError: the model cannot have made this state.
    """
    data, path = dump_state(state, model), path_of(file, "file")
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
        allow_other_weights: take the state of another model of the same class and shapes too, with a warning: that of this model
            before a fine-tune. What stands in its memory was written with the other weights.

    Raises:
        CheckpointError: the file is missing, truncated, corrupted, foreign or newer, or the state is another model's.
    """
    path = path_of(file, "file")
    check_is_file(path, KIND)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}): expected {KIND}") from error
    return _parse(data, model, device, path, allow_other_weights)


def _parse(data: bytes, model: Any, device: str | torch.device | None, where: str | Path, allow_other_weights: bool) -> Any:
    source, owner = TensorBytes(data, KIND, where), _owner(model)
    if source.metadata.get("kind") != "state":
        raise CheckpointError(f"{where} holds no state: expected what tokenturing.save_state or dump_state wrote")
    check_version(source.metadata.get("format_version"), where)
    theirs, class_name = source.metadata.get("fingerprint"), source.metadata.get("class_name")
    if owner.fingerprint != theirs:
        what = (
            f"{where} is the state of another model: of {a(str(class_name))} with the fingerprint {theirs}, and this "
            f"{owner.class_name} has {owner.fingerprint}"
        )
        if class_name != owner.class_name or not allow_other_weights:
            raise CheckpointError(
                f"{what}; load the model that it was saved with, or, if this is the same with other weights, pass "
                "allow_other_weights=True"
            )
        owner.check(source.leaves(), where)
        warnings.warn(f"{what}; it goes on with what the other one wrote", stacklevel=3)
    owner.check(source.leaves(), where)
    return owner.rebuild(source.tensors(owner.device if device is None else device), where)


def _owner(model: Any) -> Owner:
    return model if isinstance(model, Owner) else Owner.of(model)
