"""The gated write, its cost, its ages, and the look back at the inputs, against what they say of themselves."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import ZOO, build, inputs

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


def gate_of(model: tt.TokenTuringMachine, x: Tensor, state: Any = None) -> Tensor:
    """The gates [B, M] of a step, the first unless said."""
    state = model.initial_state(x.shape[0]) if state is None else state
    prepared, _ = prepare_one(model, x, None, state)
    slots = model.cell.slots(state)
    z = model.cell.read.combine([model.cell.read.encode(slots.tokens), prepared.read])
    return model.cell.write.propose(slots, prepared.write, model.cell.processor(z))[1].squeeze(-1)  # type: ignore[operator]


def gradients(model: tt.TokenTuringMachine, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True, retain_graph=True)
    return list(found)


def stream(rows: int = 4, steps: int = 6, seed: int = 5) -> tuple[Tensor, dict[str, Tensor]]:
    """Tokens, and resets and inactive steps, some of each."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, steps, 4, 16, generator=generator, dtype=torch.float64)
    reset, active = (torch.rand(rows, steps, generator=generator) < share for share in (0.2, 0.7))
    return x, {"reset": reset, "active": active}


def cost_of(model: tt.TokenTuringMachine, x: Tensor, state: Any = None, **options: Any) -> Tensor:
    """The term of the writes."""
    terms: dict[str, Tensor] = {}
    model(x, state, terms=terms, **options)
    assert set(terms) == {"write"}
    assert terms["write"].shape == ()
    return terms["write"]


def assert_close(found: list[Tensor], wanted: list[Tensor]) -> None:
    """Gradients that are the same, and not all zeros."""
    assert any(gradient.abs().max() > 1e-6 for gradient in wanted), "there is no gradient"
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def differ(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return not all(torch.allclose(one, other, rtol=1e-6, atol=1e-9) for one, other in zip(found, wanted, strict=True))


def by_hand(model: tt.TokenTuringMachine, x: Tensor, reset: Tensor, active: Tensor) -> Tensor:
    """The readable twin: the gates of every step that is taken."""
    fresh, total = model.initial_state(len(x)), torch.zeros((), dtype=torch.float64)
    state = fresh
    for t in range(x.shape[1]):
        state = tt.state.merge(reset[:, t], fresh, state)
        total = total + (gate_of(model, x[:, t], state).sum(1) * active[:, t]).sum() / len(x)
        state = tt.state.merge(active[:, t], model.step(x[:, t], state)[1], state)
    return total


@pytest.mark.parametrize("options", [{}, {"look_back": 2, "input_tokens": 4}], ids=str)
def test_the_term_is_the_cost_times_the_gates(options: dict[str, Any]) -> None:
    (x, flags), model = stream(), machine(write_cost=0.2, **options)
    cost, wanted = cost_of(model, x, **flags), 0.2 * by_hand(model, x, **flags)
    torch.testing.assert_close(cost, wanted)
    assert_close(gradients(model, cost), gradients(model, wanted))
    assert cost > 0.01
    other = by_hand(model, x, flags["reset"], torch.ones_like(flags["active"]))
    assert (cost - 0.2 * other).abs() > 0.01, "inactive steps make no difference"


def test_nothing_is_charged_where_no_term_is_asked_for() -> None:
    (x, flags), charged, free = stream(), machine(write_cost=0.2).train(), machine().train()
    losses = [model(x, **flags)[1].memory.square().sum() for model in (charged, free)]
    assert_close(gradients(charged, losses[0]), gradients(free, losses[1]))
    y, state = charged(x, **flags)
    z, other = charged(x, **flags, terms={})
    assert torch.equal(y, z)
    assert torch.equal(state.memory, other.memory)


@pytest.mark.parametrize("name", [name for name in ZOO if name != "gated-look-back"])
def test_models_without_terms_leave_the_dict_as_it_was(name: str) -> None:
    terms = {"write": torch.ones(())}
    build(name)(inputs(build(name)), terms=terms)
    assert terms == {"write": torch.ones(())}


def test_control_a_model_with_a_term_adds_to_it() -> None:
    terms = {"write": torch.ones(())}
    build("gated-look-back")(inputs(build("gated-look-back")), terms=terms)
    assert terms["write"] > 1


def charged_behind_the_loss(model: tt.TokenTuringMachine, x: Tensor, scale: float) -> list[Tensor]:
    """The control: a cost that is added to the gradient itself hears of no scale."""
    loss = gradients(model, scale * model(x)[1].memory.square().sum())
    return [one + other for one, other in zip(loss, gradients(model, cost_of(model, x)), strict=True)]


def charged_in_the_loss(model: tt.TokenTuringMachine, x: Tensor, scale: float) -> list[Tensor]:
    terms: dict[str, Tensor] = {}
    _, state = model(x, terms=terms)
    return gradients(model, scale * (state.memory.square().sum() + terms["write"]))


def test_a_scaled_loss_has_the_same_gradient() -> None:
    (x, _), model, scale = stream(), machine(write_cost=0.2), 65536.0
    for charge, sound in ((charged_in_the_loss, True), (charged_behind_the_loss, False)):
        scaled = [gradient / scale for gradient in charge(model, x, scale)]
        plain = charge(model, x, 1.0)
        assert differ(scaled, plain) != sound
    assert_close(charged_in_the_loss(model, x, 1.0), charged_behind_the_loss(model, x, 1.0))


def test_two_halves_of_the_rows_cost_what_the_whole_does() -> None:
    (x, flags), model = stream(), machine(write_cost=0.2)
    halves = [cost_of(model, x[i : i + 2], **{k: v[i : i + 2] for k, v in flags.items()}) for i in (0, 2)]
    whole = cost_of(model, x, **flags)
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole)
    assert_close(gradients(model, (halves[0] + halves[1]) / 2), gradients(model, whole))
    assert differ(gradients(model, cost_of(model, x[:2])), gradients(model, cost_of(model, x[2:]))), "both halves are alike"


