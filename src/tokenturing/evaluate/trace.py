"""What a Token Turing Machine does at each step: where it writes, what it reads, which event sits in which slot."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenturing.errors import OptionError, a
from tokenturing.memory.write import WRITTEN, GatedWrite
from tokenturing.models.contract import RecurrentModel
from tokenturing.models.machine import TokenTuringMachine
from tokenturing.models.scan import prepare_one

EMPTY, BACKGROUND = -1, -2
"""in place of an event: never written; last written when nothing happened"""


class StepTrace(NamedTuple):
    """One step of one row."""

    gate: np.ndarray
    """[M], how much of each slot was replaced"""
    read: np.ndarray
    """[R, M + N], the weight of each memory and input token in each read token"""
    age: np.ndarray
    """[M], steps since each slot was last written, after the step"""


class Event(NamedTuple):
    """Something that a slot may hold."""

    kind: str
    """"seen" or "heard" """
    label: int
    """what it is"""
    first: int
    """step on which there is something new to write"""
    last: int
    """step up to which writing is still about it"""


def machine_of(memory: RecurrentModel) -> TokenTuringMachine:
    """The memory, if it is one that can be traced."""
    if not isinstance(memory, TokenTuringMachine):
        raise OptionError(f"{a(type(memory))} has no slots to look at: expected a TokenTuringMachine")
    return memory


@torch.no_grad()
def trace_step(memory: RecurrentModel, x: Tensor, state: Any, token_mask: Tensor) -> tuple[Tensor, Any, StepTrace]:
    """`memory.step` for one row, and what happened inside.

    Args:
        memory: a Token Turing Machine.
        x: tokens [1, N, D].
        state: before the step.
        token_mask: bool [1, N].

    Returns:
        y [1, R, D] and the next state, exactly as `step` gives them, and the trace.
    """
    machine = machine_of(memory)
    prepared, known = prepare_one(machine, x, token_mask, state)
    slots, read = machine.cell.slots(state), machine.cell.read
    weights = read.weights([read.encode(slots.tokens), prepared.read])
    shares = weights[0].T.unflatten(0, (read.heads, -1)).mean(0)
    y, following = machine.advance(prepared, state)
    following = following._replace(**known)
    if isinstance(machine.cell.write, GatedWrite):
        gate = machine.cell.write.propose(slots, prepared.write, y)[1][0, :, 0]
    else:
        gate = _share_changed(state.memory[0], following.memory[0])
    return y, following, StepTrace(gate.numpy(), shares.numpy(), following.age[0].numpy())


def _share_changed(before: Tensor, after: Tensor) -> Tensor:
    """[M]: what stands for the gate of a write that has none."""
    return ((after - before).norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-6)).clamp(0, 1)


class Holdings:
    """Which event sits in which slot, step by step.

    A slot holds the event during which it was last written; where two overlap, the one that began last.

    Args:
        events: in any order.
        slots: M.
        steps: T, of the stream.
    """

    def __init__(self, events: Sequence[Event], slots: int, steps: int):
        self.now = np.full(steps, BACKGROUND)
        for index in sorted(range(len(events)), key=lambda i: events[i].first):
            self.now[max(events[index].first, 0) : events[index].last + 1] = index
        self.held = np.full(slots, EMPTY)

    def advance(self, step: int, gate: np.ndarray) -> np.ndarray:
        """gate [M] of a step -> int [M]: index of the event, BACKGROUND or EMPTY."""
        self.held = np.where(gate >= WRITTEN, self.now[step], self.held)
        return self.held


def holdings(gates: np.ndarray, events: Sequence[Event]) -> np.ndarray:
    """gates [T, M] -> int [T, M], as `Holdings` tells step by step."""
    held = Holdings(events, gates.shape[1], len(gates))
    return np.stack([held.advance(step, gate) for step, gate in enumerate(gates)])
