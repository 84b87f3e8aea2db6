"""State tokens and input tokens through one Transformer (the paper's "recurrent Transformer", table 2)."""

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, cat

from tokenturing.baselines.base import Baseline
from tokenturing.layers.positions import TokenPositions, learned
from tokenturing.models.arguments import check_batch_size
from tokenturing.processors.transformer import TransformerProcessor


class TokenState(NamedTuple):
    """M state tokens."""

    tokens: Tensor
    """[B, M, D]"""


class RecurrentTransformer(Baseline):
    """[state || queries || input] -> Transformer -> the next state, and outputs in the queries' places.

    The residual stream carries the state from step to step and the last LayerNorm keeps its scale, so that it
    neither explodes nor fades; R learned queries give the outputs, so that no state token has to serve as
    one.

    Args:
        width: D.
        state_tokens: M.
        layers: pre-norm blocks.
        heads: of every attention; a divisor of the width.
        hidden: width of the blocks' MLP; None: 4 D.
        input_tokens: N where it is fixed (each input place then has a position), else None.
        read_tokens: R.
        dropout: inside the blocks.
    """

    def __init__(
        self,
        width: int,
        state_tokens: int = 16,
        layers: int = 4,
        heads: int = 8,
        *,
        hidden: int | None = None,
        input_tokens: int | None = None,
        read_tokens: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__(locals())
        self.state_tokens = state_tokens
        self.positions = TokenPositions(width, state_tokens, input_tokens)
        self.queries = learned(read_tokens, width)
        self.initial_tokens = learned(state_tokens, width)
        self.transformer = TransformerProcessor(width, layers, heads, hidden or 4 * width, dropout)

    def initial_state(self, batch_size: int) -> TokenState:
        check_batch_size(batch_size)
        return TokenState(self.initial_tokens.expand(batch_size, -1, -1).clone())

    def prepare(
        self, x: Tensor, token_mask: Tensor | None, state: Any, reset: Tensor | None, active: Tensor | None
    ) -> tuple[Any, dict[str, Tensor]]:
        """x [B, T, N, D] -> (input tokens [B, T, N, D],) and the mask [B, T, M + R + N] if there is one"""
        tokens = self.positions.input(x)
        if token_mask is None:
            return (tokens,), {}
        return (tokens, F.pad(token_mask, (self.state_tokens + self.output_tokens, 0), value=True)), {}

    def advance(self, prepared: tuple[Tensor, ...], state: TokenState) -> tuple[Tensor, TokenState]:
        queries = self.queries.expand(state.tokens.shape[0], -1, -1)
        tokens = cat([self.positions.memory(state.tokens), queries, prepared[0]], dim=1)
        tokens = self.transformer(tokens, *prepared[1:])
        following, output, _ = tokens.split([self.state_tokens, self.output_tokens, prepared[0].shape[1]], dim=1)
        # Copies, as parts of one tensor would hold on to the whole of it.
        return output.clone(), TokenState(following.clone())
