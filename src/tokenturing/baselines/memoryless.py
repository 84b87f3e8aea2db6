"""No memory at all: what a step's own tokens say."""

from typing import Any, NamedTuple

from torch import Tensor

from tokenturing.baselines.base import VectorBaseline
from tokenturing.models.arguments import check_batch_size
from tokenturing.processors.mlp import MLPProcessor


class MemorylessState(NamedTuple):
    """Nothing, for B rows."""

    nothing: Tensor
    """[B, 0]"""


class Memoryless(VectorBaseline):
    """An MLP on each step by itself: the floor that every memory has to beat.

    Args:
        width: D.
        layers: residual MLP blocks.
        hidden: width inside each; None: 4 D.
        input_tokens: N where it is fixed, else None.
        read_tokens: R.
        dropout: inside the blocks.
    """

    def __init__(
        self,
        width: int,
        layers: int = 2,
        *,
        hidden: int | None = None,
        input_tokens: int | None = None,
        read_tokens: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__(locals())
        self.processor = MLPProcessor(width, layers, hidden or 4 * width, dropout)

    def initial_state(self, batch_size: int) -> MemorylessState:
        check_batch_size(batch_size)
        return MemorylessState(next(self.parameters()).new_zeros(batch_size, 0))

    def prepare(
        self, x: Tensor, token_mask: Tensor | None, state: Any, reset: Tensor | None, active: Tensor | None
    ) -> tuple[Any, dict[str, Tensor]]:
        """x [B, T, N, D] -> (y [B, T, R, D],): with no state, all there is to compute."""
        return (self.head(self.processor(self.embedding(x, token_mask))),), {}

    def advance(self, prepared: tuple[Tensor, ...], state: MemorylessState) -> tuple[Tensor, MemorylessState]:
        return prepared[0], state
