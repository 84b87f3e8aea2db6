"""Calls as users make them: one step with flags, one token without its axis, lengths, and what is refused with a reason."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from zoo import ZOO, build, inputs, used_state

import tokenturing as tt
from tokenturing import state as states
from tokenturing.errors import ShapeError

SAMPLE = ("gated", "gated-look-back", "LSTM", "MinGRU", "FullTransformer", "RecurrentTransformer", "scenic-simple")


def same(wanted: Any, came: Any) -> None:
    for (name, one), (_, other) in zip(states.leaves(tuple(wanted)), states.leaves(tuple(came)), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-12, msg=name)


def one_token(**options: Any) -> tt.TokenTuringMachine:
    torch.manual_seed(0)
    return tt.TokenTuringMachine(16, 4, 1, 1, 2, **options).eval()


@pytest.mark.parametrize("name", SAMPLE)
@torch.no_grad()
def test_a_step_takes_reset_and_active(name: str) -> None:
    model = build(name)
    x, state = inputs(model, 3, 1), used_state(model, 3)
    flags = {"reset": torch.tensor([True, False, True]), "active": torch.tensor([True, False, False])}
    y, after = model.step(x[:, 0], state, **flags)
    wanted, following = model(x, state, **{key: flag.unsqueeze(1) for key, flag in flags.items()})
    same((wanted[:, 0], following), (y, after))
    same(
        states.take(state, [1]),
        states.map_state(lambda a, b: a[:, : b.shape[1]] if a.dim() > 1 else a, *(states.take(s, [1]) for s in (after, state))),
    )


@torch.no_grad()
def test_no_state_is_the_first_one() -> None:
    model = build("gated")
    x = inputs(model, 2, 1)[:, 0]
    same(model.step(x, model.initial_state(2)), model.step(x, None))
    same(model.step(x), model.step(x, None, active=torch.ones(2, dtype=torch.bool)))


@torch.no_grad()
def test_one_token_needs_no_axis() -> None:
    model, x = one_token(), torch.randn(2, 5, 16)
    mask = torch.tensor([[True, True, False, True, True]] * 2)
    y, state = model(x, token_mask=mask)
    wanted, following = model(x.unsqueeze(2), token_mask=mask.unsqueeze(2))
    same((wanted.squeeze(2), following), (y, state))
    y, after = model.step(x[:, 0], state, token_mask=mask[:, 0])
    wanted, following = model.step(x[:, :1], state, token_mask=mask[:, :1])
    same((wanted.squeeze(1), following), (y, after))
    y, _ = model.step(x[:, 0], state, reset=torch.tensor([True, False]))
    assert y.shape == (2, 16)
    more = build("gated", dtype=torch.float32)
    assert more(x)[0].shape == (2, 5, 2, 16), "several tokens out keep their axis"
    with pytest.raises(ShapeError, match=r"expected \[B, T, N, D\] with D=16 and N=3$"):
        build("gated-fixed-tokens", dtype=torch.float32)(x)


@pytest.mark.parametrize("name", SAMPLE)
@torch.no_grad()
def test_lengths_are_pauses_behind_the_end(name: str) -> None:
    model = build(name)
    x, lengths = inputs(model, 3, 5), [5, 0, 2]
    active = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    x = torch.where(active[:, :, None, None], x, torch.nan)
    wanted = model(x, active=active)
    same(wanted, model(x, lengths=lengths))
    same(wanted, model(x, lengths=torch.tensor(lengths), active=torch.ones_like(active)))
    _, alone = model(x[2:, :2])
    for (leaf, one), (_, other) in zip(states.leaves(alone), states.leaves(states.take(wanted[1], [2])), strict=True):
        torch.testing.assert_close(other[:, : one.shape[1]] if one.dim() > 1 else other, one, msg=leaf)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([5, 6, 1], "lengths from 1 to 6: expected 0 to T=5"),
        ([5, -1, 1], "from -1"),
        ([1, 2], r"\[B=3\]"),
        ([0.5, 1, 2], "whole"),
    ],
)
def test_lengths_that_do_not_fit(lengths: list[Any], message: str) -> None:
    model = build("LSTM")
    with pytest.raises(ShapeError, match=message):
        model(inputs(model, 3, 5), lengths=lengths)


def lstm_state() -> Any:
    return nn.LSTM(16, 16, batch_first=True)(torch.zeros(2, 3, 16))[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 3, 1, 16), np.float32),), "x is a numpy.ndarray: expected a torch tensor .* torch.from_numpy"),
        ((pack_padded_sequence(torch.zeros(2, 3, 16), [3, 2], batch_first=True),), "PackedSequence.*lengths="),
        (([[1.0]],), "x is a builtins.list: expected a torch tensor"),
        ((torch.zeros(1, 3, 16), lstm_state()), r"state is a plain tuple of \[1, 2, 16\], \[1, 2, 16\]: .*memory \[B, 4, 16\]"),
        ((torch.zeros(2, 3, 16), (torch.zeros(2, 4, 16), torch.zeros(2, 4))), "state is a plain tuple"),
        ((torch.zeros(2, 3, 16), tt.baselines.LSTM(16).initial_state(2)), "state is a LSTMState of hidden"),
        ((torch.zeros(2, 3, 16), one_token().initial_state(2)._replace(memory=torch.zeros(2, 5, 16))), r"memory \[2, 5, 16\]"),
        ((torch.zeros(2, 3, 16), torch.zeros(2, 16)), "state is a Tensor"),
        ((torch.zeros(2, 3, 16), np.zeros((2, 16))), "state is an ndarray"),
        ((torch.zeros(2, 3, 16), (None, None)), "state is a plain tuple of NoneType, NoneType"),
        ((torch.zeros(2, 3, 16), None, np.zeros((2, 3), bool)), "reset is an ndarray: expected a tensor, bool"),
    ],
)
def test_what_is_refused_and_why(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=re.compile(message, re.DOTALL)):
        one_token()(*arguments)


# --- no rows, no tokens, and what a state holds


@pytest.mark.parametrize("name", ZOO)
def test_no_rows_in_training(name: str) -> None:
    model = build(name).train()
    terms: dict[str, torch.Tensor] = {}
    y, state = model(inputs(model, 0, 2), terms=terms)
    (y.sum() + sum(terms.values())).backward()
    assert y.shape == (0, 2, model.output_tokens, model.width)
    assert states.rows(state) == 0
    model.step(inputs(model, 0, 1)[:, 0], state)
    model(inputs(model, 0, 2), state, **{key: torch.ones(0, 2, dtype=torch.bool) for key in ("reset", "active")})


@pytest.mark.parametrize("name", [name for name in ZOO if build(name).input_tokens is None])
@torch.no_grad()
def test_no_tokens_are_as_if_all_were_absent(name: str) -> None:
    model = build(name)
    x = inputs(model, 2, 2)
    wanted = model(x, token_mask=torch.zeros(x.shape[:-1], dtype=torch.bool))
    assert wanted[0].isfinite().all()
    same(wanted, model(x[:, :, :0]))
    same(wanted, model(x[:, :, :0], token_mask=torch.zeros(2, 2, 0, dtype=torch.bool)))


@pytest.mark.parametrize("name", ZOO)
@torch.no_grad()
def test_a_state_holds_what_it_says(name: str) -> None:
    """No leaf, and no output of a step, is a part of something larger that lives as long."""
    model = build(name)
    x, flags = inputs(model, 2, 7), torch.arange(14).view(2, 7) % 5 > 0
    y, state = model.step(x[:1, 0], model.initial_state(1))
    assert y.untyped_storage().nbytes() == y.nbytes
    for found in (state, model(x)[1], model(x, reset=~flags, active=flags)[1], model.step(x[:, 0], model(x)[1])[1]):
        assert sum(leaf.untyped_storage().nbytes() for _, leaf in states.leaves(found)) == states.nbytes(found)


# --- rows of a state


@pytest.mark.parametrize("name", SAMPLE)
def test_reset_of_rows(name: str) -> None:
    model = build(name)
    state = used_state(model, 3)
    kept = states.clone(state)
    for rows in ([1], [-2], torch.tensor([False, True, False]), np.array([1])):
        found = states.reset(state, rows, model)
        same(states.take(state, [0, 2]), states.take(found, [0, 2]))
        y, _ = model.step(inputs(model, 3, 1)[:, 0], found)
        torch.testing.assert_close(y[1:2], model.step(inputs(model, 3, 1)[1:2, 0])[0])
    same(state, states.reset(state, [], model))
    same(kept, state)
    smaller = states.move(state, torch.bfloat16)
    assert [leaf.dtype for _, leaf in states.leaves(states.reset(smaller, [0], model))] == [
        leaf.dtype for _, leaf in states.leaves(smaller)
    ]


def test_rows_that_are_not_there() -> None:
    state = one_token().initial_state(2)
    for none in ([], (), torch.tensor([]), np.array([]), torch.zeros(2, dtype=torch.bool), range(0)):
        assert states.rows(states.take(state, none)) == 0
    assert states.rows(states.take(state, range(2))) == 2
    for wrong, message in (([2], "rows from 2 to 2"), ([0.5], "whole numbers"), ([True], r"bool \[2\]"), ([[0]], "shape")):
        with pytest.raises(ShapeError, match=message):
            states.take(state, wrong)
