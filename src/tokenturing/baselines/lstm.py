"""The LSTM, over step embeddings."""

from typing import NamedTuple

import torch
from torch import Tensor

from tokenturing.baselines.stack import GatedLayer, Stack, keep_bias


class LSTMState(NamedTuple):
    """The state of all layers: 2 L H numbers a row."""

    hidden: Tensor
    """[B, L, H]"""
    cell: Tensor
    """[B, L, H]"""


class LSTMLayer(GatedLayer):
    """torch.nn.LSTMCell between a LayerNorm and a residual; gates: input, forget, candidate, output."""

    gates = 4

    def remember(self, horizon: float | None) -> None:
        write, forget, _, _ = self.input.bias.data.chunk(4)
        forget.copy_(keep_bias(forget.numel(), horizon))
        if horizon is not None:
            write.copy_(-forget)

    def cell(self, gates: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        hidden, cell = state
        write, forget, candidate, output = (gates + self.recurrent(hidden)).chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + write.sigmoid() * candidate.tanh()
        return output.sigmoid() * torch.tanh(cell), cell

    def kernel(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        start = tuple(leaf.unsqueeze(0).contiguous() for leaf in state)
        hidden, *last = torch.lstm(x, start, self._weights(), True, 1, 0.0, torch.is_grad_enabled(), False, True)
        return hidden, tuple(leaf.squeeze(0) for leaf in last)


class LSTM(Stack):
    """Layers of x + out(LSTM(norm(x))) over step embeddings (Gers et al. 2000: with forget gates).

    Args:
        width: D.
        layers: L.
        hidden: H of each layer's state; None: D.
        horizon: steps to be remembered, which sets the gates' biases at the start (chrono initialisation);
            None: the
            usual forget-gate bias of 1.
        input_tokens: N where it is fixed, else None.
        read_tokens: R.
        dropout: on each layer's output.
    """

    layer_type = LSTMLayer
    state_type = LSTMState

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
