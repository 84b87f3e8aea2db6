"""The age of a memory slot, in steps and in events.

Two clocks are added to a slot's token wherever it is read or rewritten:

- its age in steps, on a logarithmic scale: how long ago the slot was last written;
- its rank in the order of events: how many slots *of each learned kind* are newer. Counting by content follows contextual
  position encoding (CoPE, arXiv 2405.18719, eq. 3-5). Silence advances only the first clock, so the third last event stays the
  third last however long nothing happens, which no function of log(age) can guarantee.
"""

import torch
from torch import Tensor, nn

from tokenturing.layers.age import AGE_BINS, HORIZON, AgeScale, hat
from tokenturing.layers.linear import Linear

KINDS = 4
"""kinds of event that are counted separately"""
COUNTED = 8
"""counts saturate here"""
SHARPNESS = 4.0
"""of the sigmoids that classify a slot's kind: an event should count as one, not as a fraction"""


class SlotClock(nn.Module):
    """Features of age and order for M slots.

    Args:
        width: D.
        horizon: steps at which the age saturates.
    """

    def __init__(self, width: int, horizon: float = HORIZON):
        super().__init__()
        self.age_scale = AgeScale(horizon)
        self.kind = Linear(width, KINDS)
        self.features = Linear(KINDS * (COUNTED + 1) + AGE_BINS, width, bias=False)
        nn.init.normal_(self.features.weight, std=0.3)

    def counts(self, memory: Tensor, age: Tensor) -> Tensor:
        """memory [B, M, D], age int64 [B, M] in steps -> [B, M, kinds], the number of newer slots of each kind."""
        newer = (age.unsqueeze(1) < age.unsqueeze(2)).to(memory.dtype)
        return newer @ (SHARPNESS * self.kind(memory)).sigmoid()

    def forward(self, memory: Tensor, age: Tensor) -> Tensor:
        """memory [B, M, D], age int64 [B, M] in steps -> [B, M, D] to be added to the slots' tokens."""
        counts = self.counts(memory, age).clamp(max=float(COUNTED))
        clocks = torch.cat([hat(counts, COUNTED + 1).flatten(-2), self.age_scale(age).to(memory.dtype)], dim=-1)
        return self.features(clocks)
