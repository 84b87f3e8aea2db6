"""`check_streaming` passes what is sound, and finds each fault: which law, which rows and steps, by how much."""

import re
from typing import Any

import broken
import pytest
import torch
from torch import Tensor, nn
from zoo import GROWING, ZOO, build, inputs

import tokenturing as tt
from tokenturing.errors import OptionError, ShapeError
from tokenturing.testing import LAWS, StreamingError, check_streaming

X = torch.randn(3, 8, 2, 8, generator=torch.Generator().manual_seed(0))


def findings(model: Any, x: Any = X, **options: Any) -> dict[str, str]:
    """Law -> message, of the laws that are broken."""
    with pytest.raises(StreamingError) as caught:
        check_streaming(model, x, **options)
    for failure in caught.value.report.failures:
        assert failure.law in LAWS
        assert failure.message in str(caught.value)
    return {failure.law: failure.message for failure in caught.value.report.failures}


@pytest.mark.parametrize("name", ["gated", "write-mlp", "GRU", "WindowTransformer", "FullTransformer", "scenic"])
def test_ours_pass(name: str) -> None:
    model = build(name, dtype=torch.float32)
    report = check_streaming(model, inputs(model, 3, 8), grows=name in GROWING)
    assert report.ok
    assert report
    assert report.passed == list(LAWS)
    assert not report.skipped
    assert name in ZOO


def test_sound_model_passes_in_every_type() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert check_streaming(broken.make(broken.Sound, dtype=dtype), X.to(dtype)).ok


# --- each fault is found, where it is


@pytest.mark.parametrize(
    ("cls", "law", "message"),
    [
        (broken.LeakyMean, "strangers change nothing", r"rows 1, 2 differ from step 0 on.* row 0's input changes: a leak"),
        (broken.LeakyMean, "a row alone = among strangers", r"row 0 differs from step 0 on.*depends on its batch"),
        (broken.LeakyNorm, "strangers change nothing", r"leak across rows"),
        (broken.Hidden, "same call, same result", r"rows 0, 1, 2 differ from step 0 on.*keeps something to itself"),
        (broken.Mutating, "state and inputs are left alone", r"the call changes what it was given, in state leaf"),
        (broken.LateReset, "a reset restarts exactly its rows", r"row 0 differs from step 0 on.*reset before step 0"),
        (broken.BroadReset, "a reset restarts exactly its rows", r"rows 1, 2 differ from step 0.*reaches other rows"),
        (broken.Decaying, "an inactive row keeps its state to the bit", r"row 2 .* in the state alone.*does not stay"),
        (broken.Decaying, "inactive steps are as if they were not there", r"row 0 differs from step 2.*1, 4, 7"),
        (broken.LoudInactive, "an inactive row keeps its state to the bit", r"row 2 .*from step 4 on.*not zeros"),
        (broken.Prophet, "the future changes nothing", r"differ from step 0 on.*only from step 1 on: it sees"),
        (broken.Prophet, "step by step = whole", r"differ from step 0 on; largest difference"),
        (broken.Growing, "the state keeps its size", r"'memory' grows from \[3, 2, 8\].*to \[3, 9, 8\] after 8"),
        (broken.Detaching, "gradients of chunks = gradients of the whole", r"gradient to .* chunks of .*lost"),
    ],
)
def test_fault_is_found(cls: type[broken.Sound], law: str, message: str) -> None:
    found = findings(broken.make(cls, dtype=torch.float32))
    assert law in found
    assert re.search(message, found[law]), found[law]


def test_message_says_rows_step_size_and_place() -> None:
    class Leak(broken.Sound):
        """From step 5 on, row 0 leaks into the memory of row 1."""

        def forward(self, x: Tensor, state: Any = None, *args: Any, **options: Any) -> Any:
            x = x.clone()
            if len(x) > 1 and x.shape[1] > 5:
                x[1, 5:] += 0.5 * x[0, 5:]
            return super().forward(x, state, *args, **options)

    found = findings(broken.make(Leak, dtype=torch.float32))
    message = found["strangers change nothing"]
    assert re.fullmatch(
        r"row 1 differs from step 5 on; largest difference 0\.\d+ in output, state leaf 'memory' "
        r"when row 0's input changes: a leak across rows",
        message,
    )
    assert "row 1 differs from step 5 on" in found["a row alone = among strangers"]


