"""The minGRU, over step embeddings: gates that see only the input, so that many steps are computed at once."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenturing.baselines.stack import GatedLayer, Stack, keep_bias

SEGMENT = 64
"""steps computed side by side, which bounds what the scan holds for the way back"""


class MinGRUState(NamedTuple):
    """The state of all layers: L H numbers a row."""

    hidden: Tensor
    """[B, L, H]"""


class MinGRULayer(GatedLayer):
    """The minGRU cell between a LayerNorm and a residual; gates: keep (the paper's z is 1 - keep), candidate."""

    gates = 2
    gates_see_state = False

    def remember(self, horizon: float | None) -> None:
        keep = self.input.bias.data.chunk(2)[0]
        keep.copy_(keep_bias(keep.numel(), horizon))

    def decay_and_input(self, gates: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Gates [..., 2 H] -> what is kept of the state and what is added to it, [..., H] each.

        In the state's type: in bfloat16 there is no decay between 0.996 and 1.
        """
        keep, candidate = gates.to(dtype).chunk(2, dim=-1)
        return keep.sigmoid(), (-keep).sigmoid() * candidate

    def cell(self, gates: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        decay, added = self.decay_and_input(gates, state[0].dtype)
        return (decay * state[0] + added,)


class MinGRU(Stack):
    """Layers of x + out(minGRU(norm(x))) over step embeddings (Feng et al. 2024, arXiv 2410.01201).

    The plain form, h = (1 - z) h + z Linear(x): the paper's g(), which makes the candidate positive, is needed only where the
    scan runs in logarithms, and this one does not.

    Args:
        width: D.
        layers: L.
        hidden: H of each layer's state; None: D.
        horizon: steps to be remembered, which sets the biases of 1 - z at the start (chrono initialisation); None: 1.
        input_tokens: N where it is fixed, else None.
        read_tokens: R.
        dropout: on each layer's output.
    """

    layer_type = MinGRULayer
    state_type = MinGRUState
    longest_segment = SEGMENT

    def __init__(
        self,
        width: int,
        layers: int = 1,
        hidden: int | None = None,
        *,
        horizon: float | None = None,
        input_tokens: int | None = None,
        read_tokens: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__(locals())

    def segment(
        self,
        state: Any,
        x: Tensor,
        token_mask: Tensor | None,
        reset: Tensor | None,
        active: Tensor | None,
        terms: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Any]:
        """All steps at once, layer by layer."""
        (x, gates), _ = self.prepare(x, token_mask, state, reset, active)
        ends = []
        for index, layer in enumerate(self.layers):
            if index:
                gates = layer.project(x)  # type: ignore[operator]
            start = state.hidden[:, index]
            decay, added = layer.decay_and_input(gates, start.dtype)  # type: ignore[operator]
            if active is not None:
                decay = torch.where(active.unsqueeze(-1), decay, 1.0)
                added = torch.where(active.unsqueeze(-1), added, 0.0)
            hidden = recur(decay, added, start, reset)
            ends.append(hidden[:, -1] if active is None else _newest(hidden, start, reset, active))
            if active is not None:
                hidden = torch.where(active.unsqueeze(-1), hidden, 0.0)
            x = x + layer.dropout(layer.out(hidden))  # type: ignore[operator]
        y = self.head(x)
        return y if active is None else torch.where(active[:, :, None, None], y, 0.0), MinGRUState(torch.stack(ends, dim=1))


def recur(decay: Tensor, added: Tensor, start: Tensor, reset: Tensor | None = None) -> Tensor:
    """h_t = decay_t * h_(t-1) + added_t for all T steps, in log2(T) rounds (Hillis and Steele 1986).

    A round joins each step's span with the one that ends before it: after k rounds, `decay` and `added` are those of the
    2^k steps that end at t. What is before a reset is selected away, not multiplied by 0, since it may be NaN.

    Args:
        decay: [B, T, H].
        added: [B, T, H].
        start: [B, H], the state before the first step.
        reset: bool [B, T]; before such a step the state becomes zeros, the initial one.

    Returns:
        The states after each step, [B, T, H].
    """
    resets = None if reset is None else reset.cumsum(1).unsqueeze(-1)
    if resets is not None:
        start = torch.where(resets[:, 0] > 0, 0.0, start)
    hidden = torch.cat([(decay[:, 0] * start + added[:, 0]).unsqueeze(1), added[:, 1:]], dim=1)
    span = 1
    while span < hidden.shape[1]:
        before, decay_before = hidden[:, :-span], decay[:, :-span]
        if resets is not None:
            same = resets[:, span:] == resets[:, :-span]
            before, decay_before = torch.where(same, before, 0.0), torch.where(same, decay_before, 0.0)
        hidden = torch.cat([hidden[:, :span], decay[:, span:] * before + hidden[:, span:]], dim=1)
        decay = torch.cat([decay[:, :span], decay[:, span:] * decay_before], dim=1)
        span *= 2
    return hidden


def _newest(hidden: Tensor, start: Tensor, reset: Tensor | None, active: Tensor) -> Tensor:
    """The state after the newest step that changed it, [B, T, H] -> [B, H]; a pause must not even round it."""
    changed = active if reset is None else active | reset
    newest = torch.where(changed, torch.arange(changed.shape[1], device=changed.device), -1).amax(1)
    index = newest.clamp(min=0).view(-1, 1, 1).expand(-1, 1, hidden.shape[2])
    return torch.where((newest >= 0).unsqueeze(-1), hidden.gather(1, index).squeeze(1), start)
