"""Steps as CUDA graphs: the same as plain steps, though results lie in memory that is taken again after each mark.

There is no GPU here, so a compiler of these tests has that property: what it made gives results in buffers, which
`torch.compiler.cudagraph_mark_step_begin()` makes worthless and which are then filled again from the first on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import laws
import pytest
import torch
from activity_files import small
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from zoo import build, inputs, used_state

import tokenturing as tt
from tokenturing import state as states
from tokenturing.errors import OptionError
from tokenturing.models import graphs
from tokenturing.options import build as build_options
from tokenturing.tasks.around import AroundMemory
from tokenturing.train import loop
from tokenturing.train.compiled import compile_step
from tokenturing.train.loop import Training
from tokenturing.train.recipe import TrainOptions, parse_recipe

GRAPHS = "reduce-overhead"


class Memory:
    """Of all graphs: buffers in the order in which they were asked for since the last mark."""

    def __init__(self) -> None:
        self.buffers: list[Tensor] = []
        self.taken = self.marks = 0

    @torch.no_grad()
    def mark(self) -> None:
        self.taken, self.marks = 0, self.marks + 1
        for buffer in self.buffers:
            buffer.fill_(torch.nan if buffer.is_floating_point() else 0)

    @torch.no_grad()
    def keep(self, result: Any) -> Any:
        """A result where graphs have theirs."""
        if not isinstance(result, Tensor):
            return result
        if self.taken == len(self.buffers):
            self.buffers.append(torch.empty(0))
        buffer, self.taken = self.buffers[self.taken], self.taken + 1
        if (buffer.shape, buffer.dtype) != (result.shape, result.dtype):
            buffer.data = torch.empty_like(result)
        return buffer.copy_(result).detach()

    def compiler(self, graph: Any, _: Any) -> Any:
        return make_boxed_func(lambda *args: [self.keep(result) for result in graph(*args)])


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """In the place of CUDA's."""
    one = Memory()
    backend = aot_autograd(fw_compiler=one.compiler, bw_compiler=one.compiler)

    def compile_so(module: nn.Module, *, dynamic: bool, mode: str) -> None:
        assert (dynamic, mode) == (False, GRAPHS)
        module._compiled_call_impl = torch.compile(module._call_impl, dynamic=False, backend=backend)

    monkeypatch.setattr(nn.Module, "compile", compile_so)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", one.mark)
    torch.compiler.reset()
    yield one
    torch.compiler.reset()


def steps(model: Any, x: Tensor, state: Any) -> list[Tensor]:
    """One by one, without gradients: all outputs and states, kept to the end."""
    found = []
    with torch.no_grad():
        for t in range(x.shape[1]):
            y, state = model.step(x[:, t], state)
            found += [y, *state]
    return found


def test_steps_hand_out_copies(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("gated")
    x, state = inputs(model, 2, 3), used_state(model, 2)
    wanted = steps(model, x, state)
    graphs.compile_cell(model.cell, GRAPHS)
    came = steps(model, x, state)
    assert memory.marks == 3, "each takes the memory of the one before"
    for one, two in zip(wanted, came, strict=True):
        torch.testing.assert_close(two, one)
    monkeypatch.setattr(Tensor, "clone", lambda leaf: leaf)
    wrong = steps(model, x, state)
    assert not all(torch.allclose(one, two) for one, two in zip(wanted, wrong, strict=True)), "the control: no copies"


def trained(folder: Path, compile: bool | str, parts: int, validates: bool = True) -> Training:
    """Four updates of an activity model, with a validation between that changes nothing."""
    content = small("activity_thumos", folder / "videos")
    content["model"]["dropout"] = 0.0
    steps = 3 if parts == 1 else 1  # gradients of several steps are summed up where no graph is
    train = {"updates": 4, "rows": 4, "steps": steps, "warmup": 1, "rate": 1e-3, "compile": compile, "accumulate": parts}
    run = Training(parse_recipe({"task": "activity_thumos", "train": train, **content}), folder / f"{compile}{parts}")
    for _ in range(2):
        run.advance()
    if validates:
        run.validate()
    for _ in range(2):
        run.advance()
    return run


def off(run: Training, other: Training) -> float:
    """The largest difference of their weights; but for what a softmax takes no notice of."""
    pairs = zip(run.model.named_parameters(), other.model.parameters(), strict=True)
    kept = [(a, b) for (name, a), b in pairs if not name.endswith(("read.mlp.2.bias", "key_value.bias"))]
    return max(float((a - b).abs().max()) for a, b in kept)


@pytest.mark.parametrize("parts", [1, 2])
def test_training_keeps_what_goes_on(parts: int, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trained(tmp_path, False, parts, validates=False)
    assert memory.marks == 0
    assert off(trained(tmp_path, GRAPHS, parts), plain) < 1e-5
    assert memory.marks >= 4 * parts
    # what is left where it was: the state, or with parts the gradients so far
    monkeypatch.setattr(loop, "keep_results", lambda _, state, __: state if parts == 1 else states.clone(state))
    (tmp_path / "control").mkdir()
    assert off(trained(tmp_path / "control", GRAPHS, parts, validates=False), plain) > 1e-3, "the control: no copies"


@pytest.mark.slow
def test_a_step_by_inductor_is_the_plain_one() -> None:
    """Whole chunks and their gradients; the graphs themselves are for GPUs alone."""
    torch.compiler.reset()
    model = tt.TokenTuringMachine(8, 3, 2, 1, 2, read="pool", write="erase_add", processor="mlp", hidden=8, input_tokens=3)
    x, state = inputs(model, 2, 2), used_state(model, 2)
    found = []

    def run(model: Any, x: Tensor, state: Any) -> laws.Result:
        found.append(model(x, state))
        return found[-1]

    gradients = laws.gradients(run, model, x, state)
    graphs.compile_cell(model.cell, GRAPHS)
    laws.assert_same_gradients(gradients, laws.gradients(run, model, x, state), GRAPHS)
    laws.assert_same(found[0], found[-1], GRAPHS)
    torch.compiler.reset()


class OldModel(nn.Module):
    """Of somebody's own: it compiles in one manner only."""

    def compile_step(self) -> None:
        self.compiled = True


def test_what_is_not_known_is_said() -> None:
    for value in ("fast", 1):
        with pytest.raises(OptionError, match=f"train.compile={value!r}: expected true, false or 'reduce-overhead'"):
            build_options(TrainOptions(), {"compile": value}, "train.")
    with pytest.raises(OptionError, match=r"mode='fast' is not known: expected .*'reduce-overhead'"):
        graphs.compile_cell(build("gated").cell, "fast")
    model = OldModel()
    compile_step(model, True)
    assert model.compiled
    with pytest.raises(OptionError, match="an OldModel takes no mode; expected compile=true"):
        compile_step(model, GRAPHS)
    with pytest.raises(OptionError, match=r"has no compile_step\(\); expected compile=false"):
        compile_step(nn.Linear(1, 1), GRAPHS)
    assert "mode" in AroundMemory.compile_step.__annotations__
