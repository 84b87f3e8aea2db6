"""What both directions of a step are made of, without autograd."""

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-5
"""of every LayerNorm, torch's default"""


class Norm(NamedTuple):
    """What a LayerNorm keeps of tokens [n, D]."""

    tokens: Tensor
    normed: Tensor
    """with mean 0 and deviation 1"""
    mean: Tensor
    inverse: Tensor


class Attended(NamedTuple):
    """What an attention of Q to P tokens keeps, [B * H, ...]."""

    query: Tensor
    key: Tensor
    value: Tensor
    shares: Tensor
    """[B * H, P, Q]: PyTorch's softmax over a short last axis takes ten times as long"""


def normalise(tokens: Tensor) -> Norm:
    """A LayerNorm without weight and bias."""
    normed, mean, inverse = torch.native_layer_norm(tokens, tokens.shape[-1:], None, None, EPSILON)
    return Norm(tokens, normed, mean, inverse)


def normalise_back(gradient: Tensor, at: Norm, weight: Tensor | None = None) -> Tensor:
    """The gradient of the tokens as they were before."""
    backward, shape = torch.ops.aten.native_layer_norm_backward.default, at.tokens.shape[-1:]
    return backward(gradient, at.tokens, shape, at.mean, at.inverse, weight, None, (True, False, False))[0]


def gelu_back(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of what GELU was applied to."""
    return torch.ops.aten.gelu_backward.default(gradient, x)


def split(tokens: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, P, parts * D] -> `parts` times [B * H, P, D / H]; of one row without a copy."""
    rows, places, _ = tokens.shape
    apart = tokens.view(rows, places, parts, heads, -1).permute(2, 0, 3, 1, 4)
    return apart.reshape(parts, rows * heads, places, -1).unbind(0)


def join(apart: Tensor, heads: int) -> Tensor:
    """[parts, B * H, P, D / H] -> [B, P, parts * D]"""
    parts, _, places, width = apart.shape
    return apart.view(parts, -1, heads, places, width).permute(1, 3, 0, 2, 4).reshape(-1, places, parts * heads * width)


def attend(query: Tensor, key: Tensor, value: Tensor, absent: Tensor | None, heads: int) -> tuple[Tensor, Attended]:
    """Attention of scaled queries [B * H, Q, d] to tokens [B * H, P, d] -> [B, Q, D]; `absent` [B, 1, P, 1] is -inf at some."""
    scores = torch.bmm(key, query.transpose(1, 2))
    if absent is not None:
        scores.view(-1, heads, *scores.shape[1:]).add_(absent)
    shares = torch.softmax(scores, 1)
    mixed = torch.bmm(shares.transpose(1, 2), value)
    return join(mixed.unsqueeze(0), heads), Attended(query, key, value, shares)


def attend_back(gradient: Tensor, at: Attended, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient [B, Q, D] -> those of queries, keys and values as `attend` had them."""
    (gradient,) = split(gradient, 1, heads)
    of_scores = torch._softmax_backward_data(torch.bmm(at.value, gradient.transpose(1, 2)), at.shares, 1, gradient.dtype)
    return torch.bmm(of_scores.transpose(1, 2), at.key), torch.bmm(of_scores, at.query), torch.bmm(at.shares, gradient)
