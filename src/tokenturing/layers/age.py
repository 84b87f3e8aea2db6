"""Ages in steps as features: bins on a logarithmic scale, with linear interpolation between neighbours."""

import math

import torch
from torch import Tensor, nn

AGE_BINS = 48
HORIZON = 1024.0
"""default number of steps at which ages saturate: 82 s of media"""


def hat(x: Tensor, bins: int) -> Tensor:
    """Linear interpolation weights of x [...] between the whole numbers 0, 1, ... bins - 1 -> [..., bins].

    They are counted out here, as a buffer that is not saved would hold anything after a model was built on the meta device.
    """
    return (1 - (x.unsqueeze(-1) - torch.arange(bins, dtype=x.dtype, device=x.device)).abs()).relu()


class AgeScale(nn.Module):
    """Ages int64 [...] in steps -> float32 [..., AGE_BINS].

    Args:
        horizon: steps at which ages saturate.
    """

    def __init__(self, horizon: float = HORIZON):
        super().__init__()
        self.horizon = horizon

    def forward(self, age: Tensor) -> Tensor:
        steps = age.to(torch.float32).clamp(max=self.horizon)
        return hat(steps.log1p() * ((AGE_BINS - 1) / math.log1p(self.horizon)), AGE_BINS)
