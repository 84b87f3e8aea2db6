"""The only loop over time: resets, inactive rows, truncated and recomputed gradients, for every model."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tokenturing import state as states
from tokenturing.layers.linear import steps_together
from tokenturing.layers.look_back import Past, look_back

if TYPE_CHECKING:
    from tokenturing.models.contract import RecurrentModel


def scan(
    model: "RecurrentModel",
    x: Tensor,
    state: Any,
    *,
    reset: Tensor | None = None,
    active: Tensor | None = None,
    token_mask: Tensor | None = None,
    bptt: int | None = None,
    recompute: int | None = None,
) -> tuple[Tensor, Any]:
    """Run `model` over x [B, T, N, D] from `state`; the arguments are those of `RecurrentModel.forward`."""
    outputs: list[Tensor] = []
    start = 0
    for stop in _borders(x.shape[1], bptt, recompute):
        if bptt and start and start % bptt == 0:
            state = states.detach(state)
        segment = [None if part is None else part[:, start:stop] for part in (x, token_mask, reset, active)]
        if recompute and torch.is_grad_enabled():
            y, state = checkpoint(_segment, model, state, *segment, use_reentrant=False)
        else:
            y, state = _segment(model, state, *segment)  # type: ignore[arg-type]
        outputs.append(y)
        start = stop
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], state


def _borders(steps: int, *every: int | None) -> list[int]:
    """Where segments end: at each multiple of each number given, and at the last step."""
    return sorted({steps}.union(*(range(k, steps, k) for k in every if k)))


def _segment(
    model: "RecurrentModel",
    state: Any,
    x: Tensor,
    token_mask: Tensor | None,
    reset: Tensor | None,
    active: Tensor | None,
) -> tuple[Tensor, Any]:
    if model.look_back:
        past, after = look_back(Past(state.recent, state.quiet), model.never, x, reset, active)
        prepared = model.prepare_after(past, x, token_mask)
    else:
        prepared = model.prepare(x, token_mask)
    fresh = model.initial_state(x.shape[0]) if reset is not None else None
    outputs = []
    with nullcontext() if torch.compiler.is_compiling() else steps_together(x.shape[1]):
        for t, at_t in enumerate(_unbind(prepared, x.shape[1])):
            if reset is not None:
                state = states.merge(reset[:, t], fresh, state)
            y, following = model.advance(at_t, state)
            if active is not None:
                following = states.merge(active[:, t], following, state)
                y = torch.where(active[:, t, None, None], y, 0.0)
            state = following
            outputs.append(y)
    if model.look_back:
        state = state._replace(**after._asdict())
    return torch.stack(outputs, dim=1), state


def _unbind(prepared: Any, steps: int) -> list[Any]:
    """A (nested) tuple of tensors [B, T, ...] -> T such tuples of tensors [B, ...].

    One unbind a tensor, not a slice a step: the gradient then is one stack, not T tensors full of zeros. Steps come
    first in memory, so that a step looks the same in streams of any length and is compiled once.
    """
    if isinstance(prepared, Tensor):
        return list(prepared.transpose(0, 1).contiguous().unbind(0))
    parts = [_unbind(part, steps) for part in prepared]
    return [
        type(prepared)(*(part[t] for part in parts)) if hasattr(prepared, "_fields") else tuple(part[t] for part in parts)
        for t in range(steps)
    ]
