"""Laws: torch.compile (no graph breaks) and torch.export (any batch size) give what eager gives."""

import warnings
from pathlib import Path
from typing import Any

import broken
import laws
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from zoo import GROWING, ZOO, build, inputs, small, used_state

import tokenturing as tt
from tokenturing import state as states
from tokenturing.models.contract import RecurrentModel

QUICK = (
    "gated",
    "write-mlp",
    "write-erase-add",
    "write-concat",
    "scenic-simple",
    "LSTM",
    "GRU",
    "MinGRU",
    "Memoryless",
    "WindowTransformer",
    "FullTransformer",
    "RecurrentTransformer",
    "TemporalMixer",
    "Retrieval",
)
"""A graph of each kind; the others, whose graphs are put together from the same parts, run with --slow."""
every_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in ZOO]
)
STREAM = laws.stream_of(3)


@pytest.fixture(autouse=True)
def forget_graphs() -> Any:
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.compiler.reset()


def some_steps(model: RecurrentModel, steps: int) -> tuple[Tensor, Any, dict[str, Tensor]]:
    return inputs(model, laws.ROWS, steps), used_state(model, laws.ROWS), STREAM.flags(0, steps)


def compiled_is_eager(model: RecurrentModel, backend: str = "aot_eager", steps: int = 1) -> None:
    """Outputs and state, with resets, inactive rows and absent tokens."""
    x, state, flags = some_steps(model, steps)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        laws.assert_same(model(x, state, **flags), compiled(x, state, **flags), f"torch.compile with {backend}")


def compiled_steps_are_eager(model: RecurrentModel, steps: int = 3) -> None:
    """`step` by itself, one after another on its own states."""
    x, start, flags = some_steps(model, steps)
    compiled = torch.compile(model.step, fullgraph=True, backend="aot_eager")
    state = expected = start
    with torch.no_grad():
        for t in range(steps):
            mask = flags["token_mask"][:, t]
            y, state = compiled(x[:, t], state, token_mask=mask)
            wanted, expected = model.step(x[:, t], expected, token_mask=mask)
            laws.assert_same((wanted.unsqueeze(1), expected), (y.unsqueeze(1), state), f"torch.compile of step {t}")


def compiled_gradients_are_eager(model: RecurrentModel, backend: str = "aot_eager", steps: int = 2) -> None:
    x, state, flags = some_steps(model, steps)

    def run(model: Any, x: Tensor, state: Any) -> laws.Result:
        return model(x, state, **flags)

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    wanted = laws.gradients(run, model, x, state)
    came = laws.gradients(lambda _, x, state: run(compiled, x, state), model, x, state)
    laws.assert_same_gradients(wanted, came, f"torch.compile with {backend}")


@every_model
def test_compile(name: str) -> None:
    compiled_is_eager(build(name))
    compiled_steps_are_eager(build(name))


def test_compile_with_inductor() -> None:
    compiled_is_eager(build("gated"), "inductor")


@pytest.mark.parametrize("name", ["gated", "GRU", "MinGRU"])
def test_compiled_gradients(name: str) -> None:
    compiled_gradients_are_eager(build(name))


def test_compile_control_fails() -> None:
    compiled_is_eager(broken.make(broken.Sound))
    compiled_steps_are_eager(broken.make(broken.Sound))
    for law in (compiled_is_eager, compiled_steps_are_eager):
        with pytest.raises(torch._dynamo.exc.TorchDynamoException):
            law(broken.make(broken.Branching))


def test_compiled_model_is_saved_as_itself(tmp_path: Path) -> None:
    model = small()
    compiled: Any = torch.compile(model, backend="eager")
    tt.save(compiled, tmp_path / "a")
    assert tt.fingerprint(tt.load(tmp_path / "a")) == tt.fingerprint(model) == tt.fingerprint(compiled)


# --- export


class Step(nn.Module):
    """One step as the graph that is exported: state in, state out."""

    def __init__(self, model: RecurrentModel):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, state: Any, token_mask: Tensor) -> tuple[Tensor, Any]:
        return self.model.step(x, state, token_mask=token_mask)


def exported_is_eager(model: RecurrentModel, *, grows: bool = False) -> None:
    """Exported with 3 rows, run with 3 and with 5."""
    x, state, flags = some_steps(model, 1)
    batch, length = Dim("batch", max=64), Dim("length", max=1024)
    axes = {0: batch, 1: length} if grows else {0: batch}
    shapes = states.map_state(lambda leaf: axes if leaf.dim() > 1 else {0: batch}, state)  # type: ignore[arg-type, return-value]
    example = (x[:, 0], state, flags["token_mask"][:, 0])
    with torch.no_grad():
        program = torch.export.export(
            Step(model), example, dynamic_shapes=({0: batch}, shapes, {0: batch}), strict=False
        ).module()
        for rows in (laws.ROWS, 5):
            x, state = inputs(model, rows, 1, seed=8)[:, 0], used_state(model, rows, steps=4, seed=9)
            mask = torch.arange(rows * x.shape[1]).view(rows, -1) % 4 > 0
            expected = model.step(x, state, token_mask=mask)
            laws.assert_same(expected, program(x, state, mask), f"torch.export with {rows} rows")


@every_model
def test_export(name: str) -> None:
    exported_is_eager(build(name), grows=name in GROWING)


def test_export_control_fails() -> None:
    exported_is_eager(broken.make(broken.Sound))
    with pytest.raises((AssertionError, torch._dynamo.exc.TorchDynamoException, RuntimeError)):
        exported_is_eager(broken.make(broken.OneBatch))


@pytest.mark.parametrize("name", ["gated", "gated-look-back", "write-mlp"])
def test_a_compiled_step_is_made_once_for_streams_of_any_length(name: str) -> None:
    from torch._dynamo.testing import CompileCounter

    model, step, whole = build(name), CompileCounter(), CompileCounter()
    x = inputs(model, 2, 9)
    wanted, _ = model(x)
    together = torch.compile(build(name), backend=whole, dynamic=False)
    model.cell.compile(backend=step, dynamic=False)
    made = []
    for steps in (3, 5, 9):
        y, _ = model(x[:, :steps])
        together(x[:, :steps])
        made.append((step.frame_count, whole.frame_count))
    torch.testing.assert_close(y, wanted)
    assert made[0][0] >= 1
    assert made[0][0] == made[2][0], f"compiled {made} times"
    assert made[0][1] < made[2][1], "the whole loop is made for each length, so this test could fail"
