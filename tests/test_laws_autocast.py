"""Laws: under bfloat16 autocast a state keeps the types it began with, and what comes out stays near."""

import pytest
import torch
from torch import Tensor
from zoo import ZOO, build, inputs

from tokenturing import state as states
from tokenturing.models.cell import MachineState
from tokenturing.models.contract import RecurrentModel

NEAR = 0.1
"""of the largest output: bfloat16 has 8 bits, the models a few layers"""


def autocast_keeps_types_and_stays_near(model: RecurrentModel) -> None:
    x, start = inputs(model, 3, 6), model.initial_state(3)
    reset = torch.zeros(3, 6, dtype=torch.bool)
    reset[1, 2] = True
    wanted, _ = model(x, start, reset=reset)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = model(x, start, reset=reset)
    for (name, before), (_, after) in zip(states.leaves(start), states.leaves(state), strict=True):
        assert before.dtype == after.dtype, f"{name} came as {after.dtype}"
    error = (y.float() - wanted).abs().max() / wanted.abs().max()
    assert 0 < error < NEAR, f"outputs are {error:.2g} off"
    y.float().square().mean().backward()


class Careless(type(build("write-mlp"))):  # type: ignore[misc]
    """Gives out a memory in whatever type it was computed in."""

    def advance(self, prepared: object, state: MachineState) -> tuple[Tensor, MachineState]:
        y, state = super().advance(prepared, state)
        return y, state._replace(memory=state.memory.to(y.dtype))


@pytest.mark.parametrize("name", ZOO)
def test_autocast(name: str) -> None:
    autocast_keeps_types_and_stays_near(build(name, dtype=torch.float32))


def test_control() -> None:
    model = build("write-mlp", dtype=torch.float32)
    model.__class__ = Careless
    with pytest.raises(AssertionError, match="memory came as"):
        autocast_keeps_types_and_stays_near(model)
