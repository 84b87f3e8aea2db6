"""Models whose steps need one another's entries but no recurrence: the T steps of a call run side by side.

`chunk` is the one definition of the model: `step` is a chunk of one. Nothing is computed twice or written
twice, and a growing cache is copied once a chunk instead of once a step.
"""

from typing import Any

import torch
from torch import Tensor

from tokenturing.baselines.base import VectorBaseline
from tokenturing.baselines.history import Timeline, timeline

CHUNK = 64
"""Steps computed side by side: it bounds the attention's scores to [B, heads, CHUNK, S + CHUNK]."""


class ChunkedBaseline(VectorBaseline):
    """Subclasses give `chunk` and states that have a leaf `steps` [B] int64, the length of the history."""

    longest_segment = CHUNK

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
        self,
        state: Any,
        x: Tensor,
        token_mask: Tensor | None,
        reset: Tensor | None,
        active: Tensor | None,
        terms: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Any]:
        """All steps at once."""
        if not torch.compiler.is_compiling():
            state = self.trim(state)
        (embedding,), _ = self.prepare(x, token_mask, state, reset, active)
        if active is None:
            return self.chunk(embedding, state, timeline(state.steps, x.shape[1], reset))
        y, state = self.chunk(embedding, state, timeline(state.steps, x.shape[1], reset, active))
        return torch.where(active[:, :, None, None], y, 0.0), state
