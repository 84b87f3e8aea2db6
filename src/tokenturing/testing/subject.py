"""The module under test, ways to run it in pieces, and changes to its inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tokenturing.errors import ShapeError, a
from tokenturing.testing.trees import Difference, Tolerance, compare, distance, largest, leaves, map_tree, pairs

ROUNDINGS = 100
"""how many times further than by rounding the inputs once results may move"""


@dataclass(frozen=True)
class Subject:
    """The module under test and how to call it."""

    model: Callable[..., Any]
    inputs: Any
    initial_state: Callable[[int], Any]
    step: Callable[[Any, Any], Any] | None
    flags: frozenset[str]
    """those of "reset" and "active" that the call takes"""
    ignored: frozenset[str]
    """those that it takes as it takes any keyword, and that change nothing"""
    tolerance: float
    by_type: bool
    """whether tensors of coarser types have the tolerance of their type"""
    splits: tuple[tuple[int, ...], ...]
    probe_nan: bool
    grows: bool

    @property
    def rows(self) -> int:
        return next(leaves(self.inputs))[1].shape[0]

    @property
    def steps(self) -> int:
        return next(leaves(self.inputs))[1].shape[1]

    @property
    def module(self) -> nn.Module | None:
        """The module whose parameters and buffers these are: that inside a compiled one, or that of a method."""
        owner = self.model if isinstance(self.model, nn.Module) else getattr(self.model, "__self__", None)
        owner = getattr(owner, "_orig_mod", owner)
        return owner if isinstance(owner, nn.Module) else None

    @cached_property
    def noise(self) -> dict[str, float]:
        """By how much results may move for nothing, by their places."""
        with torch.no_grad():
            first, second = run(self, self.inputs), run(self, nudged(self.inputs))
            return {place: ROUNDINGS * largest(distance(one, other)) for place, one, other in pairs(first, second)}

    def compare(self, expected: tuple[Any, Any], actual: tuple[Any, Any], *, first_step: int = 0) -> Difference | None:
        """Compare two results within the tolerance."""
        allowed = Tolerance(self.tolerance, self.by_type, self.noise)
        return compare(expected, actual, allowed, first_step=first_step)


def run(subject: Subject, inputs: Any, state: Any = None, **flags: Tensor) -> tuple[Any, Any]:
    """Run the module over all steps of `inputs`, from the initial state by default."""
    if state is None:
        state = subject.initial_state(next(leaves(inputs))[1].shape[0])
    result = subject.model(inputs, state, **flags)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise ShapeError(f"it returned {a(type(result))}: expected (outputs, state)")
    return tuple(result)  # type: ignore[return-value]


def run_chunks(subject: Subject, inputs: Any, split: tuple[int, ...], state: Any = None) -> tuple[Any, Any]:
    """Run it in chunks of the lengths in `split`, and join the outputs."""
    outputs, start = [], 0
    for length in split:
        y, state = run(subject, cut(inputs, start, start + length), state)
        outputs.append(y)
        start += length
    return join(outputs, torch.cat), state


def run_steps(subject: Subject, inputs: Any) -> tuple[Any, Any]:
    """Run it step by step."""
    assert subject.step is not None
    state, outputs = subject.initial_state(subject.rows), []
    for t in range(subject.steps):
        y, state = subject.step(at(inputs, t), state)
        outputs.append(y)
    return join(outputs, torch.stack), state


def cut(tree: Any, start: int, stop: int) -> Any:
    """Steps start to stop of [B, T, ...]."""
    return map_tree(lambda x: x[:, start:stop], tree)


def at(tree: Any, step: int) -> Any:
    """One step of [B, T, ...] -> [B, ...]."""
    return map_tree(lambda x: x[:, step], tree)


def row(tree: Any, index: int) -> Any:
    """One row of [B, ...], as a batch of one."""
    return rows(tree, [index])


def rows(tree: Any, indices: list[int]) -> Any:
    """Rows of [B, ...] by their indices."""
    return map_tree(lambda x: x[indices], tree)


def join(parts: list[Any], how: Callable) -> Any:
    """Join trees of outputs along the time axis."""
    columns = [[leaf for _, leaf in leaves(part)] for part in parts]
    joined = iter([how(column, dim=1) for column in zip(*columns, strict=True)])
    return map_tree(lambda _: next(joined), parts[0])


def fresh_copy(tree: Any) -> Any:
    return map_tree(lambda leaf: leaf.detach().clone(), tree)


def changed(inputs: Any, rows: Any = slice(None), steps: Any = slice(None), *, nan: bool = False) -> Any:
    """The inputs with other values at these rows and steps: NaN, or other values of the same dtype."""

    def change(x: Tensor) -> Tensor:
        x = x.clone()
        if x.is_floating_point() or x.is_complex():
            dtype = torch.complex64 if x.is_complex() else torch.float32
            noise = torch.randn(x.shape, dtype=dtype, generator=torch.Generator().manual_seed(1)).to(x)
            x[rows, steps] = torch.nan if nan else x[rows, steps] + 0.5 * noise[rows, steps]
        elif not nan:
            x[rows, steps] = x.flip(1).roll(1, 0)[rows, steps]
        return x

    return map_tree(change, inputs)


def nudged(inputs: Any) -> Any:
    """The inputs, each number moved by one rounding."""

    def nudge(x: Tensor) -> Tensor:
        if not (x.is_floating_point() or x.is_complex()):
            return x
        signs = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).sign().to(x)
        return x + torch.finfo(x.dtype).eps * signs * x

    return map_tree(nudge, inputs)


def overwritten(inputs: Any) -> None:
    """Write other values into the inputs, as whoever owns the buffer may."""
    map_tree(lambda x: x.copy_(x == 0), inputs)


def probes(subject: Subject) -> list[bool]:
    """Whether to change inputs to NaN: other numbers first, since they show by how much results differ."""
    floating = any(x.is_floating_point() or x.is_complex() for _, x in leaves(subject.inputs))
    return [False, True] if subject.probe_nan and floating else [False]


def flags(subject: Subject, value: bool, *places: tuple[int, int]) -> Tensor:
    """bool [B, T]: `value` everywhere but at these places (row, step)."""
    device = next(leaves(subject.inputs))[1].device
    out = torch.full((subject.rows, subject.steps), value, device=device)
    for place in places:
        out[place] = not value
    return out


def gradients_of(subject: Subject, split: tuple[int, ...], inputs: Any = None) -> dict[str, Tensor]:
    """Gradients of a weighted sum of outputs and last state with respect to inputs, first state and parameters."""
    inputs = map_tree(_leaf, subject.inputs if inputs is None else inputs)
    state = map_tree(lambda leaf: leaf if leaf.requires_grad else _leaf(leaf), subject.initial_state(subject.rows))
    result = run_chunks(subject, inputs, split, state)
    total = torch.zeros(())
    for number, (_, tensor) in enumerate(leaves(result)):
        if tensor.requires_grad:
            numbers = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
            total = total + (numbers * _weights(numbers, number)).sum()
    named = {f"the input {name}".strip(): x for name, x in leaves(inputs)}
    named |= {f"the first state's leaf {name!r}": leaf for name, leaf in leaves(state)}
    if subject.module is not None:
        named |= {f"the parameter {name!r}": p for name, p in subject.module.named_parameters()}
    named = {name: tensor for name, tensor in named.items() if tensor.requires_grad}
    if not total.requires_grad or not named:
        return {}
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(named.items(), found, strict=True)
    }


def _weights(tensor: Tensor, seed: int) -> Tensor:
    """Weights that depend only on the index, not on the size, since a state that grows may be longer or shorter."""
    phase = torch.full((), float(seed), device=tensor.device, dtype=tensor.dtype)
    for axis, size in enumerate(tensor.shape):
        phase = phase.unsqueeze(-1) + (axis + 1.7) * torch.arange(size, device=tensor.device, dtype=tensor.dtype)
    return phase.cos()


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.is_floating_point() or tensor.is_complex())
