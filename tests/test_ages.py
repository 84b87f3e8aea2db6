"""Ages and other counters: whole numbers that never tie or stall and that no cast touches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import ZOO, build, small

import tokenturing as tt
from tokenturing import state as states

LIMIT = 2**24
"""from where on float32 has no odd numbers"""


def silent(**options: Any) -> tt.TokenTuringMachine:
    """A machine that writes nothing."""
    torch.manual_seed(0)
    model = small(**options).eval()
    with torch.no_grad():
        model.cell.write.gate[-1].bias.fill_(-50.0)
        model.cell.write.oldest.zero_()
    return model


def aged(model: tt.TokenTuringMachine, *ages: int) -> Any:
    return model.initial_state(1)._replace(age=torch.tensor([ages]))


@torch.no_grad()
def after_silence(step: Any, model: tt.TokenTuringMachine, state: Any, steps: int = 5) -> list[int]:
    for _ in range(steps):
        _, state = step(torch.zeros(1, 2, model.width), state)
    return state.age[0].tolist()


def test_ages_go_on_beyond_what_float32_counts() -> None:
    model = silent()
    assert after_silence(model.step, model, aged(model, LIMIT - 1, LIMIT - 3, 5)) == [LIMIT + 4, LIMIT + 2, 10]
    years = 2**40
    assert after_silence(model.step, model, aged(model, years, years - 1, 5)) == [years + 5, years + 4, 10]
    assert torch.tensor([[float(LIMIT)]]).add(1).item() == LIMIT, "the control: a float32 stalls there"


def test_only_one_of_very_old_slots_is_the_oldest() -> None:
    """The oldest slot's gate opens, and of no other: in float32 both were the oldest, and were written at once."""
    model = silent()
    with torch.no_grad():
        model.cell.write.oldest.fill_(100.0)
        _, state = model.step(torch.zeros(1, 2, model.width), aged(model, LIMIT + 1, LIMIT, 5))
    assert state.age[0].tolist() == [0, LIMIT + 1, 6]


def test_compiled_ages_go_on_too() -> None:
    model = silent()
    compiled = torch.compile(model.step, backend="aot_eager", fullgraph=True)
    assert after_silence(compiled, model, aged(model, LIMIT - 1, LIMIT - 3, 5), 3) == [LIMIT + 2, LIMIT, 8]


def test_exported_ages_go_on_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from tokenturing.export import export_onnx

    model = silent(look_back=2, input_tokens=2)
    runtime = tt.runtime.load(export_onnx(model, tmp_path / "exported"), threads=1)
    state = runtime.initial_state(1)
    state = state._replace(age=torch.tensor([[LIMIT - 1, LIMIT - 3, 2**40]]).numpy())
    for _ in range(5):
        _, state = runtime.step(torch.zeros(1, 2, model.width).numpy(), state)
    assert state.age[0].tolist() == [LIMIT + 4, LIMIT + 2, 2**40 + 5]
    assert state.quiet.dtype.kind == "i"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_casts_leave_ages_alone(dtype: torch.dtype) -> None:
    state = aged(small(), 1001, 1002, 1003)
    assert states.move(state, dtype).age.tolist() == [[1001, 1002, 1003]]
    assert states.move(state, dtype).memory.dtype == dtype
    assert states.move(state, device="cpu", dtype=dtype).age.tolist() == [[1001, 1002, 1003]]
    assert torch.tensor([1001.0, 1002.0]).to(torch.bfloat16).unique().numel() == 1, "the control"


def counters(state: Any) -> list[tuple[str, torch.dtype]]:
    return [(name, leaf.dtype) for name, leaf in states.leaves(state) if name in {"age", "quiet", "steps"}]


@pytest.mark.parametrize("name", ZOO)
def test_counters_are_whole_numbers_whatever_the_types(name: str) -> None:
    """In a model of any type, and under any default type."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        first = ZOO[name]().initial_state(1)
    finally:
        torch.set_default_dtype(before)
    model = build(name, dtype=torch.bfloat16)
    x = torch.zeros(1, 3, model.width, dtype=torch.bfloat16)
    for state in (first, model.initial_state(1), model.step(x, model.initial_state(1))[1]):
        assert all(dtype == torch.int64 for _, dtype in counters(state))


@torch.no_grad()
def test_outputs_depend_on_the_default_type_in_nothing() -> None:
    model = silent(look_back=2, input_tokens=2)
    state, x = aged(model, 1001, 1002, 1003), torch.ones(1, 2, model.width)
    expected = model.step(x, state)[0]
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        assert torch.equal(model.step(x, state)[0], expected)
    finally:
        torch.set_default_dtype(before)


def test_ages_that_came_as_fractions_are_counted_on() -> None:
    """States of older versions had float32 ages."""
    model = silent()
    older = model.initial_state(1)._replace(age=torch.tensor([[3.0, 2.0, 1.0]]))
    assert after_silence(model.step, model, older, 1) == [4, 3, 2]
    _, state = model(torch.zeros(1, 1, 2, model.width), older)
    assert state.age.dtype == torch.int64


@torch.no_grad()
def test_the_window_goes_on_beyond_too() -> None:
    """A ring that has seen 2^24 steps more answers as it did."""
    model = build("WindowTransformer", dtype=torch.float32)
    x: Tensor = torch.randn(1, 9, 3, model.width, generator=torch.Generator().manual_seed(0))
    _, state = model(x)
    later = state._replace(steps=state.steps + 4 * LIMIT)
    torch.testing.assert_close(model(x, later)[0], model(x, state)[0])
    assert model(x, later)[1].steps.item() == 18 + 4 * LIMIT
