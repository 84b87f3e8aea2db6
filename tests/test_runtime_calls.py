"""What callers hand to a runtime: tensors are read, and what can't be meant is refused with a reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo

from tokenturing import runtime
from tokenturing.errors import OptionError, ShapeError
from tokenturing.export import eager
from tokenturing.runtime.machine import Runtime


@pytest.fixture(scope="module")
def machine() -> Runtime:
    return eager(zoo.build("gated-look-back", dtype=torch.float32))


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_are_a_whole_number_above_zero(threads: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"threads=.*expected a whole number, 1 or more"):
        runtime.load(tmp_path, threads=threads)


@pytest.mark.parametrize("rows", [2.5, -1, True, "2", None])
def test_rows_are_a_whole_number(rows: Any, machine: Runtime) -> None:
    with pytest.raises(OptionError, match=r"batch_size=.*expected a whole number, 0 or more"):
        machine.initial_state(rows)
    assert len(machine.initial_state(np.int64(2)).memory) == 2, "the control"
    assert len(machine.initial_state(0).memory) == 0


def test_tensors_are_read_as_arrays(machine: Runtime) -> None:
    x = torch.randn(2, 3, 16)
    state = machine.initial_state(2)
    mask = torch.tensor([[True, True, False]] * 2)
    wanted, after = machine.step(x.numpy(), state, token_mask=mask.numpy())
    tensors = state._make(torch.from_numpy(leaf) for leaf in state)
    found, following = machine.step(x, tensors, token_mask=mask)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(following.memory, after.memory)
    np.testing.assert_array_equal(machine.reset(tensors, torch.tensor([0])).memory, machine.reset(state, [0]).memory)
    np.testing.assert_array_equal(machine.step({"x": x}, state, token_mask=mask)[0], wanted)
    np.testing.assert_array_equal(machine.step([x], state, token_mask=mask)[0], wanted)


@pytest.mark.parametrize("x", [torch.randn(2, 3, 16, requires_grad=True), torch.zeros(2, 3, 16, dtype=torch.bfloat16)])
def test_tensors_that_numpy_cannot_read_are_refused(x: torch.Tensor, machine: Runtime) -> None:
    with pytest.raises(ShapeError, match="x is a Tensor that numpy can't read"):
        machine.step(x, machine.initial_state(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("x", [None, 3, torch.randn(2, 4, 16)])
def test_what_is_no_input_is_refused(x: Any, machine: Runtime) -> None:
    with pytest.raises(ShapeError, match=r"^x "):
        machine.step(x, machine.initial_state(2))


def test_states_of_other_models_are_refused(machine: Runtime) -> None:
    lstm = eager(zoo.build("LSTM", dtype=torch.float32))
    x = np.zeros((2, 3, 16), np.float32)
    ours, other = machine.initial_state(2), lstm.initial_state(2)
    with pytest.raises(ShapeError, match=f"the state is one of {', '.join(other._fields)}.*of this model"):
        machine.step(x, other)
    with pytest.raises(ShapeError, match="of this model"):
        machine.reset(other, [0])
    with pytest.raises(ShapeError, match=r"state 1 has .*expected states of one model"):
        runtime.stack([ours, other])
    with pytest.raises(ShapeError, match=r"state 1 has memory .*expected states of one model"):
        runtime.stack([ours, ours._replace(memory=ours.memory[:, :2])])
    with pytest.raises(ShapeError, match=r"memory has shape .*float64"):
        machine.step(x, ours._replace(memory=ours.memory.astype(np.float64)))
    assert len(runtime.stack([ours, ours]).memory) == 4, "the control"


@pytest.mark.parametrize("rows", [[2], [-3], [0.5], [True, False, True], [[0], [1]]])
def test_rows_that_are_not_there_are_refused(rows: Any, machine: Runtime) -> None:
    state = machine.initial_state(2)
    for call in (runtime.take, lambda state, rows: machine.reset(state, rows)):
        with pytest.raises(ShapeError, match=r"rows .*expected indices below 2, or a bool \[2\]"):
            call(state, rows)
    assert len(runtime.take(state, [True, False]).memory) == 1, "the control"
    assert len(runtime.take(state, 1).memory) == 1  # type: ignore[arg-type]