@pytest.mark.parametrize("cuts", [(2,), (1, 2, 5)], ids=str)
def test_chunks_cost_what_the_whole_does(cuts: tuple[int, ...]) -> None:
    (x, flags), model = stream(), machine(write_cost=0.2)
    terms: dict[str, Tensor] = {}
    state = None
    for start, stop in itertools.pairwise((0, *cuts, 6)):
        part = {name: flag[:, start:stop] for name, flag in flags.items()}
        _, state = model(x[:, start:stop], state, terms=terms, **part)
    whole = cost_of(model, x, **flags)
    torch.testing.assert_close(terms["write"], whole)
    assert_close(gradients(model, terms["write"]), gradients(model, whole))
    last = cost_of(model, x[:, 5:], state)
    assert (terms["write"] - last).abs() > 0.01, "the last chunk is all there is"


@pytest.mark.parametrize("steps", [1, 2, 4, 9])
def test_recomputed_steps_cost_the_same(steps: int) -> None:
    (x, flags), model = stream(), machine(write_cost=0.2)
    plain, again = cost_of(model, x, **flags), cost_of(model, x, **flags, recompute=steps)
    assert torch.equal(plain, again)
    assert_close(gradients(model, again), gradients(model, plain))


def test_truncated_gradients_lose_no_cost() -> None:
    (x, flags), model = stream(), machine(write_cost=0.2)
    plain, cut = cost_of(model, x, **flags), cost_of(model, x, **flags, bptt=2)
    assert torch.equal(plain, cut)
    state, wanted = None, torch.zeros((), dtype=torch.float64)
    for start in (0, 2, 4):
        part = {name: flag[:, start : start + 2] for name, flag in flags.items()}
        wanted = wanted + cost_of(model, x[:, start : start + 2], state, **part)
        state = tt.state.detach(model(x[:, start : start + 2], state, **part)[1])
    assert_close(gradients(model, cut), gradients(model, wanted))
    assert differ(gradients(model, cut), gradients(model, plain)), "bptt cuts nothing"


def test_a_paused_step_costs_nothing_whatever_it_holds() -> None:
    (x, flags), model = stream(), machine(write_cost=0.2)
    active = flags["active"].clone()
    active[0] = False
    other = torch.where(active[:, :, None, None], x, 100.0 * torch.randn_like(x))
    plain, came = cost_of(model, x, active=active), cost_of(model, other, active=active)
    assert torch.equal(plain, came)
    assert_close(gradients(model, came), gradients(model, plain))
    with_nan = torch.where(active[:, :, None, None], x, torch.nan)
    assert torch.equal(plain, cost_of(model, with_nan, active=active))
    assert cost_of(model, x, active=torch.zeros_like(active)) == 0
    assert cost_of(model, other) != cost_of(model, x), "what a step holds makes no difference"


def test_a_single_step_costs_something() -> None:
    (x, _), model = stream(steps=1), machine(write_cost=0.2)
    cost = cost_of(model, x, bptt=1)
    torch.testing.assert_close(cost, 0.2 * gate_of(model, x[:, 0]).sum() / 4)
    assert_close(gradients(model, cost), gradients(model, 0.2 * gate_of(model, x[:, 0]).sum() / 4))


def test_no_rows_cost_nothing() -> None:
    cost = cost_of(machine(write_cost=0.2), torch.zeros(0, 3, 4, 16, dtype=torch.float64))
    assert cost == 0


def test_no_cost_no_term() -> None:
    for model in (machine(), machine(write_cost=0.0)):
        terms: dict[str, Tensor] = {}
        model(stream()[0], terms=terms)
        assert not terms


def test_the_term_is_the_same_when_compiled() -> None:
    (x, flags), model = stream(steps=2), machine(write_cost=0.2)
    terms: dict[str, Tensor] = {}
    torch.compile(model, fullgraph=True, backend="aot_eager")(x, terms=terms, **flags)
    torch.testing.assert_close(terms["write"], cost_of(model, x, **flags))


@pytest.mark.parametrize(
    ("opening", "gate", "older"),
    [(-3.0, 0.0, True), (-0.6, 0.4, True), (0.0, 0.5, False), (3.0, 1.0, False)],
)
def test_a_slot_that_is_new_by_a_half_is_new(opening: float, gate: float, older: bool) -> None:
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
