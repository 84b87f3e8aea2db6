"""Law: the state's size and a step's multiply-adds do not grow with the stream, except where that is the design."""

import broken
import pytest
from zoo import BOUNDED, GROWING, build, inputs

from tokenturing import state as states
from tokenturing.evaluate.cost import count
from tokenturing.models.contract import RecurrentModel


def cost_after(model: RecurrentModel, steps: int) -> tuple[int, int]:
    """(bytes of the state, multiply-adds of a step) after that many steps."""
    model.requires_grad_(False)
    _, state = model(inputs(model, 2, steps))
    return states.nbytes(state), count(model.step, inputs(model, 2, 1)[:, 0], state)


def cost_is_constant(model: RecurrentModel) -> None:
    (early_size, early_work), (late_size, late_work) = cost_after(model, 2), cost_after(model, 30)
    assert early_work > 0
    assert late_size == early_size, f"the state grows from {early_size} to {late_size} bytes"
    assert late_work == early_work, f"a step grows from {early_work} to {late_work} multiply-adds"


@pytest.mark.parametrize("name", BOUNDED)
def test_cost_is_constant(name: str) -> None:
    cost_is_constant(build(name))


@pytest.mark.parametrize("name", GROWING)
def test_control_grows(name: str) -> None:
    model = build(name)
    (early_size, early_work), (late_size, late_work) = cost_after(model, 2), cost_after(model, 30)
    assert late_size > early_size
    assert late_work > early_work
    with pytest.raises(AssertionError, match="grows"):
        cost_is_constant(model)


def test_broken_control_grows() -> None:
    with pytest.raises(AssertionError, match="the state grows"):
        cost_is_constant(broken.make(broken.Growing))
