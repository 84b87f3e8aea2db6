"""Ages in steps as features: bins on a logarithmic scale, with linear interpolation between neighbours."""

import math

import torch
from torch import Tensor, nn

AGE_BINS = 48
HORIZON = 1024.0
"""default number of steps at which ages saturate: 82 s of media"""


def hat(x: Tensor, grid: Tensor) -> Tensor:
    """Linear interpolation weights of x [...] on an even grid [K] of spacing 1 -> [..., K]."""
    return (1 - (x.unsqueeze(-1) - grid).abs()).relu()


class AgeScale(nn.Module):
    """Ages [...] in steps -> [..., AGE_BINS].

    Args:
        horizon: steps at which ages saturate.
    """

    grid: Tensor

    def __init__(self, horizon: float = HORIZON):
        super().__init__()
        self.horizon = horizon
        self.register_buffer("grid", torch.arange(float(AGE_BINS)), persistent=False)

    def forward(self, age: Tensor) -> Tensor:
        log_age = torch.log1p(age.clamp(max=self.horizon)) * ((AGE_BINS - 1) / math.log1p(self.horizon))
        return hat(log_age, self.grid)
