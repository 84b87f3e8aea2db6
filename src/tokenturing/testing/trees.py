"""Trees of tensors (tuples, NamedTuples, lists, dicts), and where two of them differ."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokenturing.errors import a


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield (dotted name, tensor) for every tensor in `tree`."""
    if isinstance(tree, Tensor):
        yield prefix, tree
        return
    for name, part in _parts(tree):
        yield from leaves(part, f"{prefix}.{name}" if prefix else str(name))


def map_tree(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """A tree of the same structure with `function` applied to every tensor."""
    if isinstance(tree, Tensor):
        return function(tree)
    if tree is None:
        return None
    parts = {name: map_tree(function, part) for name, part in _parts(tree)}
    if isinstance(tree, dict):
        return parts
    return type(tree)(*parts.values()) if hasattr(tree, "_fields") else type(tree)(parts.values())


def _parts(tree: Any) -> Iterator[tuple[Any, Any]]:
    if tree is None:
        return
    if isinstance(tree, dict):
        yield from tree.items()
    elif isinstance(tree, tuple | list):
        yield from zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True)
    else:
        raise TypeError(f"got {a(type(tree))}: expected tensors, or tuples, lists or dicts of them")


SMALLEST = 1e-3
"""of the largest value of a result: numbers below are compared as if they were of this size"""


@dataclass(frozen=True)
class Difference:
    """Where two results differ."""

    rows: tuple[int, ...]
    step: int | None
    """the first that differs; None if the outputs agree and only the states after the last step differ"""
    size: float
    places: tuple[str, ...]

    def of(self, numbers: Sequence[int]) -> "Difference":
        """The same with rows renumbered: those compared were the rows `numbers`."""
        return replace(self, rows=tuple(numbers[row] for row in self.rows))

    def __str__(self) -> str:
        rows = ", ".join(map(str, self.rows))
        verb = f"rows {rows} differ" if len(self.rows) > 1 else f"row {rows} differs"
        when = "in the state alone" if self.step is None else f"from step {self.step} on"
        return f"{verb} {when}; largest difference {self.size:.3g} in {', '.join(self.places)}"


def compare(
    expected: tuple[Any, Any], actual: tuple[Any, Any], tolerance: float = 0.0, *, first_step: int = 0, among: Any = None
) -> Difference | None:
    """Compare two pairs of (outputs [B, T, ...], state with leaves [B, ...]).

    Args:
        expected: the expected pair.
        actual: the actual pair.
        tolerance: the largest difference allowed, relative to each tensor's largest value, or to a thousandth of the largest of
            all tensors if that is larger.
        first_step: the number of the first step, for the message.
        among: all tensors that the expected ones are some of; None: they are all.
    """
    rows: set[int] = set()
    steps: list[int] = []
    places, largest = [], 0.0
    everything = expected if among is None else among
    floor = SMALLEST * max((_largest(tensor) for _, tensor in leaves(everything) if _inexact(tensor)), default=0.0)
    for kind, tree, other in (("output", expected[0], actual[0]), ("state leaf", expected[1], actual[1])):
        theirs = dict(leaves(other))
        for name, tensor in leaves(tree):
            far = _distance(tensor, theirs.get(name), tolerance, floor)
            if not far.any():
                continue
            rows.update(far.flatten(1).amax(1).nonzero().flatten().tolist())
            if kind == "output":
                steps.append(int(far.flatten(2).amax((0, 2)).nonzero()[0]) + first_step)
            places.append(f"{kind} {name!r}" if name else kind.removesuffix(" leaf"))
            largest = max(largest, float(far.max()))
    return Difference(tuple(sorted(rows)), min(steps, default=None), largest, tuple(places)) if rows else None


def _distance(expected: Tensor, actual: Tensor | None, tolerance: float, floor: float) -> Tensor:
    """How far each number is off, [B, T, ...]: 0 within the tolerance, inf for NaN or another shape."""
    if actual is not None:  # on the CPU, as some devices have no float64
        expected, actual = pad([expected.detach().cpu(), actual.detach().cpu()])
    if actual is None or actual.shape != expected.shape:
        return torch.full((len(expected), 1, 1), torch.inf)
    shape = (*expected.shape, *[1] * max(0, 3 - expected.dim()))
    same = (expected == actual) | (expected.isnan() & actual.isnan())
    allowed = tolerance * max(floor, _largest(expected)) if _inexact(expected) else 0.0
    wide = torch.complex128 if expected.is_complex() or actual.is_complex() else torch.float64
    off = (expected.to(wide) - actual.to(wide)).abs().nan_to_num(torch.inf, torch.inf)
    return torch.where(same | (off <= allowed), 0.0, off).reshape(shape)


def _largest(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def pad(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors padded with zeros to the same length on axis 1, for leaves that grow."""
    if tensors[0].dim() < 2 or len({t.shape[1] for t in tensors}) == 1:
        return list(tensors)
    longest = max(t.shape[1] for t in tensors)
    return [torch.cat([t, t.new_zeros(t.shape[0], longest - t.shape[1], *t.shape[2:])], dim=1) for t in tensors]
