"""A state is a value: a NamedTuple (nested if need be) whose leaves are batch-first tensors.

Because the first axis of every leaf is the row, these few functions serve every model: stacking sessions into a
batch, taking rows out, resetting, detaching, moving. A leaf that grows with the stream (a cache over the whole history)
grows along axis 1 and is padded with zeros at its end; everything else keeps its shape for ever. Which leaves grow is
said by the state's class, with `grows`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from tokenturing.errors import OptionError, ShapeError, a

State = TypeVar("State", bound=tuple)
Class = TypeVar("Class", bound=type)


def grows(*names: str) -> Callable[[Class], Class]:
    """A decorator for a class of states, a NamedTuple: these leaves grow with the stream, along axis 1."""

    def mark(cls: Class) -> Class:
        cls.growing = frozenset(names)  # type: ignore[attr-defined]
        return cls

    return mark


MOST_STEPS = 2**62
"""so many no stream has had, and there is room to count on"""


def out_of_range(name: str, counts: Tensor, most: int = MOST_STEPS, what: str = "any stream") -> str | None:
    """What is wrong with the counts of steps in a state, None if nothing is: for a method `fault` of its class.

    `tokenturing.parse_state` asks it, since a state's bytes may be anybody's.
    """
    if not counts.numel() or 0 <= int(counts.min()) <= int(counts.max()) <= most:
        return None
    return f"{name} has counts from {int(counts.min())} to {int(counts.max())}: expected 0 to {most}, {what}"


def faults(state: Any) -> Iterator[str]:
    """What a state's classes find wrong with its values, by their methods `fault`."""
    if isinstance(state, Tensor):
        return
    if (ask := getattr(state, "fault", None)) and (found := ask()):
        yield found
    for part in state:
        yield from faults(part)


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply `function` leaf by leaf to states of the same structure.

    Raises:
        ShapeError: one is no state, or they are of different classes.
    """
    return _map(lambda name, growing, *parts: function(*parts), states)


def _map(function: Callable[..., Tensor], states: Sequence[Any], name: str = "", growing: bool = False) -> Any:
    """The same with (dotted name, whether the leaf grows, leaf, leaf, ...)."""
    first = states[0]
    for other in states[1:]:
        if not same_kind(first, other):
            raise ShapeError(
                f"states are {_kind(first)} and {_kind(other)}{f' in {name!r}' if name else ''}: "
                "expected states of one model, all with the same leaves"
            )
    if isinstance(first, Tensor):
        return function(name, growing, *states)
    marked = getattr(first, "growing", ())
    parts = [
        _map(function, [state[index] for state in states], f"{name}.{part}" if name else part, part in marked)
        for index, part in enumerate(_names(first))
    ]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def _names(state: Any) -> Sequence[str]:
    """The names of a state's parts.

    Raises:
        ShapeError: it is none.
    """
    if not isinstance(state, tuple | list):
        raise ShapeError(
            f"state is {a(type(state))}: expected tensors in a (named) tuple, as initial_state() or a step returned them"
        )
    return getattr(state, "_fields", None) or [str(index) for index in range(len(state))]


def same_kind(first: Any, other: Any) -> bool:
    """Whether both are tensors, or tuples of one class with as many parts; a class that was defined anew is the same."""
    if isinstance(first, Tensor) or isinstance(other, Tensor):
        return isinstance(first, Tensor) and isinstance(other, Tensor)
    one, two = type(first), type(other)
    same = one is two or (hasattr(first, "_fields") and (one.__module__, one.__qualname__) == (two.__module__, two.__qualname__))
    return same and _names(first) == _names(other)


def alike(first: Any, other: Any) -> bool:
    """Whether two states have one structure, of the same classes throughout."""
    if not same_kind(first, other):
        return False
    return isinstance(first, Tensor) or all(alike(one, two) for one, two in zip(first, other, strict=True))


def _kind(state: Any) -> str:
    if isinstance(state, Tensor) or hasattr(state, "_fields") or not isinstance(state, tuple | list):
        return a(type(state))
    return f"{a(type(state))} of {len(state)}"


def leaves(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield (dotted name, tensor) for every leaf, in order.

    Raises:
        ShapeError: it is no state.
    """
    if isinstance(state, Tensor):
        yield prefix, state
        return
    for name, part in zip(_names(state), state, strict=True):
        yield from leaves(part, f"{prefix}.{name}" if prefix else name)


def rebuild(like: State, tensors: dict[str, Tensor], prefix: str = "") -> State:
    """The inverse of `leaves`: a state with the structure of `like` and the tensors by their dotted names."""
    return _map(lambda name, growing, leaf: tensors[name], [like], prefix)


