"""The GRU, over step embeddings."""

from typing import NamedTuple

import torch
from torch import Tensor

from tokenturing.baselines.stack import GatedLayer, Stack, keep_bias


class GRUState(NamedTuple):
    """The state of all layers: L H numbers a row."""

    hidden: Tensor
    """[B, L, H]"""


class GRULayer(GatedLayer):
    """torch.nn.GRUCell between a LayerNorm and a residual; gates: reset, keep, candidate."""

    gates = 3

    def remember(self, horizon: float | None) -> None:
        keep = self.input.bias.data.chunk(3)[1]
        keep.copy_(keep_bias(keep.numel(), horizon))

    def cell(self, gates: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        hidden = state[0]
        reset, keep, candidate = gates.chunk(3, dim=-1)
        from_reset, from_keep, from_candidate = self.recurrent(hidden).chunk(3, dim=-1)
        new = (candidate + (reset + from_reset).sigmoid() * from_candidate).tanh()
        keep = (keep + from_keep).sigmoid()
        return (new + keep * (hidden - new),)

    def kernel(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        start = state[0].unsqueeze(0).contiguous()
        hidden, last = torch.gru(x, start, self._weights(), True, 1, 0.0, torch.is_grad_enabled(), False, True)
        return hidden, (last.squeeze(0),)


class GRU(Stack):
    """Layers of x + out(GRU(norm(x))) over step embeddings (Cho et al. 2014, arXiv 1406.1078).

    Args:
        width: D.
        layers: L.
        hidden: H of each layer's state; None: D.
        horizon: steps to be remembered, which sets the keep gate's biases at the start (chrono
            initialisation); None: 1.
        input_tokens: N where it is fixed, else None.
        read_tokens: R.
        dropout: on each layer's output.
    """

    layer_type = GRULayer
    state_type = GRUState

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
