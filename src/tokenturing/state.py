"""A state is a value: a NamedTuple (nested if need be) whose leaves are batch-first tensors.

Because the first axis of every leaf is the row, these few functions serve every model: stacking sessions into a
batch, taking rows out, resetting, detaching, moving. A leaf that grows with the stream (a cache over the whole history)
grows along axis 1 and is padded with zeros at its end; everything else keeps its shape for ever.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from tokenturing.errors import ShapeError

State = TypeVar("State", bound=tuple)


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply `function` leaf by leaf to states of the same structure."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    parts = [map_state(function, *leaves) for leaves in zip(*states, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)  # type: ignore[return-value]


def leaves(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield (dotted name, tensor) for every leaf, in order."""
    if isinstance(state, Tensor):
        yield prefix, state
        return
    names = getattr(state, "_fields", None) or [str(i) for i in range(len(state))]
    for name, part in zip(names, state, strict=True):
        yield from leaves(part, f"{prefix}.{name}" if prefix else name)


def rebuild(like: State, tensors: dict[str, Tensor], prefix: str = "") -> State:
    """The inverse of `leaves`: a state with the structure of `like` and the tensors by their dotted names."""
    if isinstance(like, Tensor):
        return tensors[prefix]  # type: ignore[return-value]
    names = getattr(like, "_fields", None) or [str(i) for i in range(len(like))]
    parts = [rebuild(part, tensors, f"{prefix}.{name}" if prefix else name) for name, part in zip(names, like, strict=True)]
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)  # type: ignore[return-value]


def _pad(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Pad leaves that grow to one length on axis 1."""
    if tensors[0].dim() < 2 or len({t.shape[1] for t in tensors}) == 1:
        return list(tensors)
    longest = max(t.shape[1] for t in tensors)
    return [
        t if t.shape[1] == longest else torch.cat([t, t.new_zeros(t.shape[0], longest - t.shape[1], *t.shape[2:])], dim=1)
        for t in tensors
    ]


def merge(rows: Tensor, taken: State, kept: State) -> State:
    """Row b comes from `taken` where rows[b] (bool [B]) is true and from `kept` elsewhere, to the bit."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        if a.dim() > 1 and a.shape[1] != b.shape[1]:
            a, b = _pad([a, b])
        return torch.where(rows.view(-1, *[1] * (a.dim() - 1)), a, b)

    return map_state(pick, taken, kept)


def stack(states: Sequence[State]) -> State:
    """Join states of some rows each into one batch, in order."""
    if not states:
        raise ShapeError("stack() needs at least one state")
    return map_state(lambda *parts: torch.cat(_pad(parts), dim=0), *states)


def take(state: State, rows: Sequence[int] | Tensor) -> State:
    """The rows with these indices (or where a bool [B] is true), as a new state; of none, a state of no rows."""
    index = _indices(state, rows)
    return map_state(lambda leaf: leaf[index], state)


class Begins(Protocol):
    """A model whose state is a value."""

    def initial_state(self, rows: int, /) -> Any: ...


def reset(state: State, rows: Sequence[int] | Tensor, model: Begins) -> State:
    """The state with these rows (indices, or true in a bool [B]) as before the model's first step, and the others to the bit."""
    index = _indices(state, rows)
    like = next(leaves(state))[1]
    begun = torch.zeros(like.shape[0], dtype=torch.bool, device=like.device)
    begun[index] = True
    fresh = map_state(lambda new, leaf: new.to(leaf), model.initial_state(like.shape[0]), state)
    return merge(begun, fresh, state)


def _indices(state: Any, rows: Sequence[int] | Tensor) -> Tensor:
    """Rows by index, or by a bool [B], as int64 indices.

    Raises:
        ShapeError: there are no such rows.
    """
    like = next(leaves(state))[1]
    index, size = torch.as_tensor(rows, device=like.device), like.shape[0]
    if index.dtype == torch.bool and index.shape == (size,):
        return index.nonzero().squeeze(1)
    if not index.numel() and index.dim() == 1 and index.dtype != torch.bool:  # an empty list has the type of fractions
        index = index.long()
    if index.dim() != 1 or index.is_floating_point() or index.dtype == torch.bool:
        raise ShapeError(
            f"rows have shape {list(index.shape)} and type {index.dtype}: expected whole numbers, or bool [{size}] for this state"
        )
    if index.numel() and not -size <= int(index.min()) <= int(index.max()) < size:
        raise ShapeError(f"rows from {int(index.min())} to {int(index.max())}: expected rows of this state, which has {size}")
    return index.long()


def detach(state: State) -> State:
    """The same values, cut from the graph of gradients."""
    return map_state(lambda leaf: leaf.detach(), state)


def clone(state: State) -> State:
    """A copy that shares no storage: the fork of a session."""
    return map_state(lambda leaf: leaf.clone(), state)


def move(state: State, *args: Any, **kwargs: Any) -> State:
    """`tensor.to(...)` on every leaf; a dtype is applied to floating-point leaves only, and counts stay exact."""
    how = {name: kwargs[name] for name in ("non_blocking", "copy") if name in kwargs}

    def to(leaf: Tensor) -> Tensor:
        if leaf.is_floating_point():
            return leaf.to(*args, **kwargs)
        # Not by way of the dtype and back, which would round.
        return leaf.to(leaf.new_empty(0).to(*args, **kwargs).device, **how)

    return map_state(to, state)


def rows(state: tuple) -> int:
    """The number of rows B."""
    return next(leaves(state))[1].shape[0]


def nbytes(state: tuple) -> int:
    """The size of the state in bytes, over all rows."""
    return sum(leaf.numel() * leaf.element_size() for _, leaf in leaves(state))