def test_leak_that_only_nan_shows() -> None:
    class Faint(broken.Sound):
        """The other rows count for nothing, but are multiplied by it."""

        def advance(self, prepared: tuple[Tensor], state: broken.SoundState) -> tuple[Tensor, broken.SoundState]:
            y, state = super().advance(prepared, state)
            return y + 0.0 * y.sum(0, keepdim=True), state

    model = broken.make(Faint, dtype=torch.float32)
    assert "when row 0's input is NaN" in findings(model)["strangers change nothing"]
    assert check_streaming(model, X, probe_nan=False).ok


def test_border_that_nothing_crosses() -> None:
    class Amnesic(broken.Sound):
        def forward(self, x: Tensor, state: Any = None, *args: Any, **options: Any) -> Any:
            return super().forward(x, self.initial_state(len(x)), *args, **options)

    message = findings(broken.make(Amnesic, dtype=torch.float32), splits=[(3, 5)])["chunks = whole"]
    assert "rows 0, 1, 2 differ from step 3 on" in message
    assert "chunks of 3, 5" in message


def test_reset_that_comes_too_early() -> None:
    class Early(broken.Sound):
        def forward(self, x: Tensor, state: Any = None, reset: Any = None, *args: Any, **options: Any) -> Any:
            early = reset if reset is None else reset | nn.functional.pad(reset, (0, 1))[:, 1:]
            return super().forward(x, state, early, *args, **options)

    message = findings(broken.make(Early, dtype=torch.float32))["a reset restarts exactly its rows"]
    assert "comes too early" in message
    assert "from step 3 on" in message


def test_buffer_that_counts() -> None:
    class Counting(broken.Sound):
        def __init__(self) -> None:
            super().__init__()
            self.calls: Tensor
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, *args: Any, **options: Any) -> Any:
            self.calls += 1
            return super().forward(*args, **options)

    assert "'calls' changes" in findings(broken.make(Counting, dtype=torch.float32))["same call, same result"]


def test_dropout_is_named() -> None:
    model = tt.TokenTuringMachine(width=8, memory_tokens=3, read_tokens=2, layers=1, heads=2, dropout=0.5)
    assert "dropout" in findings(model.train())["same call, same result"]
    assert check_streaming(model.eval(), X).ok


def test_error_of_the_module_is_a_finding() -> None:
    class Fragile(broken.Sound):
        def forward(self, x: Tensor, *args: Any, **options: Any) -> Any:
            if len(x) == 1:
                raise RuntimeError("one row is too few")
            return super().forward(x, *args, **options)

    found = findings(broken.make(Fragile, dtype=torch.float32))
    assert found["a row alone = among strangers"] == "the module raised RuntimeError: one row is too few"


# --- modules of other makes


class Bare(nn.Module):
    """A GRU with neither step nor flags, whose state is a dict."""

    def __init__(self, leak: float = 0.0):
        super().__init__()
        self.cell = nn.GRUCell(4, 6)
        self.leak = leak

    def initial_state(self, batch_size: int) -> dict[str, list[Tensor]]:
        return {"hidden": [torch.zeros(batch_size, 6)]}

    def forward(self, x: Tensor, state: dict[str, list[Tensor]]) -> tuple[Tensor, dict[str, list[Tensor]]]:
        hidden, outputs = state["hidden"][0], []
        for step in x.unbind(1):
            hidden = self.cell(step + self.leak * step.mean(0, keepdim=True) if self.leak else step, hidden)
            outputs.append(hidden)
        return torch.stack(outputs, 1), {"hidden": [hidden]}


