"""Learned positions of memory slots, kinds of token and input places."""

from typing import Any

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
        memory_tokens: M, for one position per slot; None where no memory is read.
        input_tokens: N if it is fixed, for one position per input place; else None.
        output: whether output tokens are read too.
    """

    def __init__(self, width: int, memory_tokens: int | None, input_tokens: int | None, *, output: bool = False):
        super().__init__()
        self.slots = None if memory_tokens is None else learned(memory_tokens, width)
        self._input = 0 if memory_tokens is None else 1
        self.kinds = learned(self._input + 1 + output, width)
        self.places = None if input_tokens is None else learned(input_tokens, width)

    def memory(self, tokens: Tensor) -> Tensor:
        """[..., M, D] -> [..., M, D]"""
        assert self.slots is not None
        return tokens + (self.slots + self.kinds[0])

    def input(self, tokens: Tensor) -> Tensor:
        """[..., N, D] -> [..., N, D]"""
        kind = self.kinds[self._input]
        return tokens + (kind if self.places is None else self.places + kind)

    def output(self, tokens: Tensor) -> Tensor:
        """[..., R, D] -> [..., R, D]"""
        return tokens + self.kinds[self._input + 1]

    def upgrade(self, tensors: dict[str, Tensor], prefix: str) -> None:
        """Leave out what older versions had for the memory where no memory is read."""
        if self.slots is not None:
            return
        tensors.pop(f"{prefix}slots", None)
        kinds = tensors.get(f"{prefix}kinds")
        if kinds is not None and len(kinds) == len(self.kinds) + 1:
            tensors[f"{prefix}kinds"] = kinds[1:]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.upgrade(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class NoPositions(nn.Module):
    """Leaves all tokens unchanged."""

    def memory(self, tokens: Tensor) -> Tensor:
        return tokens

    def input(self, tokens: Tensor) -> Tensor:
        return tokens

    def output(self, tokens: Tensor) -> Tensor:
        return tokens
