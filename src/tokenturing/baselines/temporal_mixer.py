"""An MLP-Mixer over the newest steps (the paper's "temporal Mixer", made causal)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenturing.baselines.base import VectorBaseline
from tokenturing.layers.positions import learned
from tokenturing.models.arguments import check_batch_size
from tokenturing.processors.mixer import MixerProcessor
from tokenturing.state import out_of_range


class RecentState(NamedTuple):
    """The newest step embeddings."""

    recent: Tensor
    """[B, W, D], the newest last; zeros where there was no step yet"""
    steps: Tensor
    """[B] int64, steps held, at most W"""

    def fault(self) -> str | None:
        return out_of_range("steps", self.steps, self.recent.shape[1], "the window")


class TemporalMixer(VectorBaseline):
    """A Mixer over the newest `window` steps' embeddings, the present one last; its place gives the output.

    The places are ages, so that the Mixer's token MLP knows how long ago each step was. Places from before
    the row began hold a learned vector.

    Args:
        width: D.
        layers: Mixer blocks.
        window: W, steps.
        hidden: width of the blocks' channel MLP; None: 4 D.
        input_tokens: N where it is fixed, else None.
        read_tokens: R.
        dropout: inside the blocks.
    """

    def __init__(
        self,
        width: int,
        layers: int = 2,
        *,
        window: int = 32,
        hidden: int | None = None,
        input_tokens: int | None = None,
        read_tokens: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__(locals())
        self.window = window
        self.before = learned(width)
        self.mixer = MixerProcessor(width, window, layers, hidden or 4 * width, dropout)

    def initial_state(self, batch_size: int) -> RecentState:
        check_batch_size(batch_size)
        like = next(self.parameters())
        recent = like.new_zeros(batch_size, self.window, self.width)
        return RecentState(recent, torch.zeros(batch_size, dtype=torch.int64, device=like.device))

    def advance(self, prepared: tuple[Tensor, ...], state: RecentState) -> tuple[Tensor, RecentState]:
        recent = torch.cat([state.recent[:, 1:], prepared[0].unsqueeze(1)], dim=1)
        steps = (state.steps + 1).clamp(max=self.window)
        age = torch.arange(self.window - 1, -1, -1, device=steps.device)
        held = (age < steps.unsqueeze(1)).unsqueeze(-1)
        return self.head(self.mix(torch.where(held, recent, self.before))), RecentState(recent, steps)

    def mix(self, x: Tensor) -> Tensor:
        """The Mixer's output in the newest place, [B, W, D] -> [B, D]; the last block computes no other."""
        blocks: list[Any] = list(self.mixer.blocks)
        for block in blocks[:-1]:
            x = block(x)
        last = blocks[-1]
        newest = (x + last.token_mlp(last.token_norm(x).transpose(-1, -2)).transpose(-1, -2))[:, -1]
        return self.mixer.norm(newest + last.channel_mlp(last.channel_norm(newest)))
