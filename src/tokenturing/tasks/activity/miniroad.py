"""The recurrence of MiniROAD (An et al., ICCV 2023), the strong simple baseline of the field: one plain GRU, no residuals."""

import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from tokenturing.layers.linear import Linear
from tokenturing.models.arguments import check_batch_size
from tokenturing.models.contract import RecurrentModel
from tokenturing.models.numbers import check_whole


class MiniRoadState(NamedTuple):
    """The hidden vector."""

    hidden: Tensor
    """[B, H]"""


class MiniRoad(RecurrentModel):
    """`torch.nn.GRU` over what the tokens of a step are side by side; its hidden vector, behind a ReLU, is what comes out.

    In the original D = 2048 comes from a linear layer with LayerNorm and ReLU (`embed = "relu"` of the activity model), H = 1024.

    Args:
        width: D.
        hidden: H.
        input_tokens: N.
    """

    def __init__(self, width: int = 2048, hidden: int = 1024, *, input_tokens: int | None = 1):
        super().__init__()
        self.config: dict[str, Any] = {"width": width, "hidden": hidden, "input_tokens": input_tokens}
        check_whole(self.config, ("width", "hidden", "input_tokens"))
        self.width, self.hidden, self.input_tokens = width, hidden, input_tokens or 1
        self.output_width, self.output_tokens = hidden, 1
        self.input = Linear(self.input_tokens * width, 3 * hidden)
        self.recurrent = Linear(hidden, 3 * hidden)
        for parameter in self.parameters():  # as PyTorch's own
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))

    def initial_state(self, batch_size: int) -> MiniRoadState:
        check_batch_size(batch_size)
        return MiniRoadState(next(self.parameters()).new_zeros(batch_size, self.hidden))

    def prepare(
        self, x: Tensor, token_mask: Tensor | None, state: Any, reset: Tensor | None, active: Tensor | None
    ) -> tuple[Any, dict[str, Tensor]]:
        """x [B, T, N, D] -> the input's part in the gates [B, T, 3 H]"""
        return (self.input(x.flatten(-2)),), {}

    def advance(self, prepared: tuple[Tensor, ...], state: MiniRoadState) -> tuple[Tensor, MiniRoadState]:
        reset, keep, candidate = prepared[0].chunk(3, dim=-1)
        from_reset, from_keep, from_candidate = self.recurrent(state.hidden).chunk(3, dim=-1)
        new = (candidate + (reset + from_reset).sigmoid() * from_candidate).tanh()
        hidden = new + (keep + from_keep).sigmoid() * (state.hidden - new)
        return hidden.relu().unsqueeze(-2), MiniRoadState(hidden)
