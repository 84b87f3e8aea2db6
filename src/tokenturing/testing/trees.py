"""Trees of tensors (tuples, NamedTuples, lists, dicts, dataclasses), and where two of them differ."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokenturing.errors import a

TOLERANCES = {
    **dict.fromkeys((torch.float64, torch.complex128), 1e-9),
    **dict.fromkeys((torch.float32, torch.complex64), 1e-4),
    torch.bfloat16: 5e-2,
    torch.float16: 1e-2,
}


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
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **parts)
    return type(tree)(*parts.values()) if hasattr(tree, "_fields") else type(tree)(parts.values())


def _parts(tree: Any) -> Iterator[tuple[Any, Any]]:
    if tree is None:
        return
    if isinstance(tree, dict):
        yield from tree.items()
    elif isinstance(tree, tuple | list):
        yield from zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True)
    elif is_dataclass(tree) and not isinstance(tree, type):
        yield from ((part.name, getattr(tree, part.name)) for part in fields(tree))
    else:
        raise TypeError(f"got {a(type(tree))}: expected tensors, or tuples, lists, dicts or dataclasses of them")


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


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may be off.

    They may by `relative` to the largest value of their tensor, and where that is small by what rounding does to it: by `noise`,
    but not by more than `relative` to 1.
    """

    relative: float = 0.0
    by_type: bool = False
    """whether tensors of coarser types have that of their type"""
    noise: Mapping[str, float] = field(default_factory=dict)
    """by the place of a tensor, such as "output" or "state leaf 'memory'"; 0 if it is not there"""
    factor: float = 1.0
    """on what is relative"""

    def of(self, place: str, tensor: Tensor) -> float:
        """How far the numbers of this tensor may be off."""
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return 0.0
        relative = self.factor * max(self.relative, TOLERANCES.get(tensor.dtype, 0.0) if self.by_type else 0.0)
        return max(relative * largest(tensor), min(relative, self.noise.get(place, 0.0)))


def compare(
    expected: tuple[Any, Any], actual: tuple[Any, Any], tolerance: float | Tolerance = 0.0, *, first_step: int = 0
) -> Difference | None:
    """Compare two pairs of (outputs [B, T, ...], state with leaves [B, ...]).

    Args:
        expected: the expected pair.
        actual: the actual pair.
        tolerance: the largest difference allowed; a number is relative to each tensor's largest value.
        first_step: the number of the first step, for the message.
    """
    tolerance = tolerance if isinstance(tolerance, Tolerance) else Tolerance(tolerance)
    rows: set[int] = set()
    steps: list[int] = []
    places, most = [], 0.0
    for place, tensor, other in pairs(expected, actual):
        off = distance(tensor, other)
        far = torch.where(off <= tolerance.of(place, tensor), 0.0, off)
        if not far.any():
            continue
        rows.update(far.flatten(1).amax(1).nonzero().flatten().tolist())
        if place.startswith("output"):
            steps.append(int(far.flatten(2).amax((0, 2)).nonzero()[0]) + first_step)
        places.append(place)
        most = max(most, float(far.max()))
    return Difference(tuple(sorted(rows)), min(steps, default=None), most, tuple(places)) if rows else None


def pairs(expected: tuple[Any, Any], actual: tuple[Any, Any]) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """The places of tensors in two pairs of (outputs, state), and the tensors there."""
    for kind, tree, other in (("output", expected[0], actual[0]), ("state leaf", expected[1], actual[1])):
        theirs = dict(leaves(other))
        for name, tensor in leaves(tree):
            yield f"{kind} {name!r}" if name else kind.removesuffix(" leaf"), tensor, theirs.get(name)


def distance(expected: Tensor, actual: Tensor | None) -> Tensor:
    """How far each number is off, [B, T, ...]: inf for NaN or another shape. Not every device has float64."""
    if actual is not None:
        expected, actual = pad([expected.detach(), actual.detach()])
    if actual is None or actual.shape != expected.shape:
        return torch.full((len(expected), 1, 1), torch.inf)
    shape = (*expected.shape, *[1] * max(0, 3 - expected.dim()))
    same = (expected == actual) | (expected.isnan() & actual.isnan())
    off = (_wide(expected) - _wide(actual)).abs().nan_to_num(torch.inf, torch.inf)
    if not (expected.is_floating_point() or expected.is_complex()):
        off = off.clamp(min=1.0)  # neighbours that are too large for float32 differ too
    return torch.where(same, 0.0, off).reshape(shape)


def _wide(tensor: Tensor) -> Tensor:
    """In a type of at least float32 in which numbers can be subtracted."""
    return tensor if tensor.dtype == torch.float64 or tensor.is_complex() else tensor.float()


def largest(tensor: Tensor) -> float:
    """The largest finite value, without its sign."""
    finite = _wide(tensor.detach())
    finite = finite[finite.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def pad(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors padded with zeros to the same length on axis 1, for leaves that grow."""
    if tensors[0].dim() < 2 or len({t.shape[1] for t in tensors}) == 1:
        return list(tensors)
    longest = max(t.shape[1] for t in tensors)
    return [torch.cat([t, t.new_zeros(t.shape[0], longest - t.shape[1], *t.shape[2:])], dim=1) for t in tensors]
