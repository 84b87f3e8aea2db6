"""The state of a session on disk: safetensors, with the fingerprint of the model it belongs to."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tokenturing import state as states
from tokenturing.checkpoint.form import FORMAT_VERSION, check_version, config_of, plain, to_json
from tokenturing.checkpoint.tensors import TensorFile, digest, pack
from tokenturing.errors import CheckpointError
from tokenturing.files import some, write_file


def fingerprint(model: nn.Module) -> str:
    """A hash of the class, the config and every weight: which model a state belongs to.

    A model that was saved in a smaller type (`save(..., dtype=)`) comes back with other weights: another one.
    """
    model = plain(model)
    return digest(model.state_dict().items(), type(model).__name__, to_json(config_of(model), "config"))


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
        "class_name": type(plain(model)).__name__,
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
    check_version(source.metadata.get("format_version"), source.path)
    ours, theirs = fingerprint(model), source.metadata.get("fingerprint")
    if ours != theirs:
        raise CheckpointError(
            f"{file} is the state of another model: of a {source.metadata.get('class_name')} with the "
            f"fingerprint {theirs}, and this {type(plain(model)).__name__} has {ours}; load the model that "
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
            raise CheckpointError(f"{where}: {name} has shape {list(came)}: expected [{', '.join(sizes)}] with one B for all")


def _growing(model: nn.Module) -> set[str]:
    """The names of the leaves that get longer with a step."""
    memory: Any = next((part for part in plain(model).modules() if hasattr(part, "output_tokens")), None)
    if memory is None:
        return set()
    first = memory.initial_state(1)
    like = next(memory.parameters())
    with torch.no_grad():
        _, second = memory.step(like.new_zeros(1, memory.input_tokens or 1, memory.width), first)
    before = dict(states.leaves(first))
    return {name for name, leaf in states.leaves(second) if leaf.shape != before[name].shape}
