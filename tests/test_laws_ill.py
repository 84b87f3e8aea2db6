"""Laws: what is not finite and cut off, by a pause or a reset, has no effect on outputs, states and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import ZOO, build, inputs, used_state

from tokenturing import state as states
from tokenturing.models import contract
from tokenturing.models.contract import RecurrentModel
from tokenturing.models.ill import Treated

ROWS, STEPS = 3, 5
every_model = pytest.mark.parametrize("name", ZOO)
Case = tuple[Tensor, Any, dict[str, Tensor], Tensor]
"""inputs, state, flags, and bool [B, T]: which inputs must not matter"""


def pauses(model: RecurrentModel) -> Case:
    active = torch.ones(ROWS, STEPS, dtype=torch.bool)
    active[1, 2:], active[2, 1] = False, False
    return inputs(model, ROWS, STEPS), used_state(model, ROWS), {"active": active}, ~active


def resets(model: RecurrentModel) -> Case:
    """The outputs before the resets are not used."""
    reset = torch.zeros(ROWS, STEPS, dtype=torch.bool)
    reset[1, 1], reset[1, 3], reset[2, 4] = True, True, True
    ended = reset.long().cumsum(1) < reset.long().sum(1, keepdim=True)
    return inputs(model, ROWS, STEPS), used_state(model, ROWS), {"reset": reset}, ended


def both(model: RecurrentModel) -> Case:
    x, state, flags, ended = resets(model)
    active = pauses(model)[2]["active"]
    return x, state, flags | {"active": active}, ended | ~active


def outcome(model: RecurrentModel, x: Tensor, state: Any, flags: dict[str, Tensor], used: Tensor) -> dict[str, Tensor]:
    """The outputs that are used, the last state and the gradients of both to all parameters."""
    terms: dict[str, Tensor] = {}
    y, after = model(x, state, **flags, terms=terms)
    kept = torch.where(used[:, :, None, None], y, 0.0)
    floating = {name: leaf for name, leaf in states.leaves(after) if leaf.is_floating_point()}
    loss = kept.square().sum() + sum(leaf.square().sum() for leaf in floating.values())
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return {"y": kept, **floating, **dict(zip(names, found, strict=True))}


def assert_no_effect(wanted: dict[str, Tensor], came: dict[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        assert came[name].isfinite().all(), f"{name} is not finite"
        torch.testing.assert_close(came[name], tensor, rtol=1e-6, atol=1e-8, msg=f"{name} differs")


@every_model
@pytest.mark.parametrize("case", [pauses, resets, both], ids=lambda case: case.__name__)
def test_ill_inputs_that_are_cut_off_have_no_effect(name: str, case: Any) -> None:
    model = build(name)
    x, state, flags, cut_off = case(model)
    wanted = outcome(model, torch.where(cut_off[:, :, None, None], 0.0, x), state, flags, ~cut_off)
    for value in (torch.nan, torch.inf):
        ill = torch.where(cut_off[:, :, None, None], value, x)
        assert_no_effect(wanted, outcome(model, ill, state, flags, ~cut_off))


@every_model
@pytest.mark.parametrize("at", [0, 2])
def test_an_ill_state_that_is_reset_has_no_effect(name: str, at: int) -> None:
    model, reset = build(name), torch.zeros(ROWS, STEPS, dtype=torch.bool)
    reset[1, at] = True
    used = torch.ones_like(reset)
    used[1, :at] = False
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS)
    wanted = outcome(model, x, state, {"reset": reset}, used)
    assert_no_effect(wanted, outcome(model, x, ill_in_row_1(state), {"reset": reset}, used))


@every_model
def test_an_ill_state_that_pauses_stays_and_has_no_effect(name: str) -> None:
    model, active = build(name), torch.ones(ROWS, STEPS, dtype=torch.bool)
    active[1] = False
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS)
    ill = ill_in_row_1(state)
    y, after = model(x, ill, active=active)
    for (leaf, came), (_, before) in zip(states.leaves(after), states.leaves(ill), strict=True):
        kept = came[1, : before.shape[1]] if came.dim() > 1 else came[1]  # a cache may have grown
        torch.testing.assert_close(kept, before[1], rtol=0, atol=0, equal_nan=True, msg=leaf)
    y.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def ill_in_row_1(state: Any) -> Any:
    row = torch.arange(ROWS) == 1
    nan = states.map_state(lambda leaf: torch.full_like(leaf, torch.nan) if leaf.is_floating_point() else leaf, state)
    return states.merge(row, nan, state)


@torch.no_grad()
def test_ill_inputs_show_in_the_outputs_until_the_reset() -> None:
    """What is not cut off is not hidden."""
    model = build("LSTM")
    x, reset = inputs(model, ROWS, STEPS), torch.zeros(ROWS, STEPS, dtype=torch.bool)
    reset[1, 3] = True
    x[1, 1] = torch.nan
    y, _ = model(x, reset=reset)
    assert y[1].isnan().any(-1).any(-1).tolist() == [False, True, True, False, False]
    y, state = model(x)
    assert y[1, 1:].isnan().all()
    assert state.cell[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the treatment, gradients are NaN."""
    monkeypatch.setattr(contract, "treat", lambda x, state, *_: Treated(x, state, None, None, state))
    for case in (pauses, resets):
        with pytest.raises(AssertionError, match="is not finite"):
            test_ill_inputs_that_are_cut_off_have_no_effect("gated", case)
