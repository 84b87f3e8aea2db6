"""The loop over time that every other way is tested against: resets, inactive rows, truncated and recomputed gradients, for every model."""

from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tokenturing import state as states
from tokenturing.layers.linear import steps_together


class Scanned(Protocol):
    """What the scan needs of a model; `RecurrentModel` says what each of them is."""

    longest_segment: int | None

    def initial_state(self, batch_size: int) -> Any: ...

    def prepare(
        self, x: Tensor, token_mask: Tensor | None, state: Any, reset: Tensor | None, active: Tensor | None
    ) -> tuple[Any, dict[str, Tensor]]: ...

    def advance(self, prepared: Any, state: Any) -> tuple[Tensor, Any]: ...

    def advance_with_terms(self, prepared: Any, state: Any) -> tuple[Tensor, Any, dict[str, Tensor]]: ...

    def segment(
        self,
        state: Any,
        x: Tensor,
        token_mask: Tensor | None,
        reset: Tensor | None,
        active: Tensor | None,
        terms: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Any]: ...


def scan(
    model: Scanned,
    x: Tensor,
    state: Any,
    *,
    reset: Tensor | None = None,
    active: Tensor | None = None,
    token_mask: Tensor | None = None,
    bptt: int | None = None,
    recompute: int | None = None,
    terms: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Any]:
    """Run `model` over x [B, T, N, D] from `state`; the arguments are those of `RecurrentModel.forward`."""

    def run(
        state: Any, x: Tensor, token_mask: Tensor | None, reset: Tensor | None, active: Tensor | None
    ) -> tuple[Tensor, Any, dict[str, Tensor]]:
        """What is recomputed must hand its terms out: the gradient comes back through what it returns."""
        own: dict[str, Tensor] = {}
        y, following = model.segment(state, x, token_mask, reset, active, None if terms is None else own)
        return y, following, own

    outputs: list[Tensor] = []
    start = 0
    for stop in _borders(x.shape[1], bptt, recompute, model.longest_segment):
        if bptt and start and start % bptt == 0:
            state = states.detach(state)
        segment: list[Any] = [None if part is None else part[:, start:stop] for part in (x, token_mask, reset, active)]
        if recompute and torch.is_grad_enabled():
            y, state, own = checkpoint(run, state, *segment, use_reentrant=False)
        else:
            y, state, own = run(state, *segment)
        if terms is not None:
            add_terms(terms, own)
        outputs.append(y)
        start = stop
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], state


def add_terms(terms: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    """Add each to the one of its name, if there is one already."""
    for name, term in more.items():
        terms[name] = terms[name] + term if name in terms else term


def _borders(steps: int, *every: int | None) -> list[int]:
    """Where segments end: at each multiple of each number given, and at the last step."""
    return sorted({steps}.union(*(range(k, steps, k) for k in every if k)))


def step_by_step(
    model: Scanned,
    state: Any,
    x: Tensor,
    token_mask: Tensor | None,
    reset: Tensor | None,
    active: Tensor | None,
    terms: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Any]:
    """The segment of every model whose steps follow one from another."""
    prepared, known = model.prepare(x, token_mask, state, reset, active)
    fresh = model.initial_state(x.shape[0]) if reset is not None else None
    outputs = []
    with nullcontext() if torch.compiler.is_compiling() else steps_together(x.shape[1]):
        for t, at_t in enumerate(_unbind(prepared, x.shape[1])):
            if reset is not None:
                state = states.merge(reset[:, t], fresh, state)
            if terms is None:
                y, following = model.advance(at_t, state)
            else:
                y, following, own = model.advance_with_terms(at_t, state)
                add_terms(terms, {name: _mean(term, None if active is None else active[:, t]) for name, term in own.items()})
            if active is not None:
                following = states.merge(active[:, t], following, state)
                y = torch.where(active[:, t, None, None], y, 0.0)
            state = following
            outputs.append(y)
    return torch.stack(outputs, dim=1), state._replace(**known) if known else state


def _mean(term: Tensor, active: Tensor | None) -> Tensor:
    """[B] -> the mean over all rows, of which those that pause have none of it; 0 of no rows."""
    return (term if active is None else torch.where(active, term, 0.0)).sum() / max(len(term), 1)


def without_absent(x: Tensor, token_mask: Tensor | None) -> Tensor:
    """Zeros in place of absent tokens, so that what they held (NaN included) goes nowhere."""
    return x if token_mask is None else torch.where(token_mask.unsqueeze(-1), x, 0.0)


def prepare_one(model: Scanned, x: Tensor, token_mask: Tensor | None, state: Any) -> tuple[Any, dict[str, Tensor]]:
    """`prepare` of a single step, x [B, N, D] and token_mask bool [B, N]."""
    mask = None if token_mask is None else token_mask.unsqueeze(1)
    prepared, known = model.prepare(without_absent(x, token_mask).unsqueeze(1), mask, state, None, None)
    return _only(prepared), known


def _only(prepared: Any) -> Any:
    """`_unbind` of a single step, without a copy."""
    if isinstance(prepared, Tensor):
        return prepared.squeeze(1)
    parts = [_only(part) for part in prepared]
    return type(prepared)(*parts) if hasattr(prepared, "_fields") else tuple(parts)


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
