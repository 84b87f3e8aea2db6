"""The optimiser of every run: AdamW behind a warm-up and a cosine."""

import math

import torch
from torch import nn

from tokenturing.train.recipe import TrainOptions

BETAS = (0.9, 0.98)
LAST_RATE = 0.01
"""of the peak, at the end"""


def build_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW on all parameters that are trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, options.rate, betas=BETAS, weight_decay=options.weight_decay)


def rate_at(update: int, options: TrainOptions) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    cosine = 0.5 * (1 + math.cos(math.pi * update / options.updates))
    return options.rate * min(1.0, (update + 1) / max(options.warmup, 1)) * (LAST_RATE + (1 - LAST_RATE) * cosine)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The same learning rate for all."""
    for group in optimizer.param_groups:
        group["lr"] = rate