def test_what_a_module_lacks_is_skipped_and_listed() -> None:
    report = check_streaming(Bare(), torch.randn(3, 8, 4))
    assert report.skipped["step by step = whole"] == "the module has no step"
    assert "'reset'" in report.skipped["a reset restarts exactly its rows"]
    assert "'active'" in report.skipped["inactive steps are as if they were not there"]
    assert "chunks = whole" in report.passed
    assert "skipped  step by step = whole: the module has no step" in str(report)
    message = findings(Bare(leak=0.5), torch.randn(3, 8, 4))["strangers change nothing"]
    assert "state leaf 'hidden.0'" in message


def test_functions_may_be_given() -> None:
    model = Bare()

    def step(x: Tensor, state: dict) -> tuple[Tensor, dict]:
        y, state = model(x.unsqueeze(1), state)
        return y[:, 0], state

    report = check_streaming(model.forward, torch.randn(3, 8, 4), initial_state=model.initial_state, step=step)
    assert "step by step = whole" in report.passed

    def wrong(x: Tensor, state: dict) -> tuple[Tensor, dict]:
        y, state = step(x, state)
        return y + 1, state

    found = findings(model, torch.randn(3, 8, 4), step=wrong)
    assert list(found) == ["step by step = whole"]


def test_small_inputs_skip_what_they_cannot_show() -> None:
    report = check_streaming(broken.make(broken.Sound, dtype=torch.float32), X[:1, :1])
    assert report.skipped["strangers change nothing"] == "the inputs have one row"
    assert report.skipped["chunks = whole"] == "the inputs have one step"


def test_inputs_may_be_nested() -> None:
    class Two(broken.Sound):
        def forward(self, x: Any, state: Any = None, *args: Any, **options: Any) -> Any:  # type: ignore[override]
            return super().forward(x["eyes"] * x["there"].unsqueeze(-1), state, *args, **options)

        def step(self, x: Any, state: Any, **options: Any) -> Any:  # type: ignore[override]
            return super().step(x["eyes"] * x["there"].unsqueeze(-1), state, **options)

    # Zero times NaN is NaN: an absent eye that holds NaN is no law of streaming.
    x = {"eyes": X, "there": torch.rand(3, 8, 2) > 0.3}
    assert check_streaming(broken.make(Two, dtype=torch.float32), x).ok


def test_report_without_raising() -> None:
    report = check_streaming(broken.make(broken.LeakyMean, dtype=torch.float32), X, raises=False)
    assert not report
    assert {failure.law for failure in report.failures} == {
        "strangers change nothing",
        "a row alone = among strangers",
        "a reset restarts exactly its rows",
        "an inactive row keeps its state to the bit",
        "a reset in an inactive step counts",
        "inactive steps are as if they were not there",
    }
    assert str(report).startswith("FAILED   a row alone = among strangers: row 0 differs")
    left_out = check_streaming(
        broken.make(broken.LeakyMean, dtype=torch.float32), X, raises=False, skip=["strangers change nothing"]
    )
    assert left_out.skipped == {"strangers change nothing": "left out"}


def test_modes_and_parameters_are_left_alone() -> None:
    model = broken.make(broken.Sound, dtype=torch.float32).train()
    before = tt.fingerprint(model)
    check_streaming(model, X)
    assert model.training
    assert tt.fingerprint(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"inputs": torch.zeros(3)}, ShapeError, r"expected \[B, T, ...\]"),
        ({"inputs": torch.zeros(3, 0, 8)}, ShapeError, r"expected \[B, T, ...\]"),
        ({"inputs": {"a": X, "b": X[:2]}}, ShapeError, "one B and one T"),
        ({"splits": [(1, 2)]}, OptionError, "add up"),
        ({"skip": ["chunks"]}, OptionError, "did you mean"),
    ],
)
def test_what_does_not_fit_is_said(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_streaming(broken.make(broken.Sound), **{"inputs": X, **options})


def test_module_without_initial_state_is_told() -> None:
    with pytest.raises(OptionError, match="initial_state"):
        check_streaming(nn.Linear(8, 8), X)
