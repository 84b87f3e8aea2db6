"""PyTorch's kernels under the LSTM and the GRU are the scan, one step after another, and are left out where they would not be."""

from typing import Any

import laws
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from zoo import build, inputs, used_state

from tokenturing import state as states
from tokenturing.baselines import fused
from tokenturing.baselines.stack import GatedLayer
from tokenturing.models.contract import RecurrentModel
from tokenturing.models.scan import step_by_step

ROWS, STEPS = 4, 24
NAMES = ["LSTM", "GRU", "LSTM-fixed-tokens"]
Flags = dict[str, Tensor]


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of each call of a kernel."""
    made: list[int] = []
    for cls in GatedLayer.__subclasses__():
        if "kernel" in vars(cls):
            kernel = cls.kernel

            def counted(self: Any, x: Tensor, state: Any, kernel: Any = kernel) -> Any:
                made.append(x.shape[1])
                return kernel(self, x, state)

            monkeypatch.setattr(cls, "kernel", counted)
    return made


def flags(*, reset: list[tuple[int, int]] = (), pause: list[tuple[int, slice]] = (), mask: bool = False) -> Flags:  # type: ignore[assignment]
    """Resets as (row, step), pauses as (row, steps), and absent tokens by chance."""
    found = {"reset": torch.zeros(ROWS, STEPS, dtype=torch.bool), "active": torch.ones(ROWS, STEPS, dtype=torch.bool)}
    for row, step in reset:
        found["reset"][row, step] = True
    for row, steps in pause:
        found["active"][row, steps] = False
    if mask:
        found["token_mask"] = torch.rand(ROWS, STEPS, 3, generator=torch.Generator().manual_seed(7)) < 0.7
    return found


STREAMS = {
    "nothing": ({}, [24]),
    "a reset": (flags(reset=[(1, 9)]), [9, 15]),
    "a reset at the start": (flags(reset=[(0, 0), (2, 0)]), [24]),
    "resets of some rows": (flags(reset=[(1, 9), (2, 9), (3, 20)], mask=True), [9, 11, 4]),
    "a pause": (flags(pause=[(2, slice(5, 11))]), [5, 6, 13]),
    "rows of many lengths": (flags(pause=[(0, slice(20, 24)), (1, slice(7, 24)), (3, slice(1, 24))]), [1, 6, 13, 4]),
    "all pause": (flags(pause=[(row, slice(3, 9)) for row in range(ROWS)], mask=True), [3, 15]),
    "a reset in a pause": (flags(reset=[(2, 7), (0, 12)], pause=[(2, slice(5, 11)), (1, slice(0, 24))]), [5, 2, 4, 1, 12]),
    "one that pauses throughout": (flags(pause=[(3, slice(0, 24))]), [24]),
}


def twin(model: RecurrentModel, x: Tensor, state: Any, given: Flags) -> laws.Result:
    """One step after the other, as `forward` runs other models."""
    if "active" in given:
        x = torch.where(given["active"][:, :, None, None], x, 0.0)
    mask = given.get("token_mask")
    x = x if mask is None else torch.where(mask.unsqueeze(-1), x, 0.0)
    return step_by_step(model, state, x, mask, given.get("reset"), given.get("active"))


def run(model: RecurrentModel, x: Tensor, state: Any, given: Flags) -> laws.Result:
    return model(x, state, **given)


def compare(model: RecurrentModel, given: Flags, tolerance: float) -> None:
    """Outputs, the last state and all gradients, each within the tolerance of its size."""
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS, steps=1)
    with torch.no_grad():
        laws.assert_same(twin(model, x, state, given), run(model, x, state, given), "without gradients", tolerance)
    laws.assert_same(twin(model, x, state, given), run(model, x, state, given), "with gradients", tolerance)
    wanted = laws.gradients(twin, model, x, state, given)
    for name, came in laws.gradients(run, model, x, state, given).items():
        off = float((came - wanted[name]).abs().max() / wanted[name].abs().max().clamp(min=1))
        assert off <= tolerance, f"the gradient to {name} is off by {off:.3g}"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["double", "single"])
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_the_twin(name: str, stream: str, dtype: torch.dtype, tolerance: float, calls: list[int]) -> None:
    given, expected = STREAMS[stream]
    model = build(name, dtype=dtype)
    compare(model, given, tolerance)
    assert calls[: len(expected)] == expected, "else this would compare the twin with itself"


def test_a_pause_does_not_even_round() -> None:
    model = build("LSTM", dtype=torch.float32)
    x, start = inputs(model, ROWS, STEPS), used_state(model, ROWS, steps=1)
    y, state = model(x, start, **flags(pause=[(1, slice(0, 24)), (2, slice(4, 24))]))
    assert not y[1].any()
    assert all(
        torch.equal(after[1], before[1]) for (_, after), (_, before) in zip(*map(states.leaves, (state, start)), strict=True)
    )
    _, early = model(x[:, :4], start)
    laws.assert_same((x[:0], states.take(early, [2])), (x[:0], states.take(state, [2])), "a pause to the end", 1e-6)


# --- controls


def _without(part: str) -> Any:
    """`spans` that forgets about resets, or about who pauses."""
    sound = fused.spans

    def forgetful(*given: Any) -> list[fused.Span] | None:
        found = sound(*given)
        return None if found is None else [span._replace(**{part: None}) for span in found]

    return forgetful


@pytest.mark.parametrize(("part", "stream"), [("reset", "resets of some rows"), ("rows", "a pause")])
def test_control_of_flags(part: str, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "spans", _without(part))
    with pytest.raises(AssertionError):
        compare(build("LSTM"), STREAMS[stream][0], 1e-5)


def test_control_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same values, and one weight that gets none."""
    weights = GatedLayer._weights
    monkeypatch.setattr(GatedLayer, "_weights", lambda self: [*weights(self)[:3], self.recurrent.bias.detach()])
    with pytest.raises(AssertionError, match=r"recurrent\.bias"):
        compare(build("GRU"), {}, 1e-5)


