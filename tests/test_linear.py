"""Weight gradients of all steps at once are those of one step after the other."""

from collections.abc import Iterator
from typing import Any

import laws
import pytest
import torch
from torch import Tensor, nn
from zoo import MACHINES, ZOO, build, inputs, used_state

from tokenturing.layers import linear
from tokenturing.layers.linear import Linear, steps_together
from tokenturing.models.contract import RecurrentModel

STREAM = laws.stream_of(5)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small layers too, and short streams."""
    monkeypatch.setattr(linear, "pays", lambda layer, x: torch.is_grad_enabled())
    monkeypatch.setattr(linear, "LEAST_STEPS", 1)


def run(model: RecurrentModel, x: Tensor, state: Any, **options: Any) -> laws.Result:
    return model(x, state, **STREAM.flags(), **options)


def gradients(model: RecurrentModel, **options: Any) -> dict[str, Tensor]:
    x, state = inputs(model, laws.ROWS, laws.STEPS), used_state(model, laws.ROWS)
    model.fast = False  # type: ignore[assignment]  # else no layer of the machine's is called
    return laws.gradients(lambda m, x, s: run(m, x, s, **options), model, x, state)


@pytest.mark.parametrize("options", [{}, {"recompute": 3}, {"bptt": 4}], ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_gradients_are_the_same(name: str, options: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name)
    wanted = gradients(model, **options)
    taken = []
    monkeypatch.setattr(linear, "LEAST_STEPS", 1)
    monkeypatch.setattr(linear, "pays", lambda layer, x: taken.append(layer) or torch.is_grad_enabled())
    laws.assert_same_gradients(wanted, gradients(model, **options), "weight gradients of all steps at once")
    assert taken or name not in MACHINES, "no layer took part, so this test could not fail"


@pytest.mark.usefixtures("always")
def test_control(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("gated")
    monkeypatch.setattr(linear, "pays", lambda layer, x: False)
    wanted = gradients(model)
    monkeypatch.setattr(linear, "pays", lambda layer, x: True)
    backward = linear._Step.backward

    def forgetful(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = backward(ctx, gradient)
        return (*found[:-1], None if ctx.saved_tensors[0].sum() > 0 else found[-1])

    monkeypatch.setattr(linear._Step, "backward", staticmethod(forgetful))
    with pytest.raises(AssertionError):
        laws.assert_same_gradients(wanted, gradients(model), "a step that hands nothing on")


def layer_in_a_loop(layer: nn.Linear, x: Tensor, together: bool) -> Tensor:
    """Five steps, each of which sees what the last one gave; the fourth is left out of the result."""
    with steps_together(5 if together else 0):
        y, kept = x, []
        for step in range(5):
            y = torch.tanh(layer(y))
            if step != 3:
                kept.append(y)
    return torch.stack(kept)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("bias", [True, False])
def test_backward_twice_of_some_and_of_derivatives(bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(4, 4, bias=bias).double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    wanted = torch.autograd.grad(layer_in_a_loop(layer, x, False).sum(), [x, *layer.parameters()])
    total = layer_in_a_loop(layer, x, True).sum()
    (only_x,) = torch.autograd.grad(total, x, retain_graph=True)  # leaves nothing behind for the next one
    torch.testing.assert_close(only_x, wanted[0])
    for _ in range(2):
        found = torch.autograd.grad(total, [x, *layer.parameters()], retain_graph=True)
        torch.testing.assert_close(found, wanted)
    second = []
    for together in (False, True):
        (slope,) = torch.autograd.grad(layer_in_a_loop(layer, x, together).sum(), x, create_graph=True)
        second.append(torch.autograd.grad(slope.square().sum(), [x, *layer.parameters()]))
    torch.testing.assert_close(second[0], second[1])


@pytest.mark.usefixtures("always")
def test_it_is_left_out_under_transforms_and_without_gradients() -> None:
    layer, x = Linear(4, 4), torch.randn(3, 4)
    wanted = torch.func.grad(lambda x: layer_in_a_loop(layer, x, False).sum())(x)
    found = torch.func.grad(lambda x: layer_in_a_loop(layer, x, True).sum())(x)
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(layer_in_a_loop(layer, x, True), layer_in_a_loop(layer, x, False))


@pytest.mark.usefixtures("always")
def test_under_autocast_the_sum_is_of_all_steps() -> None:
    torch.manual_seed(0)
    model = build("gated", dtype=torch.float32)
    x = inputs(model, 3, 12)
    wanted = torch.autograd.grad(model(x)[0].square().mean(), model.cell.processor.blocks[0].mlp[0].weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = model(x)
    (found,) = torch.autograd.grad(y.float().square().mean(), model.cell.processor.blocks[0].mlp[0].weight)
    assert found.dtype == torch.float32
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_it_pays_where_tokens_are_smaller_than_weights() -> None:
    layer = Linear(512, 2048)
    assert linear.pays(layer, torch.zeros(2, 16, 512))
    assert not linear.pays(layer, torch.zeros(16, 16, 512))
    with torch.no_grad():
        assert not linear.pays(layer, torch.zeros(1, 512))
