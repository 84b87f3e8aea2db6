"""Learned positions of memory slots, kinds of token and input places."""

import torch
from torch import Tensor, nn

SCALE = 0.3
"""Standard deviation at initialisation. At the usual 0.02 slots are too similar to be told apart early in training, and order
is learned late or never."""


def learned(*shape: int) -> nn.Parameter:
    """A learned table, initialised at a scale that makes slots addressable from the start."""
    return nn.Parameter(torch.randn(*shape) * SCALE)


class TokenPositions(nn.Module):
    """Positions added to [memory || input || output] before a read or a write (paper section 3.2).

    Args:
        width: D.
        memory_tokens: M; each slot has its own position.
        input_tokens: N if it is fixed, for one position per input place; else None.
        kinds: 2 for memory and input, 3 for output too.
    """

    def __init__(self, width: int, memory_tokens: int, input_tokens: int | None, kinds: int):
        super().__init__()
        self.slots = learned(memory_tokens, width)
        self.kinds = learned(kinds, width)
        self.places = None if input_tokens is None else learned(input_tokens, width)

    def memory(self, tokens: Tensor) -> Tensor:
        """[..., M, D] -> [..., M, D]"""
        return tokens + (self.slots + self.kinds[0])

    def input(self, tokens: Tensor) -> Tensor:
        """[..., N, D] -> [..., N, D]"""
        shift = self.kinds[1] if self.places is None else self.places + self.kinds[1]
        return tokens + shift

    def output(self, tokens: Tensor) -> Tensor:
        """[..., R, D] -> [..., R, D]"""
        return tokens + self.kinds[2]


class NoPositions(nn.Module):
    """Leaves all tokens unchanged."""

    def memory(self, tokens: Tensor) -> Tensor:
        return tokens

    def input(self, tokens: Tensor) -> Tensor:
        return tokens

    def output(self, tokens: Tensor) -> Tensor:
        return tokens
