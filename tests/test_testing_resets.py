"""`check_streaming` on NaN, on resets as people write them, and on modules of mixed types."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import GROWING, build, inputs

from tokenturing.testing import StreamingError, check_streaming

X = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
INACTIVE = "a reset in an inactive step counts"
RESET = "a reset restarts exactly its rows"


class Leaky(nn.Module):
    """h = 0.8 h + x, with both flags; a sound module as people write it."""

    resets_first = True

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.ones(batch_size, 4)

    def restart(self, state: Tensor, reset: Tensor, t: int) -> Tensor:
        return torch.where(reset.unsqueeze(1), self.initial_state(len(state)).to(state), state)

    def forward(self, x: Tensor, state: Tensor, reset: Tensor | None = None, active: Tensor | None = None) -> Any:
        outputs = []
        for t in range(x.shape[1]):
            before = state
            if reset is not None:
                state = self.restart(state, reset[:, t], t)
            kept = state if self.resets_first else before
            state = (0.8 * state + x[:, t]).to(state.dtype)
            y = state.to(x.dtype)
            if active is not None:
                state = torch.where(active[:, t, None], state, kept)
                y = torch.where(active[:, t, None], y, 0.0)
            outputs.append(y)
        return torch.stack(outputs, 1), state


class IgnoresResetsInPauses(Leaky):
    """A row that pauses keeps the state from before the reset."""

    resets_first = False


class Multiplies(Leaky):
    """Resets by multiplication: NaN survives."""

    def restart(self, state: Tensor, reset: Tensor, t: int) -> Tensor:
        return state * (~reset).unsqueeze(1) + self.initial_state(len(state)) * reset.unsqueeze(1)


class MultipliesLater(Multiplies):
    """The same but for the first step of a call, where it selects."""

    def restart(self, state: Tensor, reset: Tensor, t: int) -> Tensor:
        return (Multiplies if t else Leaky).restart(self, state, reset, t)


class AllNaN(Leaky):
    """Every output is NaN."""

    def forward(self, x: Tensor, state: Tensor, reset: Tensor | None = None, active: Tensor | None = None) -> Any:
        y, state = super().forward(x, state, reset, active)
        return torch.where(y == 0, y, torch.nan), state


class NaNState(Leaky):
    """Its state is NaN throughout."""

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.full((batch_size, 4), torch.nan)

    def forward(self, x: Tensor, state: Tensor, **flags: Any) -> Any:
        return x, state


def failures(model: nn.Module, x: Tensor = X, **options: Any) -> dict[str, str]:
    report = check_streaming(model, x, raises=False, **options)
    return {failure.law: failure.message for failure in report.failures}


def test_a_sound_one_passes() -> None:
    report = check_streaming(Leaky(), X)
    assert INACTIVE in report.passed
    assert "outputs are numbers" in report.passed


@pytest.mark.parametrize(
    ("cls", "law", "message"),
    [
        (
            IgnoresResetsInPauses,
            INACTIVE,
            r"row 2 differs from step 0 on.*reset in a step in which it is inactive: the",
        ),
        (Multiplies, RESET, r"row 0 differs from step 0 on.* state is NaN and is reset: replace it, NaN times 0"),
        (MultipliesLater, RESET, r"row 0 differs from step 4 on.* inputs before step 4 are NaN and it is reset there"),
        (AllNaN, "outputs are numbers", "output of row 0 is NaN from step 0 on, and the inputs are not"),
        (NaNState, "outputs are numbers", "state leaf '' is NaN throughout"),
    ],
)
def test_faults_of_resets_and_nan(cls: type[Leaky], law: str, message: str) -> None:
    found = failures(cls())
    assert list(found) == [law]
    assert re.search(message, found[law]), found[law]
    assert failures(cls(), skip=(law,)) == {}


def test_nan_is_not_looked_for_where_it_is_not_to_be() -> None:
    for cls in (Multiplies, MultipliesLater):
        assert failures(cls(), probe_nan=False) == {}
    x = X.clone()
    x[0, 3] = torch.nan
    report = check_streaming(Leaky(), x, raises=False)
    assert report.skipped["outputs are numbers"] == "the inputs hold NaN"


def test_without_pauses_there_is_nothing_to_say_of_them() -> None:
    class NoActive(Leaky):
        def forward(self, x: Tensor, state: Tensor, reset: Tensor | None = None) -> Any:  # type: ignore[override]
            return super().forward(x, state, reset)

    assert check_streaming(NoActive(), X).skipped[INACTIVE] == "the call takes no 'active'"


def test_one_step_is_enough_for_a_reset_in_a_pause() -> None:
    assert check_streaming(Leaky(), X[:, :1]).ok
    with pytest.raises(StreamingError, match="the calls after"):
        check_streaming(IgnoresResetsInPauses(), X[:, :1])


class Prefixed(nn.Module):
    """A running sum in float32 whatever comes in, all steps at once."""

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, 4)

    def forward(self, x: Tensor, state: Tensor) -> Any:
        sums = state.unsqueeze(1) + x.float().cumsum(1)
        return (sums * 1.1).to(x.dtype), sums[:, -1]


def test_the_state_may_be_coarser_than_the_inputs() -> None:
    x = torch.randn(3, 64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert check_streaming(Prefixed(), x).ok

    class Off(Prefixed):
        def forward(self, x: Tensor, state: Tensor) -> Any:
            y, state = super().forward(x, state)
            return y, state + 1e-2

    assert failures(Off(), x)


@pytest.mark.parametrize("name", ["LSTM", "MinGRU", "Retrieval", "gated-look-back", "write-concat"])
def test_ours_keep_the_laws_of_resets(name: str) -> None:
    model = build(name, dtype=torch.float32)
    report = check_streaming(model, inputs(model, 3, 6), grows=name in GROWING, raises=False)
    assert not report.failures
    assert INACTIVE in report.passed
