"""Laws of training through time: bptt=K cuts gradients each K steps, recompute=K changes nothing but the memory."""

from collections.abc import Callable
from typing import Any

import broken
import laws
import pytest
import torch
from torch import Tensor
from zoo import ZOO, build, inputs, used_state

from tokenturing import state as states
from tokenturing.models.contract import RecurrentModel

every_model = pytest.mark.parametrize("name", ZOO)
STREAM = laws.stream_of(4)


def plain(model: RecurrentModel, x: Tensor, state: Any) -> laws.Result:
    return model(x, state, **STREAM.flags())


def with_bptt(steps: int) -> Callable[..., laws.Result]:
    return lambda model, x, state: model(x, state, **STREAM.flags(), bptt=steps)


def detached_by_hand(steps: int) -> Callable[..., laws.Result]:
    """The readable twin of bptt."""

    def run(model: RecurrentModel, x: Tensor, state: Any) -> laws.Result:
        outputs = []
        for start in range(0, x.shape[1], steps):
            stop = min(start + steps, x.shape[1])
            state = states.detach(state) if start else state
            y, state = model(x[:, start:stop], state, **STREAM.flags(start, stop))
            outputs.append(y)
        return torch.cat(outputs, dim=1), state

    return run


def bptt_cuts_gradients_and_nothing_else(model: RecurrentModel, steps: int) -> None:
    x, state = inputs(model, laws.ROWS, laws.STEPS), used_state(model, laws.ROWS)
    with torch.no_grad():
        laws.assert_same(plain(model, x, state), with_bptt(steps)(model, x, state), "values with bptt")
    by_hand = laws.gradients(detached_by_hand(steps), model, x, state)
    laws.assert_same_gradients(by_hand, laws.gradients(with_bptt(steps), model, x, state), f"bptt={steps}")


def no_gradient_crosses_the_cut(model: RecurrentModel, steps: int) -> None:
    """The last step's gradient ends exactly where the last cut is; without bptt it goes on."""
    x = inputs(model, laws.ROWS, laws.STEPS)
    cut = (laws.STEPS - 1) // steps * steps

    def reached(**options: int) -> list[bool]:
        leaf = x.clone().requires_grad_()
        y, _ = model(leaf, used_state(model, laws.ROWS), **options)
        (gradient,) = torch.autograd.grad(laws.weigh(y[:, -1], 0), leaf)
        return gradient.flatten(2).any(2).any(0).tolist()

    came = reached(bptt=steps)
    assert came[:cut] == [False] * cut, f"bptt={steps}: gradients reach steps before {cut}: {came}"
    assert came[cut:] == reached()[cut:], f"bptt={steps}: gradients end after step {cut}: {came}"


@every_model
def test_bptt(name: str) -> None:
    model = build(name)
    bptt_cuts_gradients_and_nothing_else(model, 2)
    no_gradient_crosses_the_cut(model, 2)


def test_without_bptt_gradients_reach_the_first_step() -> None:
    with pytest.raises(AssertionError):
        no_gradient_crosses_the_cut(broken.make(broken.Deaf), 2)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9])
def test_bptt_of_any_length(steps: int) -> None:
    for model in (broken.make(broken.Sound), build("gated")):
        bptt_cuts_gradients_and_nothing_else(model, steps)
        no_gradient_crosses_the_cut(model, steps)


@pytest.mark.parametrize("cls", [broken.Deaf, broken.Forgetful])
def test_bptt_control_fails(cls: type[broken.Sound]) -> None:
    with pytest.raises(AssertionError):
        bptt_cuts_gradients_and_nothing_else(broken.make(cls), 2)


# --- recompute


def with_recompute(steps: int, **options: int) -> Callable[..., laws.Result]:
    return lambda model, x, state: model(x, state, **STREAM.flags(), recompute=steps, **options)


def recompute_changes_nothing(model: RecurrentModel, steps: int) -> None:
    x, state = inputs(model, laws.ROWS, laws.STEPS), used_state(model, laws.ROWS)
    wanted = laws.gradients(plain, model, x, state)
    laws.assert_same_gradients(wanted, laws.gradients(with_recompute(steps), model, x, state), "recompute")


def held_for_gradients(model: RecurrentModel, x: Tensor, **options: int) -> int:
    """Bytes of the tensors that autograd holds after a call besides inputs and weights, each storage once."""
    held: dict[int, int] = {}

    def hold(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {tensor.untyped_storage().data_ptr() for tensor in (x, *model.parameters())}
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        result = model(x, model.initial_state(len(x)), **options)
    del result
    return sum(size for pointer, size in held.items() if pointer not in own)


def recompute_holds_less(model: RecurrentModel) -> None:
    x = inputs(model, laws.ROWS, 12).requires_grad_()
    much, little = held_for_gradients(model, x), held_for_gradients(model, x, recompute=4)
    assert little < much / 2, f"with recompute=4 {little} bytes are held, without {much}"


@every_model
def test_recompute(name: str) -> None:
    model = build(name)
    recompute_changes_nothing(model, 2)
    recompute_holds_less(model)


def test_recompute_control_fails() -> None:
    recompute_holds_less(broken.make(broken.Sound))
    with pytest.raises(AssertionError):
        recompute_holds_less(broken.make(broken.Deaf))


def test_recompute_with_bptt() -> None:
    model = build("gated")
    x, state = inputs(model, laws.ROWS, laws.STEPS), used_state(model, laws.ROWS)
    wanted = laws.gradients(with_bptt(2), model, x, state)
    for steps in (1, 2, 3):
        both = laws.gradients(with_recompute(steps, bptt=2), model, x, state)
        laws.assert_same_gradients(wanted, both, f"recompute={steps}, bptt=2")


def test_recompute_draws_the_same_dropout_again() -> None:
    model = build("dropout-in-evaluation").train()
    x, state = inputs(model, laws.ROWS, laws.STEPS), used_state(model, laws.ROWS)
    found = []
    for run in (plain, with_recompute(2)):
        torch.manual_seed(5)
        found.append(laws.gradients(run, model, x, state))
    laws.assert_same_gradients(found[0], found[1], "recompute with dropout")