# --- where the twin runs


def test_many_resets_are_left_to_the_twin(calls: list[int]) -> None:
    compare(build("LSTM"), flags(reset=[(step % ROWS, step) for step in range(STEPS)]), 1e-12)
    assert not calls
    assert fused.spans(4, None, None) == [fused.Span(0, 4, None, None)]
    assert fused.spans(1, None, None) is None


class Adapter(nn.Module):
    """What is put in place of a layer, and still shows its weights."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.layer(x)


def _adapt(layer: Any) -> None:
    layer.recurrent = Adapter(layer.recurrent)


CHANGES = {
    "an adapter": _adapt,
    "a hook": lambda layer: layer.recurrent.register_forward_hook(lambda module, x, y: 2 * y),
    "pruning": lambda layer: prune.random_unstructured(layer.input, "weight", 0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_put_in_place_of_a_projection_is_heeded(change: str, calls: list[int]) -> None:
    model = build("LSTM")
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS, steps=1)
    before = run(model, x, state, {})
    calls.clear()
    torch.manual_seed(0)
    CHANGES[change](model.layers[1])
    laws.assert_same(twin(model, x, state, {}), run(model, x, state, {}), change)
    assert not calls
    with pytest.raises(AssertionError):
        laws.assert_same(before, run(model, x, state, {}), "as before")


def test_transforms_and_second_derivatives() -> None:
    model = build("LSTM")
    x, state = inputs(model, ROWS, 6), used_state(model, ROWS, steps=1)
    slopes = [torch.func.jvp(lambda x, way=way: way(model, x, state, {})[0], (x,), (x.cos(),))[1] for way in (run, twin)]
    torch.testing.assert_close(*slopes)
    curvatures = []
    for way in (run, twin):
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(way(model, leaf, state, {})[0].square().sum(), leaf, create_graph=True)
        curvatures.append(torch.autograd.grad(slope.square().sum(), [leaf, *model.parameters()], allow_unused=True))
    for ours, theirs in zip(*curvatures, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_under_autocast_the_state_stays_precise(name: str, calls: list[int]) -> None:
    model = build(name, dtype=torch.float32)
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS, steps=1)
    wanted, _ = twin(model, x, state, {})
    with torch.autocast("cpu", torch.bfloat16):
        (y, after), (stepped, _) = run(model, x, state, {}), twin(model, x, state, {})
    assert calls
    assert after.hidden.dtype == torch.float32
    assert (y - wanted).abs().max() <= 1.5 * (stepped - wanted).abs().max(), "no less precise than one step after the other"
