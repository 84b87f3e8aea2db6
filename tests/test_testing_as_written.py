"""check_streaming on modules as people write them: sound ones pass, and each fault is found under its law."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tokenturing.testing import check_streaming
from tokenturing.testing.trees import compare

WIDTH = 4
INPUTS = torch.randn(3, 12, WIDTH, generator=torch.Generator().manual_seed(0))


class Recurrent(nn.Module):
    """A GRU whose state is its hidden vector, rows first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, WIDTH)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.gru(x, h[None].contiguous())
        return y, h[0]


class Gentle(Recurrent):
    """All of it is small."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = super().forward(x, 1e6 * h)
        return 1e-6 * y, 1e-6 * h


class Wrapped(nn.Module):
    """Passes on whatever it gets to one that knows no flags."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Recurrent()
        self.initial_state = self.inner.initial_state

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.inner(*args, **kwargs)


class Swallowing(Recurrent):
    """Takes anything by name and heeds none of it."""

    def forward(self, x: Tensor, h: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        return super().forward(x, h)


class Lstm(Recurrent):
    """The state is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:  # type: ignore[override]
        return {"h": torch.zeros(batch_size, WIDTH), "c": torch.zeros(batch_size, WIDTH)}

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        y, (h, c) = self.lstm(x, (state["h"][None], state["c"][None]))
        return y, {"h": h[0], "c": c[0]}


class Convolution(Recurrent):
    """A causal convolution; the state is the last inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(WIDTH, WIDTH, 3)

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, 2, WIDTH)

    def forward(self, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([last, x], dim=1)
        return self.convolution(x.transpose(1, 2)).transpose(1, 2), x[:, -2:].clone()


DECAY = torch.polar(torch.full((WIDTH,), 0.9), torch.arange(float(WIDTH)))


def linear_recurrent_unit(x: Tensor, h: Tensor, *, keep: float = 1.0) -> tuple[Tensor, Tensor]:
    """A diagonal linear recurrence with a complex state; `keep` of its imaginary part crosses from call to call."""
    h = torch.complex(h.real, keep * h.imag)
    outputs = []
    for t in range(x.shape[1]):
        h = DECAY * h + x[:, t]
        outputs.append(h.real)
    return torch.stack(outputs, dim=1), h


def complex_zeros(batch_size: int) -> Tensor:
    return torch.zeros(batch_size, WIDTH, dtype=torch.complex64)


SOUND: dict[str, Callable[[], nn.Module]] = {
    "gru": Recurrent,
    "gentle": Gentle,
    "compiled": lambda: torch.compile(Recurrent(), backend="eager"),  # type: ignore[dict-item, return-value]
    "wrapped": Wrapped,
    "swallowing": Swallowing,
    "lstm": Lstm,
    "convolution": Convolution,
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_modules_pass(name: str) -> None:
    report = check_streaming(SOUND[name](), INPUTS)
    assert "chunks = whole" in report.passed
    assert "a state is a value" in report.passed
    assert "a reset restarts exactly its rows" in report.skipped


def test_a_complex_state_passes_and_a_lost_imaginary_part_does_not() -> None:
    assert check_streaming(linear_recurrent_unit, INPUTS, initial_state=complex_zeros)
    report = check_streaming(
        lambda x, h: linear_recurrent_unit(x, h, keep=0.0), INPUTS, initial_state=complex_zeros, raises=False
    )
    assert "chunks = whole" in [failure.law for failure in report.failures]


def test_complex_inputs_have_gradients_too() -> None:
    inputs = torch.complex(INPUTS, INPUTS.flip(1))

    def call(x: Tensor, h: Tensor, cut: bool = False) -> tuple[Tensor, Tensor]:
        outputs = []
        for t in range(x.shape[1]):
            h = DECAY * h + x[:, t]
            outputs.append(h)
        return torch.stack(outputs, dim=1), h.detach() if cut else h

    law = "gradients of chunks = gradients of the whole"
    assert law in check_streaming(call, inputs, initial_state=complex_zeros).passed
    report = check_streaming(lambda x, h: call(x, h, cut=True), inputs, initial_state=complex_zeros, raises=False)
    assert law in [failure.law for failure in report.failures]


class OneBuffer(Recurrent):
    """All sessions get views of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.GRUCell(WIDTH, WIDTH), torch.zeros(9, WIDTH)

    @torch.no_grad()
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        outputs = [h := self.cell(x[:, t], h) for t in range(x.shape[1])]
        self.last[: len(x)] = h
        return torch.stack(outputs, dim=1), self.last[: len(x)]


class LastInput(Recurrent):
    """The state is a view of the inputs."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        before = torch.cat([h[:, None], x[:, :-1]], dim=1)
        return x - before, x[:, -1]


class QuietlyForgetful(Recurrent):
    """Begins afresh at each call, with outputs far below 1."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return 1e-5 * self.gru(x)[0], h


class TimeFirst(Recurrent):
    """Takes rows for steps."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH)

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, 12, WIDTH)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.gru(x, h[:1, : x.shape[1]].contiguous())
        return y, h.expand(len(x), -1, -1)


class InPlace(Recurrent):
    """Works in the tensor that it was given."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        outputs = [h.mul_(0.5).add_(x[:, t]).clone() for t in range(x.shape[1])]
        return torch.stack(outputs, dim=1), h


class RunningMean(Recurrent):
    """Normalises by what it has seen of all sessions so far."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(WIDTH)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 1))
        return super().forward(x - self.mean, h)


class Padded(Convolution):
    """Pads each call with zeros in place of the last inputs."""

    def forward(self, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x, torch.zeros_like(last))


BROKEN: dict[type[Recurrent], str] = {
    OneBuffer: "a state is a value",
    LastInput: "a state is a value",
    QuietlyForgetful: "chunks = whole",
    TimeFirst: "strangers change nothing",
    InPlace: "state and inputs are left alone",
    RunningMean: "same call, same result",
    Padded: "chunks = whole",
}


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_broken_modules_do_not(cls: type[Recurrent]) -> None:
    report = check_streaming(cls(), INPUTS, raises=False)
    assert BROKEN[cls] in [failure.law for failure in report.failures]


def test_differences_of_complex_numbers_and_of_small_ones() -> None:
    one, other = torch.tensor([[1 + 1j]]), torch.tensor([[1 + 99j]])
    difference = compare(((), one), ((), other), 1e-4)
    assert difference is not None
    assert difference.size == pytest.approx(98)
    assert compare(((), one), ((), one + 1e-6), 1e-4) is None
    small = torch.full((1, 2), 1e-6)
    assert compare(((), small), ((), 2 * small), 1e-4) is not None
    large = torch.ones(1, 2)
    noise = {"large": large, "small": 1e-9 * large}
    assert compare(((), noise), ((), {"large": large, "small": -1e-9 * large}), 1e-4) is None, "it is rounding beside the other"
