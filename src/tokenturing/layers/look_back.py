"""A look back at the last few steps of each input place, so that what begins can be told from what goes on.

A memory that writes once an event has to know that the event is new. Recurrent models of today give the input a short
causal window for that (the convolution of H3, Mamba and Griffin, the token shift of RWKV); here it is a small MLP.
"""

import torch
from torch import Tensor, nn

from tokenturing.layers.feedforward import FeedForward


class LookBack(nn.Module):
    """x_t + MLP([x_t, x_(t-1), ..., x_(t-K)]), each input place for itself.

    Args:
        width: D.
        steps: K.
        hidden: width of the MLP.
    """

    def __init__(self, width: int, steps: int, hidden: int = 64):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = FeedForward((steps + 1) * width, hidden, width)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """x [..., N, D], before [..., K, N, D] (oldest first; zeros before the first step) -> [..., N, D]"""
        window = self.norm(torch.cat([before, x.unsqueeze(-3)], dim=-3))
        return x + self.mlp(window.transpose(-3, -2).flatten(-2))


def windows(recent: Tensor, x: Tensor, reset: Tensor | None, active: Tensor | None) -> tuple[Tensor, Tensor]:
    """What came before each step: the last K active steps since the last reset.

    Args:
        recent: [B, K, N, D], the inputs before the first of these steps; zeros where there are none.
        x: [B, T, N, D]
        reset: bool [B, T] or None.
        active: bool [B, T] or None.

    Returns:
        [B, T, K, N, D], oldest first, and what is to be `recent` after the last step.
    """
    (rows, back), steps = recent.shape[:2], x.shape[1]
    everything = torch.cat([recent, x, x.new_zeros(rows, 1, *x.shape[2:])], dim=1)
    nothing = back + steps
    index = torch.arange(back, device=x.device).expand(rows, back)
    found = []
    for t in range(steps):
        if reset is not None:
            index = index.masked_fill(reset[:, t, None], nothing)
        found.append(index)
        following = torch.cat([index[:, 1:], index.new_full((rows, 1), back + t)], dim=1)
        index = following if active is None else torch.where(active[:, t, None], following, index)
    row = torch.arange(rows, device=x.device)[:, None]
    return everything[row[..., None], torch.stack(found, dim=1)], everything[row, index]
