"""Chunks of steps as one operation: the same outputs, states and gradients as the cell gives step by step."""

import copy
from collections.abc import Callable
from typing import Any

import laws
import pytest
import torch
from torch import Tensor, nn
from zoo import build, inputs, machine, used_state

import tokenturing as tt
from tokenturing.models import fast
from tokenturing.models.fast import backward, function
from tokenturing.models.fast.function import Steps
from tokenturing.models.machine import TokenTuringMachine

MODELS: dict[str, Callable[[], Any]] = {
    "gated": machine(),
    "two-layers": machine(layers=2, memory_tokens=12, horizon=3.5),
    "no-layers-of-places": machine(positions=False, initial_memory="zeros", dropout=0.0),
    "look-back": machine(look_back=2, input_tokens=3, write_cost=0.1, horizon=6.0),
}
STREAM = laws.stream_of(3)


def run(model: Any, x: Tensor, state: Any, fast_steps: bool) -> laws.Result:
    model.fast = fast_steps
    terms: dict[str, Tensor] = {}
    y, state = model(x, state, **STREAM.flags(), terms=terms)
    return y + sum(terms.values()), state


def gradients(model: Any, fast_steps: bool) -> dict[str, Tensor]:
    x, state = inputs(model, laws.ROWS, laws.STEPS), used_state(model, laws.ROWS)
    return laws.gradients(lambda m, x, s: run(m, x, s, fast_steps), model, x, state)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a chunk was one operation."""
    found: list[int] = []
    apply = Steps.apply
    monkeypatch.setattr(Steps, "apply", lambda *args: found.append(1) or apply(*args))
    return found


@pytest.mark.parametrize("chunk", [64, 3])
@pytest.mark.parametrize("name", MODELS)
def test_same_as_step_by_step(name: str, chunk: int, taken: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "CHUNK", chunk)
    model = MODELS[name]()
    x, state = inputs(model, laws.ROWS, laws.STEPS), used_state(model, laws.ROWS)
    laws.assert_same(run(model, x, state, False), run(model, x, state, True), "outputs of a chunk of steps")
    laws.assert_same_gradients(gradients(model, False), gradients(model, True), "gradients of a chunk of steps")
    assert taken, "no chunk was one operation, so this test could not fail"


def test_a_wrong_way_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["gated"]()
    wanted = gradients(model, False)
    back = backward.gelu_back
    monkeypatch.setattr(backward, "gelu_back", lambda gradient, x: back(gradient, x + 0.1))
    with pytest.raises(AssertionError):
        laws.assert_same_gradients(wanted, gradients(model, True), "gradients with a wrong slope")


def test_by_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every gradient of the operation, those of the weights included, against numerical ones."""
    torch.manual_seed(1)
    model = TokenTuringMachine(width=4, memory_tokens=3, read_tokens=2, layers=1, heads=2, hidden=4, horizon=3.0).double()
    caught: list[tuple[Any, ...]] = []
    apply = Steps.apply
    monkeypatch.setattr(Steps, "apply", lambda *args: caught.append(args) or apply(*args))
    reset, active = torch.tensor([[False, False, True], [True, False, False]]), torch.tensor([[True] * 3, [True, False, True]])
    model(torch.randn(2, 3, 2, 4, dtype=torch.float64), None, reset, active)
    at = [index for index, part in enumerate(caught[0]) if isinstance(part, Tensor) and part.requires_grad]

    def outputs(*parts: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(at, parts, strict=True))
        y, memory, _, gate = apply(*(given.get(index, part) for index, part in enumerate(caught[0])))
        return y, memory, gate

    leaves = [caught[0][index].detach().requires_grad_() for index in at]
    assert torch.autograd.gradcheck(outputs, leaves, fast_mode=True, atol=1e-5)


def hooked(model: Any) -> None:
    model.cell.processor.register_forward_hook(lambda *_: None)


def wrapped(model: Any) -> None:
    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model.cell.write.query.__class__ = Own


def dropped(model: Any) -> None:
    model.cell.processor.blocks[0].dropout.p = 0.5


@pytest.mark.parametrize("change", [hooked, wrapped, dropped, lambda model: model.cell.compile(backend="eager")])
def test_what_was_changed_goes_step_by_step(change: Callable[[Any], None], taken: list[int]) -> None:
    model = copy.deepcopy(build("gated")).train()
    x = inputs(model, laws.ROWS, laws.STEPS)
    model(x)
    assert taken == [1]
    change(model)
    model(x)
    assert taken == [1]
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["write-mlp", "gated-fixed-tokens", "gated-no-positions"])
def test_other_kinds_go_step_by_step(name: str, taken: list[int]) -> None:
    model = build(name)
    model(inputs(model, laws.ROWS, laws.STEPS))
    assert not taken


def test_autocast_and_looking_go_step_by_step(taken: list[int]) -> None:
    model = build("gated")
    x = inputs(model, laws.ROWS, laws.STEPS).float()
    model = model.float()
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
    with torch.no_grad():
        model(x)
    assert not taken


def test_backward_again_and_what_is_frozen() -> None:
    model = tt.TokenTuringMachine(width=8, memory_tokens=3, read_tokens=2, layers=1, heads=2)
    model.cell.read.requires_grad_(False)
    y, state = model(torch.randn(2, 4, 1, 8))
    loss = y.square().mean() + state.memory.square().mean()
    loss.backward(retain_graph=True)
    once = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    loss.backward()
    for name, p in model.named_parameters():
        assert (p.grad is None) == name.startswith("cell.read")
        if p.grad is not None:
            torch.testing.assert_close(p.grad, 2 * once[name])
    assert function.SEEN == 4
