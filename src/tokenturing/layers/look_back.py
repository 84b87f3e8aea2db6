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

CHANGE = 0.1
"""how much of a token's length must change for the token to count as new"""


class Past(NamedTuple):
    """What each input place knows of the steps before."""

    recent: Tensor
    """[..., K, N, D], its last tokens, oldest first; zeros where there are none"""
    quiet: Tensor
    """[..., N] float32, steps for which it has held the same token, this one included; 0: it holds a new one"""


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


def unchanged(before: Tensor, x: Tensor) -> Tensor:
    """Whether tokens [..., D] are what they were before, but for a tenth of their length: bool [...].

    Not to the bit: between two updates of a training run even the token of an empty place moves by a few hundredths.
    """
    return (x - before).detach().norm(dim=-1) <= CHANGE * x.detach().norm(dim=-1)


def look_back(past: Past, never: float, x: Tensor, reset: Tensor | None, active: Tensor | None) -> tuple[Past, Past]:
    """What is known of the past at each of T steps: of the active steps since the last reset.

    Args:
        past: before the first of these steps: [B, K, N, D] and [B, N].
        never: what the clock of a place shows before its first step.
        x: [B, T, N, D]
        reset: bool [B, T] or None.
        active: bool [B, T] or None.

    Returns:
        The past at each step, [B, T, K, N, D] and [B, T, N], and after the last one.
    """
    (rows, back), steps = past.recent.shape[:2], x.shape[1]
    everything = torch.cat([past.recent, x, x.new_zeros(rows, 1, *x.shape[2:])], dim=1)
    nothing = back + steps
    index = torch.arange(back, device=x.device).expand(rows, back)
    row, quiet = torch.arange(rows, device=x.device), past.quiet
    found, silences = [], []
    for t in range(steps):
        if reset is not None:
            index = index.masked_fill(reset[:, t, None], nothing)
            quiet = quiet.masked_fill(reset[:, t, None], never)
        found.append(index)
        silences.append(unchanged(everything[row, index[:, -1]], x[:, t]) * (quiet + 1))
        following = torch.cat([index[:, 1:], index.new_full((rows, 1), back + t)], dim=1)
        index = following if active is None else torch.where(active[:, t, None], following, index)
        quiet = silences[t] if active is None else torch.where(active[:, t, None], silences[t], quiet)
    before = everything[row[:, None, None], torch.stack(found, dim=1)]
    return Past(before, torch.stack(silences, dim=1)), Past(everything[row[:, None], index], quiet)
