"""What a step costs and how large the state is, by the length of the stream so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenturing import state as states
from tokenturing.evaluate.cost import count
from tokenturing.models.contract import RecurrentModel

CHUNK = 50
PROBE = 100
"""steps after which a state that has not grown is taken never to grow"""


@dataclass(frozen=True)
class Size:
    """One model after so many steps of a stream."""

    steps: int
    multiply_adds: int
    """of the next step"""
    nbytes: int
    """of the state of one stream"""


@torch.no_grad()
def growth(model: RecurrentModel, input_tokens: int, lengths: Sequence[int]) -> list[Size]:
    """Cost and size measured after each number of steps, on random tokens.

    A model whose cost and size are the same at the start and after `PROBE` steps is not run any further.
    """
    model.eval()
    start = model.initial_state(1)
    grows = _numbers(model, input_tokens, start) != _numbers(model, input_tokens, _go_on(model, input_tokens, start, PROBE))
    at, state, found = 0, start, []
    for length in sorted(lengths):
        if grows:
            state = _go_on(model, input_tokens, state, length - at)
        at = length
        found.append(Size(length, *_numbers(model, input_tokens, state)))
    return found


def _tokens(model: RecurrentModel, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, model.width, generator=generator).to(next(model.parameters()))


def _go_on(model: RecurrentModel, input_tokens: int, state: Any, steps: int) -> Any:
    """The state after so many more steps."""
    for first in range(0, steps, CHUNK):
        chunk = min(CHUNK, steps - first)
        _, state = model(_tokens(model, 1, chunk, input_tokens), state)
    return state


def _numbers(model: RecurrentModel, input_tokens: int, state: Any) -> tuple[int, int]:
    return count(model.step, _tokens(model, 1, input_tokens), state), states.nbytes(state)
