"""Models whose steps need one another's entries but no recurrence: the T steps of a call run side by side.

`chunk` is the one definition of the model: `step` is a chunk of one. Nothing is computed twice or written
twice, and a growing cache is copied once a chunk instead of once a step.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tokenturing import state as states
from tokenturing.baselines.base import VectorBaseline
from tokenturing.baselines.history import Timeline, timeline
from tokenturing.errors import OptionError
from tokenturing.models.contract import _check_flags, _without_absent
from tokenturing.models.scan import _borders

CHUNK = 64
"""Steps computed side by side: it bounds the attention's scores to [B, heads, CHUNK, S + CHUNK]."""


class ChunkedBaseline(VectorBaseline):
    """Subclasses give `chunk` and states that have a leaf `steps` [B] int64, the length of the history."""

    def chunk(self, x: Tensor, state: Any, times: Timeline) -> tuple[Tensor, Any]:
        """Step embeddings [B, T, D] -> y [B, T, R, D] and the state after the last step."""
        raise NotImplementedError

    def trim(self, state: Any) -> Any:
        """The same state without columns that no row uses."""
        return state

    def advance(self, prepared: tuple[Tensor, ...], state: Any) -> tuple[Tensor, Any]:
        y, state = self.chunk(prepared[0].unsqueeze(1), state, timeline(state.steps, 1))
        return y.squeeze(1), state

    def segment(
        self, state: Any, x: Tensor, token_mask: Tensor | None, reset: Tensor | None, active: Tensor | None
    ) -> tuple[Tensor, Any]:
        """What the scan does with a segment, all its steps at once."""
        embedding = self.prepare(x, token_mask)[0]
        if active is None:
            return self.chunk(embedding, state, timeline(state.steps, x.shape[1], reset))
        embedding = torch.where(active.unsqueeze(-1), embedding, 0.0)
        y, state = self.chunk(embedding, state, timeline(state.steps, x.shape[1], reset, active))
        return torch.where(active[:, :, None, None], y, 0.0), state

    def forward(
        self,
        x: Tensor,
        state: Any = None,
        reset: Tensor | None = None,
        active: Tensor | None = None,
        token_mask: Tensor | None = None,
        *,
        bptt: int | None = None,
        recompute: int | None = None,
    ) -> tuple[Tensor, Any]:
        """As `RecurrentModel.forward`, with chunks in place of the loop over steps."""
        if state is None:
            state = self.initial_state(x.shape[0] if x.dim() else 0)
        self._check(x, state, token_mask, leading=("B", "T"))
        for name, flags in (("reset", reset), ("active", active)):
            _check_flags(name, flags, x.shape[:2])
        for name, number in (("bptt", bptt), ("recompute", recompute)):
            if number is not None and number < 1:
                raise OptionError(f"{name}={number}: expected a number of steps of at least 1, or None")
        x = _without_absent(x, token_mask)
        outputs, start = [], 0
        for stop in _borders(x.shape[1], bptt, recompute, CHUNK):
            if bptt and start and start % bptt == 0:
                state = states.detach(state)
            if not torch.compiler.is_compiling():
                state = self.trim(state)
            part = [None if leaf is None else leaf[:, start:stop] for leaf in (x, token_mask, reset, active)]
            if recompute and torch.is_grad_enabled():
                y, state = checkpoint(self.segment, state, *part, use_reentrant=False)
            else:
                y, state = self.segment(state, *part)  # type: ignore[arg-type]
            outputs.append(y)
            start = stop
        return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], state
