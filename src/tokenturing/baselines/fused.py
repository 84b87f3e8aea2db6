"""Gated recurrences on PyTorch's own kernels, in spans of steps between resets and changes of who pauses.

The scan's `step_by_step` is the readable twin. A kernel's call costs about as much as one or two of the twin's steps, so spans
shorter than that are left to the twin.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenturing.layers.linear import Linear

LEAST_STEPS = 2
"""that a span must have on average"""


class Span(NamedTuple):
    """Steps in which no row is reset but before the first, and in which the same rows pause."""

    start: int
    stop: int
    reset: Tensor | None
    """bool [B], the rows that are reset before the first step; None: no row is"""
    rows: Tensor | None
    """int64 [A], the rows that do not pause; None: no row pauses"""


def spans(steps: int, reset: Tensor | None, active: Tensor | None) -> list[Span] | None:
    """T steps with reset and active, bool [B, T] or None, as spans in their order; None: they would be too short to pay."""
    begins = torch.zeros(steps, dtype=torch.bool)
    begins[0] = True
    if reset is not None:
        begins |= reset.any(0).cpu()
    if active is not None:
        begins[1:] |= (active[:, 1:] != active[:, :-1]).any(0).cpu()
    starts = begins.nonzero().flatten().tolist()
    if LEAST_STEPS * len(starts) > steps:
        return None
    no_reset = [True] * steps if reset is None else (~reset.any(0)).tolist()
    no_pause = [True] * steps if active is None else active.all(0).tolist()
    return [
        Span(
            start,
            stop,
            None if no_reset[start] or reset is None else reset[:, start],
            None if no_pause[start] or active is None else active[:, start].nonzero().flatten(),
        )
        for start, stop in zip(starts, [*starts[1:], steps], strict=True)
    ]


def usable(layers: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether kernels do what the layers' modules would: no trace, no transform, and nothing put in place of a projection."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or x.is_meta:
        return False
    return all(_as_made(layer.input) and _as_made(layer.recurrent) for layer in layers)  # type: ignore[arg-type]


def _as_made(module: nn.Module) -> bool:
    """Whether it is a linear layer that nobody has replaced or hooked on to, as adapters, pruning and quantisation do."""
    return type(module) is Linear and not (module._forward_pre_hooks or module._forward_hooks or module._backward_hooks)


def recur(layer: nn.Module, x: Tensor, state: tuple[Tensor, ...], parts: list[Span]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The layer's recurrence over normalised x [B, T, D] from a state of [B, H] each -> hidden [B, T, H], and the last state.

    Where a row pauses its hidden vector is zeros and its state stays, to the bit.
    """
    outputs = []
    # Under autocast too in the state's type: kernels would carry on the state in half precision.
    x = x.to(state[0].dtype)
    with torch.autocast(x.device.type, enabled=False):
        for start, stop, reset, rows in parts:
            if reset is not None:
                state = tuple(torch.where(reset.unsqueeze(-1), 0.0, leaf) for leaf in state)
            inputs = x[:, start:stop]
            if rows is None:
                hidden, state = layer.kernel(inputs, state)  # type: ignore[operator]
            elif len(rows):
                some, following = layer.kernel(inputs[rows], tuple(leaf[rows] for leaf in state))  # type: ignore[operator]
                hidden = some.new_zeros(len(x), *some.shape[1:]).index_copy(0, rows, some)
                state = tuple(leaf.index_copy(0, rows, new) for leaf, new in zip(state, following, strict=True))
            else:
                hidden = state[0].new_zeros(len(x), stop - start, state[0].shape[-1])
            outputs.append(hidden)
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], state
