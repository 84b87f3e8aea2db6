"""What steps take and what they keep for the way back; n stands for B * M and r for B * R."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from tokenturing.models.fast.parts import Attended, Norm


class Sizes(NamedTuple):
    """Of a call."""

    rows: int
    inputs: int
    slots: int
    outputs: int
    width: int
    hidden: int
    """of read and gate"""
    heads: int
    """of the processor"""
    write_heads: int


class Seen(NamedTuple):
    """What is known of one step, or of all, before the first: [B, ...] or [T, B, ...]."""

    scores: Tensor
    """[B, N, R], of the inputs, for the read; -inf where absent"""
    values: Tensor
    """[B, N, D], of the inputs, for the read"""
    key_value: Tensor
    """[B, N, 2 D], of the inputs, for the write"""
    absent: Tensor | None
    """[B, 1, N + R, 1], -inf where absent and else 0"""


class LayerTape(NamedTuple):
    """What a Transformer block keeps, [r, ...]."""

    first: Norm
    attended: Attended
    mixed: Tensor
    second: Norm
    up: Tensor
    bent: Tensor
    """GELU of `up`"""


class LookTape(NamedTuple):
    """What a look at the slots keeps."""

    memory: Tensor
    """[n, D], before the step"""
    newer: Tensor
    """[B, M, M], 1 where the slot of the last axis is newer"""
    kinds: Tensor
    """[B, M, kinds]"""
    away: Tensor
    """[n, kinds, bins], the counts minus the bins"""
    hats: Tensor
    """[n, kinds * bins]"""
    ages: Tensor
    """int64 [n], saturated"""
    slots: Norm
    read_hidden: Tensor
    """[n, G]"""
    bent: Tensor
    """[n, G], GELU of the read's hidden units"""
    values: Tensor
    """[B, M + N, D], slots and inputs"""
    shares: Tensor
    """[B, M + N, R]"""


class WriteTape(NamedTuple):
    """What a write keeps."""

    written: Norm
    """of the output tokens"""
    attended: Attended
    mixed: Tensor
    """[n, D]"""
    gate_hidden: Tensor
    """[n, G]"""
    gate_bent: Tensor
    oldest: Tensor
    """[n], 1 where no slot is older"""
    opening: Tensor
    """[n], of which the gate is the hard sigmoid"""
    gate: Tensor
    """[n]"""
    change: Tensor
    """[n, D], candidates minus memory"""


class Tape(NamedTuple):
    """What a step keeps."""

    look: LookTape
    layers: tuple[LayerTape, ...]
    last: Norm
    """of the processor; its outputs are scaled and shifted"""
    write: WriteTape


def leaves(tree: Any) -> list[Tensor]:
    """All tensors of a (nested) tuple or list."""
    found: list[Tensor] = []
    for part in tree:
        if isinstance(part, Tensor):
            found.append(part)
        else:
            found += leaves(part)
    return found


def form_of(tree: Any) -> Any:
    """The same with None in place of each tensor."""
    if isinstance(tree, Tensor):
        return None
    parts = [form_of(part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def filled(form: Any, tensors: Iterator[Tensor]) -> Any:
    """The inverse of both."""
    if form is None:
        return next(tensors)
    parts = [filled(part, tensors) for part in form]
    return type(form)(*parts) if hasattr(form, "_fields") else tuple(parts)
