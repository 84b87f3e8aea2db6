"""Token summarisation S_k: p tokens -> k tokens (paper section 3.1).

Every summariser is a weighted sum of values, with weights from a softmax over tokens of scores that depend on one token each. So
tokens known before the loop over time (the inputs of all steps) are encoded once for all steps, and only the tokens of memory and
output are encoded inside it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenturing.errors import OptionError, choose
from tokenturing.layers.feedforward import FeedForward
from tokenturing.layers.linear import Linear


class Encoded(NamedTuple):
    """Scores and values of tokens."""

    scores: Tensor
    """[..., P, H * k], -inf where the token is absent"""
    values: Tensor
    """[..., P, D]"""


class Summarizer(nn.Module):
    """p tokens -> `tokens` tokens of the same width.

    Subclasses define scores and values of single tokens; H is the number of heads, 1 by default.
    """

    heads = 1

    def score(self, tokens: Tensor) -> Tensor:
        """[..., P, D] -> [..., P, H * k]"""
        raise NotImplementedError

    def value(self, tokens: Tensor) -> Tensor:
        """[..., P, D] -> [..., P, D]"""
        return tokens

    def project(self, summary: Tensor) -> Tensor:
        """[B, k, D] -> [B, k, D]"""
        return summary

    def encode(self, tokens: Tensor, mask: Tensor | None = None) -> Encoded:
        """Scores and values of tokens [..., P, D]; mask bool [..., P] is false where a token is absent."""
        scores = self.score(tokens)
        if mask is not None:
            scores = scores.masked_fill(~mask.unsqueeze(-1), -math.inf)
        return Encoded(scores, self.value(tokens))

    def weights(self, parts: Sequence[Encoded]) -> Tensor:
        """Weight of each token for each output token: [B, P, H * k], a distribution over all P tokens."""
        return torch.cat([part.scores for part in parts], dim=-2).softmax(dim=-2)

    def combine(self, parts: Sequence[Encoded]) -> Tensor:
        """Summarise the concatenation of the parts -> [B, k, D]."""
        weights = self.weights(parts).transpose(-1, -2)
        values = torch.cat([part.values for part in parts], dim=-2)
        if self.heads == 1:
            return self.project(weights @ values)
        split = values.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
        summary = weights.unflatten(-2, (self.heads, -1)) @ split
        return self.project(summary.transpose(-3, -2).flatten(-2))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, P, D] -> [B, k, D]"""
        return self.combine([self.encode(tokens, mask)])


class MLPSummarizer(Summarizer):
    """w = softmax over tokens of MLP(LayerNorm(V)); z = w V, with V not normalised (TokenLearner v1.1)."""

    def __init__(self, width: int, tokens: int, hidden: int = 64):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden, tokens)

    def score(self, tokens: Tensor) -> Tensor:
        return self.mlp(self.norm(tokens))


class QuerySummarizer(Summarizer):
    """Multi-head attention from k learned queries.

    The queries do not depend on the tokens, so a token's scores are a linear map of it.
    """

    def __init__(self, width: int, tokens: int, heads: int):
        super().__init__()
        if width % heads:
            raise OptionError(f"width={width} cannot be split into heads={heads}: choose a divisor of the width")
        self.heads = heads
        self.queries = nn.Parameter(torch.randn(tokens, width) / math.sqrt(width))
        self.norm = nn.LayerNorm(width)
        self.key = Linear(width, width)
        self.values = Linear(width, width)
        self.out = Linear(width, width)

    def score(self, tokens: Tensor) -> Tensor:
        keys = self.key(self.norm(tokens)).unflatten(-1, (self.heads, -1))
        queries = self.queries.unflatten(-1, (self.heads, -1)) * math.sqrt(self.queries.shape[1])
        return torch.einsum("...phd,khd->...phk", keys, queries).flatten(-2) / math.sqrt(keys.shape[-1])

    def value(self, tokens: Tensor) -> Tensor:
        return self.values(self.norm(tokens))

    def project(self, summary: Tensor) -> Tensor:
        return self.out(summary)


class PoolSummarizer(Summarizer):
    """The mean of the present tokens, k times."""

    def __init__(self, tokens: int):
        super().__init__()
        self.tokens = tokens

    def score(self, tokens: Tensor) -> Tensor:
        return tokens.new_zeros(*tokens.shape[:-1], self.tokens)


def build_summarizer(kind: str, width: int, tokens: int, heads: int, *, option: str = "summarizer") -> Summarizer:
    """The summariser named "mlp", "query" or "pool"; `option` is what the caller calls the choice."""
    choose(option, kind, SUMMARIZERS)
    if kind == "mlp":
        return MLPSummarizer(width, tokens)
    if kind == "query":
        return QuerySummarizer(width, tokens, heads)
    return PoolSummarizer(tokens)


SUMMARIZERS = ("mlp", "query", "pool")
