"""MiniROAD's recurrence is PyTorch's GRU, and keeps the laws of every recurrent model."""

import torch
from torch import nn

from tokenturing.tasks.activity.miniroad import MiniRoad
from tokenturing.tasks.activity.model import ActivityModel
from tokenturing.testing import check_streaming


def as_torch(model: MiniRoad) -> nn.GRU:
    """The readable twin, with the same weights."""
    twin = nn.GRU(model.input_tokens * model.width, model.hidden, batch_first=True)
    with torch.no_grad():
        twin.weight_ih_l0.copy_(model.input.weight)
        twin.bias_ih_l0.copy_(model.input.bias)
        twin.weight_hh_l0.copy_(model.recurrent.weight)
        twin.bias_hh_l0.copy_(model.recurrent.bias)
    return twin


def test_it_is_the_gru_of_torch() -> None:
    torch.manual_seed(0)
    model = MiniRoad(12, 8, input_tokens=2)
    twin, x = as_torch(model), torch.randn(3, 9, 2, 12, requires_grad=True)
    ours, state = model(x)
    theirs, last = twin(x.flatten(-2))
    assert torch.allclose(ours.squeeze(-2), theirs.relu(), atol=1e-6)
    assert torch.allclose(state.hidden, last[0], atol=1e-6)
    of_ours, of_theirs = (torch.autograd.grad(y.square().sum(), x)[0] for y in (ours, theirs.relu()))
    assert torch.allclose(of_ours, of_theirs, atol=1e-5)
    torch.nn.init.normal_(twin.weight_hh_l0)
    assert not torch.allclose(twin(x.flatten(-2))[0].relu(), theirs.relu(), atol=1e-2), "the control"


def test_it_streams() -> None:
    torch.manual_seed(0)
    check_streaming(MiniRoad(12, 8, input_tokens=2), torch.randn(3, 6, 2, 12))


def test_it_stands_in_the_activity_model() -> None:
    model = ActivityModel("MiniRoad", {"width": 16, "hidden": 8}, ["a", "b"], [1, 5], embed="relu")
    logits, state = model(torch.randn(2, 4, 1, 5))
    assert logits.shape == (2, 4, 2)
    assert state.hidden.shape == (2, 8)
