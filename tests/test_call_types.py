"""What a call takes by type: the weights' type, the model's own states, masks with and without the axis of the one token."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import ZOO, build, inputs, used_state

import tokenturing as tt
from tokenturing.errors import OptionError, ShapeError


def one_token() -> tt.TokenTuringMachine:
    return tt.TokenTuringMachine(16, 4, 1, 1, 2).eval()


@pytest.mark.parametrize("name", ZOO)
def test_tokens_of_another_type(name: str) -> None:
    model = build(name, dtype=torch.float32)
    x = inputs(model, 2, 2).double()
    message = r"x has type torch.float64 and the model torch.float32: .*x\.to\(torch\.float32\).*model\.to\(torch\.float64\)"
    for call in (lambda: model(x), lambda: model.step(x[:, 0])):
        with pytest.raises(ShapeError, match=message):
            call()
    with pytest.raises(ShapeError, match=r"x has type torch\.bfloat16"):
        model(x.bfloat16())
    assert model.double()(x)[0].dtype == torch.float64, "the control"


def test_autocast_takes_what_its_layers_take() -> None:
    model = tt.baselines.Memoryless(16)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(2, 3, 16))


@pytest.mark.parametrize("name", ["gated", "LSTM", "MinGRU", "FullTransformer", "RecurrentTransformer", "scenic"])
def test_a_state_of_another_type(name: str) -> None:
    model = build(name, dtype=torch.float32)
    x, state = inputs(model, 2, 2), used_state(model, 2)
    other = tt.state.move(state, torch.float64)
    for call in (lambda: model(x, other), lambda: model.step(x[:, 0], other)):
        with pytest.raises(ShapeError, match=r"of type torch.float64, and this \w+ torch.float32: .*state\.move\(state, torch"):
            call()
    model(x, tt.state.move(other, torch.float32))
    model.double()(x.double(), other)  # what was looked up before is of the type before


CONFUSED = [
    ("GRU", "MinGRU"),
    ("MinGRU", "GRU"),
    ("WindowTransformer", "FullTransformer"),
    ("FullTransformer", "WindowTransformer"),
]


@pytest.mark.parametrize(("theirs", "ours"), CONFUSED)
def test_the_state_of_another_class_with_the_same_leaves(theirs: str, ours: str) -> None:
    options: dict[str, Any] = {"layers": 1} | ({"heads": 2} if "Transformer" in ours else {})
    model, other = (getattr(tt.baselines, name)(16, **options) for name in (ours, theirs))
    x = torch.randn(2, 1, 16)
    _, state = other(x)
    for call in (lambda: model(x, state), lambda: model.step(x[:, 0], state)):
        with pytest.raises(ShapeError, match=rf"state is a {type(state).__name__} of .*this {ours} returned, an? \w+State of"):
            call()


@torch.no_grad()
def test_a_mask_of_one_token_may_have_its_axis() -> None:
    model, x, mask = one_token(), torch.randn(2, 5, 16), torch.rand(2, 5) < 0.5
    for without, with_axis in (
        (model(x, token_mask=mask)[0], model(x, token_mask=mask.unsqueeze(2))[0]),
        (model.step(x[:, 0], token_mask=mask[:, 0])[0], model.step(x[:, 0], token_mask=mask[:, :1])[0]),
        (
            model.step(x[:, 0], reset=mask[:, 1], token_mask=mask[:, 0])[0],
            model.step(x[:, 0], reset=mask[:, 1], token_mask=mask[:, :1])[0],
        ),
    ):
        assert torch.equal(without, with_axis)
    for wrong in (torch.ones(2, 5, 2, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool), mask.unsqueeze(2).float()):
        with pytest.raises(ShapeError, match="token_mask has shape"):
            model(x, token_mask=wrong)


@pytest.mark.parametrize("option", ["bptt", "recompute"])
def test_numbers_of_steps(option: str) -> None:
    model, x = one_token(), torch.randn(1, 4, 16)
    for wrong in (2.5, True, "2", 0, -1, torch.tensor(2.0), float("nan")):
        with pytest.raises(OptionError, match=re.escape(f"{option}={wrong!r}: expected a whole number of steps")):
            model(x, **{option: wrong})
    model(x, **{option: 2})


def test_lengths_and_terms_that_cannot_be_meant() -> None:
    model, x = one_token(), torch.randn(2, 4, 16)
    for wrong in ("ab", ["a", "b"], [None, 1], [[1], [1, 2]], {0: 1}):
        with pytest.raises(ShapeError, match=r"lengths are .*expected whole numbers \[B=2\]"):
            model(x, lengths=wrong)
    with pytest.raises(ShapeError, match=r"lengths have shape \[0\]"):
        model(x, lengths=[])
    assert model(x[:0], lengths=[])[0].shape == (0, 4, 16)
    with pytest.raises(OptionError, match="terms is a list: expected a dict"):
        model(x, terms=[])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ZOO)
@torch.no_grad()
def test_a_model_that_was_on_the_meta_device(name: str) -> None:
    """Used there, materialised over anything, and loaded: the same answers."""
    model = build(name, dtype=torch.float32)
    x = inputs(model, 2, 5)
    with torch.device("meta"):
        empty = ZOO[name]().eval()
    y, state = empty(x.to("meta"))
    assert y.is_meta
    empty.step(x[:, 0].to("meta"), state)
    empty.to_empty(device="cpu")
    for tensor in (*empty.parameters(), *empty.buffers()):
        tensor.fill_(torch.nan if tensor.is_floating_point() else 1)
    empty.load_state_dict(model.state_dict())
    wanted, after = model(x, model(x)[1])
    came, following = empty(x, empty(x)[1])
    assert torch.equal(wanted, came)
    for (leaf, one), (_, other) in zip(tt.state.leaves(after), tt.state.leaves(following), strict=True):
        assert isinstance(one, Tensor)
        assert torch.equal(one, other), leaf
