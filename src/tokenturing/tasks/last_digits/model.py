"""A model that names the last digits it saw: an eye, any recurrent model as its memory, and a head."""

from typing import Any

import torch
from torch import Tensor, nn

from tokenturing.models.contract import Input
from tokenturing.registry import find_class, register
from tokenturing.tasks.around import AroundMemory

DEPTH = 4
"""how many of the last digits are asked for"""
NOTHING = 10
"""the answer where there were fewer"""
SIDE = 8
"""pixels"""


@register
class DigitRecaller(AroundMemory):
    """Pixels -> one token; a memory; its output tokens -> the last DEPTH digits.

    Args:
        memory: class name of the recurrent model.
        options: its constructor's arguments.
    """

    task = "last_digits"

    def __init__(self, memory: str, options: dict[str, Any]):
        super().__init__()
        self.config = {"memory": memory, "options": options}
        self.memory = find_class(memory)(**options, input_tokens=1)  # type: ignore[assignment]
        width = self.memory.width
        self.eye = nn.Sequential(nn.Linear(SIDE * SIDE, 64), nn.ReLU(), nn.Linear(64, width), nn.LayerNorm(width))
        self.head = nn.Linear(self.memory.output_tokens * width, DEPTH * (NOTHING + 1))

    def signature(self) -> dict[str, Input]:
        """One frame a step."""
        return {"frame": Input((SIDE, SIDE), torch.float32)}

    def step(self, frame: Tensor, state: Any) -> tuple[Tensor, Any]:
        """frame [B, 8, 8] -> logits [B, DEPTH, 11] and the next state."""
        y, state = self.memory.step(self._token(frame), state)
        return self._answers(y), state

    def forward(self, frames: Tensor, state: Any = None, reset: Tensor | None = None) -> tuple[Tensor, Any]:
        """frames [B, T, 8, 8] -> logits [B, T, DEPTH, 11] and the state."""
        y, state = self.memory(self._token(frames), state, reset)
        return self._answers(y), state

    def _token(self, frames: Tensor) -> Tensor:
        return self.eye(frames.flatten(-2)).unsqueeze(-2)

    def _answers(self, y: Tensor) -> Tensor:
        return self.head(y.flatten(-2)).unflatten(-1, (DEPTH, NOTHING + 1))
