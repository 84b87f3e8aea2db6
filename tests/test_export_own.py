"""Modules of the user's own on the runtime: inputs, state and outputs of any form, any number of rows."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tokenturing as tt
from tokenturing import runtime
from tokenturing.errors import OptionError
from tokenturing.export import export_onnx
from tokenturing.models.contract import Input


class Inputs(NamedTuple):
    frame: Tensor
    sound: Tensor


class Recorder(nn.Module):
    """Several inputs, a nested state with a counter of whole numbers, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.drop = nn.GRUCell(6, 4), nn.Dropout(0.5)

    def initial_state(self, batch_size: int) -> Any:
        return {"hidden": torch.zeros(batch_size, 4), "count": (torch.zeros(batch_size, dtype=torch.int64),)}

    def step(self, inputs: Any, state: Any) -> Any:
        frame, sound = inputs.values() if isinstance(inputs, dict) else inputs
        hidden = self.drop(self.cell(torch.cat([frame, sound], -1), state["hidden"]))
        count = state["count"][0] + 1
        return {"logits": hidden * count.unsqueeze(-1), "count": count}, {"hidden": hidden, "count": (count,)}


@pytest.mark.parametrize(
    "form", [lambda a, b: {"frame": a, "sound": b}, Inputs, lambda a, b: (a, b)], ids=["dict", "namedtuple", "tuple"]
)
@torch.no_grad()
def test_inputs_state_and_outputs_of_any_form(form: Callable[[Tensor, Tensor], Any], tmp_path: Path) -> None:
    model = Recorder()
    folder = export_onnx(model, tmp_path / "own", inputs=form(torch.randn(1, 4), torch.randn(1, 2)))
    assert model.training, "exporting changed the model"
    machine = runtime.load(folder, threads=1)
    assert json.loads((folder / "runtime.json").read_text())["class_name"] == "Recorder"
    model.eval()
    for rows in (1, 5):
        state, ours = model.initial_state(rows), machine.initial_state(rows)
        for _ in range(3):
            frame, sound = torch.randn(rows, 4), torch.randn(rows, 2)
            outputs, state = model.step(form(frame, sound), state)
            y, ours, others = machine.step_and_perceive((frame.numpy(), sound.numpy()), ours)
            np.testing.assert_allclose(y, outputs["logits"], rtol=1e-4, atol=1e-5)
        assert ours.count_0.tolist() == [3] * rows
        np.testing.assert_allclose(ours.hidden, state["hidden"], rtol=1e-4, atol=1e-5)
        assert others["count"].tolist() == [3] * rows
    fresh = machine.reset(ours, [1])
    assert fresh.count_0.tolist() == [3, 0, 3, 3, 3]


class Tensors(nn.Module):
    """A single tensor in, as the state and out; `initial_state` is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix = nn.Parameter(torch.randn(1, 4)), nn.Linear(4, 4)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.first.expand(batch_size, -1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.tanh(self.mix(state) + x)
        return state * 1e-5, state


class Signed(Tensors):
    def signature(self) -> dict[str, Input]:
        return {"x": Input((4,), torch.float32)}


@pytest.mark.parametrize(("model", "inputs"), [(Tensors(), torch.randn(3, 4)), (Signed(), None)], ids=["example", "signature"])
@torch.no_grad()
def test_plain_tensors(model: nn.Module, inputs: Any, tmp_path: Path) -> None:
    machine = runtime.load(export_onnx(model, tmp_path / "own", inputs=inputs), threads=1)
    assert list(machine.inputs) == ["x"]
    x = torch.randn(7, 4)
    y, state = model.step(x, model.initial_state(7))
    found, ours = machine.step(x.numpy(), machine.initial_state(7))
    np.testing.assert_allclose(found, y.numpy(), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(ours[0], state.numpy(), rtol=1e-4, atol=1e-5)
    if inputs is not None:
        stored = (tmp_path / "own" / "initial_state.safetensors").stat().st_mode & 0o777
        assert stored == (tmp_path / "own" / "runtime.json").stat().st_mode & 0o777


def test_states_and_runtimes_go_to_other_processes(tmp_path: Path) -> None:
    machine = runtime.load(export_onnx(Tensors(), tmp_path / "own", inputs=torch.randn(3, 4)), threads=1)
    x = np.ones((2, 4), np.float32)
    _, state = machine.step(x, machine.initial_state(2))
    again, other = pickle.loads(pickle.dumps((machine, state)))
    assert type(other) is type(state)
    np.testing.assert_array_equal(other.state, state.state)
    np.testing.assert_array_equal(again.step(x, other)[0], machine.step(x, state)[0])
    assert not np.array_equal(machine.step(x, machine.initial_state(2))[0], machine.step(x, state)[0]), "the control"


def changed(**methods: Any) -> nn.Module:
    """`Tensors` with other methods."""
    return type("Changed", (Tensors,), methods)()


def grow(self: Any, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.cat([state, x], 1)


def branch(self: Any, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return (x, state) if x.sum() > 0 else (state, x)


@pytest.mark.parametrize(
    ("model", "inputs", "said"),
    [
        (nn.Linear(2, 2), None, "a Linear cannot be exported, it has no initial_state and no step"),
        (Tensors(), None, "does not say what its step takes: give one step's inputs"),
        (Tensors(), [torch.randn(3, 4), 2], r"inputs\[1\] is an int"),
        (Tensors(), torch.tensor(1.0), "has no rows"),
        (changed(step=grow), torch.randn(1, 4), "grows"),
        (changed(step=branch), torch.randn(1, 4), "cannot be written as a graph"),
        (changed(step=lambda self, x, state: (x.sum(), state)), torch.randn(1, 4), "returned y with a tensor of shape"),
        (changed(step=lambda self, x, state: (x, (state,))), torch.randn(1, 4), "a state of another form"),
        (changed(initial_state=lambda self, rows: torch.zeros(1, rows, 4)), torch.randn(1, 4), "has its rows on axis 1"),
        (changed(initial_state=lambda self, rows: [torch.zeros(rows, 4), 0]), torch.randn(1, 4), r"state\[1\] is an int"),
        (
            changed(initial_state=lambda self, rows: torch.zeros(rows, 4).cfloat(), step=lambda self, x, state: (x, state + x)),
            torch.randn(1, 4),
            "state's state has type torch.complex64",
        ),
        (Tensors().double(), torch.randn(1, 4), "float64: expected a model in float32"),
        (Tensors().bfloat16(), torch.randn(1, 4), "bfloat16: expected a model in float32.*bf16"),
        (tt.baselines.GRU(16).double(), None, "float64: expected a model in float32"),
        (tt.baselines.GRU(16).half(), None, "float16: expected a model in float32"),
    ],
)
def test_what_cannot_be_exported_is_said(model: nn.Module, inputs: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=said):
        export_onnx(model, tmp_path / "own", inputs=inputs)
    assert not list(tmp_path.iterdir()), "something was left"


def test_a_model_without_memory(tmp_path: Path) -> None:
    model = tt.baselines.Memoryless(16, input_tokens=3).eval()
    machine = runtime.load(export_onnx(model, tmp_path / "none"), threads=1)
    x = torch.randn(2, 3, 16)
    with torch.no_grad():
        y, _ = model.step(x, model.initial_state(2))
    np.testing.assert_allclose(machine.step(x.numpy(), machine.initial_state(2))[0], y.numpy(), rtol=1e-4, atol=1e-5)
