"""`check_streaming` on modules as people write them: it passes the sound ones, and finds the fault of each of the others."""

import re
from typing import Any

import as_written
import pytest
import torch
from as_written import Flagged, Plain, Swallowing, Wrapper
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tokenturing.testing import check_streaming
from tokenturing.testing.trees import compare

X = torch.randn(3, 12, 4, generator=torch.Generator().manual_seed(0))
WORDS = torch.randint(0, 20, (3, 12), generator=torch.Generator().manual_seed(0))

SOUND: dict[str, Any] = {
    "GRU": Plain,
    "quiet": as_written.Quiet,
    "complex state": as_written.Oscillators,
    "flags": Flagged,
    "compiled": lambda: torch.compile(Plain(), backend="eager"),
    "compiled, with flags": lambda: torch.compile(Flagged(), backend="eager"),
    "wrapper": lambda: Wrapper(Plain()),
    "wrapper of flags": lambda: Wrapper(Flagged()),
    "wrapper that swallows": lambda: Swallowing(Plain()),
    "compiled wrapper": lambda: torch.compile(Wrapper(Plain()), backend="eager"),
    "stacked LSTM": as_written.StackedLSTM,
    "numbers of tokens": as_written.Words,
    "convolution with a cache": as_written.CachedConv,
    "attention to a window": as_written.WindowAttention,
    "bfloat16 weights": lambda: as_written.Words().bfloat16(),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_modules_pass(name: str) -> None:
    model = SOUND[name]()
    options: dict[str, Any] = {}
    if name == "bfloat16 weights":
        options["initial_state"] = lambda rows: torch.zeros(rows, 4, dtype=torch.bfloat16)
    words = name in ("numbers of tokens", "bfloat16 weights")
    report = check_streaming(model, WORDS if words else X, raises=False, **options)
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("cls", "law", "message"),
    [
        (as_written.OneBuffer, "results are left alone", "state alone.*another session runs.*return a clone"),
        (as_written.OneOutput, "results are left alone", "step 0 on.* in output .*another session runs"),
        (as_written.ViewOfInput, "results are left alone", "state is a view of the input; keep a clone"),
        (as_written.Forgetful, "chunks = whole", "rows 0, 1, 2 differ from step 1 on; largest difference .*e-0"),
        (as_written.VeryQuietlyForgetful, "chunks = whole", "rows 0, 1, 2 differ from step 1 on; largest difference .*e-1"),
        (as_written.ForgetfulOscillators, "chunks = whole", "rows 0, 1, 2 differ"),
        (as_written.PositionsOfTheCall, "chunks = whole", "does not cross the boundary"),
        (as_written.PaddedConv, "chunks = whole", "does not cross the boundary"),
        (as_written.NormalisedOverTime, "the future changes nothing", "it sees the future"),
        (as_written.TimeFirst, "strangers change nothing", "a leak across rows"),
        (as_written.HalfState, "chunks = whole", "does not cross the boundary"),
        (as_written.OfItsRow, "a row alone = among strangers", "depends on its batch"),
        (as_written.ResetOfTheCall, "a reset restarts exactly its rows", "something of the old state survives"),
        (as_written.MultipliedReset, "a reset restarts exactly its rows", "its state is NaN.*NaN times 0 is NaN"),
        (as_written.MultipliedPause, "an inactive row keeps its state to the bit", "its input is NaN"),
    ],
)
def test_faults_are_found(cls: type[nn.Module], law: str, message: str) -> None:
    report = check_streaming(cls(), X, raises=False)
    found = {failure.law: failure.message for failure in report.failures}
    assert law in found, str(report)
    assert re.search(message, found[law]), found[law]


def test_which_flags_a_wrapper_takes() -> None:
    assert not check_streaming(Wrapper(Flagged()), X).skipped.keys() - {"step by step = whole"}
    report = check_streaming(Swallowing(Flagged()), X)
    assert "'reset' changes nothing: name it" in report.skipped["a reset restarts exactly its rows"]
    assert "takes no 'reset'" in check_streaming(Wrapper(Plain()), X).skipped["a reset restarts exactly its rows"]
    broken = check_streaming(Wrapper(as_written.ResetOfTheCall()), X, raises=False)
    assert [failure.law for failure in broken.failures] == ["a reset restarts exactly its rows"]


class NoFloat64(TorchDispatchMode):
    """A device without float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, torch.Tensor) and each.dtype in (torch.float64, torch.complex128):
                raise TypeError("the device has no float64")
        return result


@pytest.mark.parametrize("name", ["flags", "complex state", "attention to a window"])
def test_devices_without_float64(name: str) -> None:
    with NoFloat64():
        with pytest.raises(TypeError):
            X.double()
        report = check_streaming(SOUND[name](), X, raises=False)
        broken = check_streaming(as_written.Forgetful(), X, raises=False)
    assert report.ok, str(report)
    assert not broken.ok


@pytest.mark.parametrize(
    ("one", "other", "size"),
    [
        ([1 + 1j], [1 + 99j], 98.0),
        ([1 + 1j], [1 + 1j], None),
        ([2**60], [2**60 + 1], 1.0),
        ([True], [False], 1.0),
        ([1e-6], [2e-6], 1e-6),
        ([float("inf")], [float("inf")], None),
        ([float("nan")], [1.0], float("inf")),
        ([complex("nan")], [complex("nan")], None),
    ],
)
def test_differences(one: list[Any], other: list[Any], size: float | None) -> None:
    difference = compare(((), torch.tensor([one])), ((), torch.tensor([other])), 1e-4)
    assert (difference and difference.size) == (size if size is None else pytest.approx(size))
