"""The gated write, its cost, its ages, and the look back at the inputs, against what they say of themselves."""

import pytest
import torch
from torch import Tensor

import tokenturing as tt
from tokenturing.errors import OptionError
from tokenturing.layers.look_back import Past
from tokenturing.models.look_back import look_back
from tokenturing.models.scan import prepare_one


def machine(**options: object) -> tt.TokenTuringMachine:
    torch.manual_seed(0)
    model = tt.TokenTuringMachine(16, 5, 2, 1, 2, hidden=24, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        model.cell.write.gate[-1].bias.fill_(-1.0)  # type: ignore[index,union-attr]
    return model.double()


def gate_of(model: tt.TokenTuringMachine, x: Tensor) -> Tensor:
    """The gates [B, M] of a first step."""
    state = model.initial_state(x.shape[0])
    prepared, _ = prepare_one(model, x, None, state)
    slots = model.cell.slots(state)
    z = model.cell.read.combine([model.cell.read.encode(slots.tokens), prepared.read])
    return model.cell.write.propose(slots, prepared.write, model.cell.processor(z))[1].squeeze(-1)  # type: ignore[operator]


def gradients(model: tt.TokenTuringMachine, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return list(found)


def test_what_a_write_costs_is_in_the_gradient() -> None:
    x = torch.randn(3, 4, 16, dtype=torch.float64)
    charged, free = machine(write_cost=0.2).train(), machine().train()
    _, state = charged.step(x, charged.initial_state(3))
    _, unpaid = free.step(x, free.initial_state(3))
    expected = gradients(free, unpaid.memory.square().sum() + 0.2 * gate_of(free, x).sum() / 3)
    for found, wanted in zip(gradients(charged, state.memory.square().sum()), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    without = gradients(free, free.step(x, free.initial_state(3))[1].memory.square().sum())
    assert not all(torch.allclose(a, b) for a, b in zip(without, expected, strict=True)), "it costs nothing"


def test_writing_is_free_where_nobody_trains() -> None:
    x = torch.randn(3, 4, 16, dtype=torch.float64)
    charged, free = machine(write_cost=0.2).eval(), machine().eval()
    assert torch.equal(charged.step(x, charged.initial_state(3))[0], free.step(x, free.initial_state(3))[0])


@pytest.mark.parametrize(
    ("opening", "gate", "older"),
    [(-3.0, 0.0, True), (0.0, 0.5, True), (1.2, 0.7, True), (1.5, 0.75, False), (3.0, 1.0, False)],
)
def test_a_slot_that_is_new_by_three_quarters_is_new(opening: float, gate: float, older: bool) -> None:
    model = machine().eval()
    with torch.no_grad():
        for parameter in model.cell.write.gate.parameters():  # type: ignore[union-attr]
            parameter.zero_()
        model.cell.write.gate[-1].bias.fill_(opening)  # type: ignore[index,union-attr]
        model.cell.write.oldest.zero_()  # type: ignore[operator,union-attr]
    x, state = torch.randn(2, 4, 16, dtype=torch.float64), model.initial_state(2)
    torch.testing.assert_close(gate_of(model, x), torch.full((2, 5), gate, dtype=torch.float64))
    _, following = model.step(x, state)
    assert torch.equal(following.age, older * (state.age + 1))
    assert torch.equal(following.memory, state.memory) == (gate == 0)


def test_the_past_is_that_of_the_active_steps_since_the_reset() -> None:
    x = torch.tensor([1.0, 2.0, 1.0, 0.0, 4.25, 4.5]).view(1, 6, 1, 1)
    reset = torch.tensor([[False, False, False, True, False, False]])
    active = torch.tensor([[True, False, True, True, True, True]])
    start = Past(torch.tensor([8.0, 9.0]).view(1, 2, 1, 1), torch.tensor([[3.0]]))
    past, after = look_back(start, 70.0, x, reset, active)
    recent, quiet = [[8, 9], [9, 1], [9, 1], [0, 0], [0, 0], [0, 4.25]], [0, 0, 1, 71, 0, 1]
    assert past.recent.flatten(2).squeeze(0).tolist() == recent
    assert past.quiet.flatten().tolist() == quiet
    assert after.recent.flatten().tolist() == [4.25, 4.5]
    assert after.quiet.flatten().tolist() == [1]
    plain, _ = look_back(start, 70.0, x, None, None)
    assert plain.recent.flatten(2).squeeze(0).tolist() != recent, "resets and inactive steps make no difference"
    assert plain.quiet.flatten().tolist() != quiet, "resets and inactive steps make no difference"


def test_how_long_a_place_has_held_the_same_is_known_however_long_it_lasts() -> None:
    model = machine(look_back=2, input_tokens=3, horizon=200.0).eval()
    torch.nn.init.normal_(model.cell.look_back.clock)  # type: ignore[union-attr]
    x, state = torch.randn(1, 3, 16, dtype=torch.float64), model.initial_state(1)
    seen = []
    for _ in range(81):
        prepared, _ = prepare_one(model, x, None, state)
        state = model.step(x, state)[1]
        seen.append(prepared.write[0])
    assert state.quiet.tolist() == [[80.0] * 3]
    assert not torch.allclose(seen[40], seen[80], atol=1e-3), "the same after 40 steps and after 80"
    model.cell.look_back.heeds_clock = False  # type: ignore[union-attr]
    without, _ = prepare_one(model, x, None, state)
    assert not torch.allclose(without.write[0], seen[80], atol=1e-3)


def test_what_has_just_begun_can_be_told_from_what_goes_on() -> None:
    x = torch.randn(1, 1, 3, 16, dtype=torch.float64).expand(-1, 5, -1, -1)
    told = machine(look_back=2, input_tokens=3).eval()
    first, later = prepare_one(told, x[:, 0], None, told.initial_state(1))[0], None
    state = told.initial_state(1)
    for step in range(5):
        later, state = prepare_one(told, x[:, step], None, state)[0], told.step(x[:, step], state)[1]
    assert not torch.allclose(first.write[0], later.write[0])  # type: ignore[union-attr]
    blind = machine(input_tokens=3).eval()
    assert torch.equal(
        prepare_one(blind, x[:, 0], None, None)[0].write[0],
        prepare_one(blind, x[:, 4], None, None)[0].write[0],
    )


def test_looking_back_needs_places() -> None:
    with pytest.raises(OptionError, match="look_back=2 with input_tokens=None"):
        tt.TokenTuringMachine(16, 5, 2, 1, 2, look_back=2)
