"""A look back at each input place: its last few tokens, and how long it has held the last one.

A memory that writes once an event has to know that the event is new. Recurrent models of today give the input a short
causal window for that (the convolution of H3, Mamba and Griffin, the token shift of RWKV); here it is a small MLP. A memory that
writes an event when it begins cannot tell from its slots when it ended. So each place has a clock too, much as the inputs of
GRU-D have (arXiv 1606.01865, section 2.3: the time since a variable was last observed).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenturing.layers.age import AGE_BINS, HORIZON, AgeScale
from tokenturing.layers.feedforward import FeedForward


class Past(NamedTuple):
    """What each input place knows of the steps before."""

    recent: Tensor
    """[..., K, N, D], its last tokens, oldest first; zeros where there are none"""
    quiet: Tensor
    """[..., N] int64, steps for which it has held the same token, this one included; 0: it holds a new one"""


class LookBack(nn.Module):
    """x_t + MLP([x_t, x_(t-1), ..., x_(t-K)]) + W clock(quiet), each input place for itself.

    Args:
        width: D.
        steps: K.
        horizon: steps at which the clock saturates.
        hidden: width of the MLP.
    """

    def __init__(self, width: int, steps: int, horizon: float = HORIZON, hidden: int = 64):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = FeedForward((steps + 1) * width, hidden, width)
        self.age_scale = AgeScale(horizon)
        self.clock = nn.Parameter(torch.zeros(AGE_BINS, width))
        self.heeds_clock = True
        """Whether the clock is read. A machine that is told how long ago from the start is later to learn what to keep, so
        training may leave it unread at first."""

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """x [..., N, D] -> [..., N, D]"""
        window = self.norm(torch.cat([past.recent, x.unsqueeze(-3)], dim=-3))
        x = x + self.mlp(window.transpose(-3, -2).flatten(-2))
        return x + self.age_scale(past.quiet).to(x.dtype) @ self.clock if self.heeds_clock else x
