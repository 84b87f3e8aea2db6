"""The position-wise feed-forward block, and a linear layer made of parameter tokens (Pattention)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenturing.layers.linear import Linear


class FeedForward(nn.Sequential):
    """Linear, GELU, linear on the last axis: [..., D] -> [..., out]."""

    def __init__(self, width: int, hidden: int, out: int | None = None, dropout: float = 0.0):
        layers: list[nn.Module] = [Linear(width, hidden), nn.GELU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        layers.append(Linear(hidden, out or width))
        super().__init__(*layers)


class Pattention(nn.Module):
    """Attention to n learned parameter tokens in place of a linear layer (TokenFormer, arXiv 2410.23168, eq. 4-5).

    Pattention(X) = Theta(X K_P^T) V_P with Theta(S) = GELU(S / ||S||_2 * sqrt(n)).
    """

    def __init__(self, width: int, out: int, parameter_tokens: int):
        super().__init__()
        self.key = nn.Parameter(torch.randn(parameter_tokens, width) / math.sqrt(width))
        self.value = nn.Parameter(torch.randn(parameter_tokens, out) / math.sqrt(parameter_tokens))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., out]"""
        scores = x @ self.key.t()
        scores = F.normalize(scores, dim=-1, eps=1e-6) * math.sqrt(self.key.shape[0])
        return F.gelu(scores) @ self.value