def _padded(name: str, growing: bool, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Leaves [B, ...] of one shape but for B; those that grow are padded to one length.

    Raises:
        ShapeError: their shapes differ in what does not grow.
    """
    fixed = {(t.dim(), *t.shape[2 if growing else 1 :]) for t in tensors}
    if len(fixed) > 1 or not tensors[0].dim():
        shapes = " and ".join(dict.fromkeys(str(list(t.shape)) for t in tensors))
        raise ShapeError(
            f"leaves {name!r} have the shapes {shapes}: expected states of one model; a leaf that grows with the stream is "
            "named to tokenturing.state.grows, the decorator of the state's class"
        )
    if not growing or len({t.shape[1] for t in tensors}) == 1:
        return list(tensors)
    longest = max(t.shape[1] for t in tensors)
    return [
        t if t.shape[1] == longest else torch.cat([t, t.new_zeros(t.shape[0], longest - t.shape[1], *t.shape[2:])], dim=1)
        for t in tensors
    ]


def merge(rows: Tensor, taken: State, kept: State) -> State:
    """Row b comes from `taken` where rows[b] (bool [B]) is true and from `kept` elsewhere, to the bit.

    Raises:
        ShapeError: the states are not of one model.
    """

    def pick(name: str, growing: bool, first: Tensor, second: Tensor) -> Tensor:
        first, second = _padded(name, growing, [first, second])
        return torch.where(rows.view(-1, *[1] * (first.dim() - 1)), first, second)

    return _map(pick, [taken, kept])


def stack(states: Iterable[State]) -> State:
    """Join states of some rows each into one batch, in order.

    Raises:
        ShapeError: there are none, or they are not of one model and type.
    """
    if isinstance(states, Tensor | dict) or hasattr(states, "_fields") or not isinstance(states, Iterable):
        raise ShapeError(f"stack() got {a(type(states))}: expected several states, as a list of them")
    found = list(states)
    if not found:
        raise ShapeError("stack() needs at least one state")

    def join(name: str, growing: bool, *parts: Tensor) -> Tensor:
        if len({(part.dtype, part.device) for part in parts}) > 1:
            kinds = " and ".join(dict.fromkeys(f"{part.dtype} on {part.device}" for part in parts))
            raise ShapeError(f"leaves {name!r} are {kinds}: expected one type on one device; see tokenturing.state.move")
        return torch.cat(_padded(name, growing, parts), dim=0)

    return _map(join, found)


def take(state: State, rows: Iterable[int] | Tensor | slice) -> State:
    """The rows with these indices (or where a bool [B] is true), as a new state; of none, a state of no rows.

    The row axis stays: one row is `[2]`, and a plain 2 is refused.

    Raises:
        ShapeError: there are no such rows.
    """
    index = _indices(state, rows)
    return map_state(lambda leaf: leaf[index], state)


class Begins(Protocol):
    """A model whose state is a value."""

    def initial_state(self, rows: int, /) -> Any: ...


def reset(state: State, rows: Iterable[int] | Tensor | slice, model: Begins) -> State:
    """The state with these rows (indices, or true in a bool [B]) as before the model's first step, and the others to the bit.

    Raises:
        ShapeError: there are no such rows, or it is not the state of this model.
    """
    index = _indices(state, rows)
    like = _first(state)
    begun = torch.zeros(like.shape[0], dtype=torch.bool, device=like.device)
    begun[index] = True
    fresh = map_state(lambda new, leaf: new.to(leaf), model.initial_state(like.shape[0]), state)
    return merge(begun, fresh, state)


def _first(state: Any) -> Tensor:
    """The first leaf, which has a row axis."""
    first = next((leaf for _, leaf in list(leaves(state))), None)
    if first is not None and first.dim():
        return first
    raise ShapeError(
        f"state is {_kind(state)} with no rows: expected leaves [B, ...], as initial_state() or a step returned them"
    )


def _indices(state: Any, rows: Any) -> Tensor:
    """Rows by index, or by a bool [B], as int64 indices.

    Raises:
        ShapeError: there are no such rows.
    """
    like = _first(state)
    size = like.shape[0]
    if isinstance(rows, slice):
        try:
            rows = range(size)[rows]
        except (TypeError, ValueError) as error:
            raise ShapeError(f"rows are {rows}: expected whole numbers in the slice") from error
    elif isinstance(rows, Iterator):
        rows = list(rows)
    expected = f"expected a list of whole numbers, or bool [{size}] for this state"
    try:
        index = torch.as_tensor(rows, device=like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"rows are {rows!r}: {expected}") from error
    if index.dtype in (torch.uint16, torch.uint32, torch.uint64):  # torch can't compare these
        index = index.long()
    if not index.dim() and not index.is_floating_point() and index.dtype != torch.bool:
        raise ShapeError(f"rows are {int(index)}: {expected}; the row axis stays, so one row is [{int(index)}]")
    if index.dtype == torch.bool and index.shape == (size,):
        return index.nonzero().squeeze(1)
    if not index.numel() and index.dim() == 1 and index.dtype != torch.bool:  # an empty list has the type of fractions
        index = index.long()
    if index.dim() != 1 or index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
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
    """`tensor.to(...)` on every leaf; a dtype is applied to floating-point leaves only, and counts stay exact.

    Raises:
        OptionError: the dtype is no floating-point type.
    """
    how = {name: kwargs[name] for name in ("non_blocking", "copy") if name in kwargs}

    def to(leaf: Tensor) -> Tensor:
        if leaf.is_floating_point():
            moved = leaf.to(*args, **kwargs)
            if not moved.is_floating_point():
                raise OptionError(f"a state in {moved.dtype} would lose what it holds: expected a floating-point type")
            return moved
        # Not by way of the dtype and back, which would round.
        return leaf.to(leaf.new_empty(0).to(*args, **kwargs).device, **how)

    return map_state(to, state)


def rows(state: tuple) -> int:
    """The number of rows B."""
    return _first(state).shape[0]


def nbytes(state: tuple) -> int:
    """The size of the state in bytes, over all rows."""
    return sum(leaf.numel() * leaf.element_size() for _, leaf in leaves(state))
