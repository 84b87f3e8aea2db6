"""Recurrent modules as people write them, for `check_streaming`: sound ones, and others with one fault each."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 4


class Plain(nn.Module):
    """A GRU with its state batch-first."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def initial_state(self, batch_size: int) -> Any:
        return torch.zeros(batch_size, WIDTH)

    def forward(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        y, state = self.gru(x, state[None].contiguous())
        return y, state[0]


# --- sound


class Quiet(Plain):
    """Says little, and remembers."""

    def forward(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        y, state = super().forward(x, state)
        return 1e-5 * y, state


class Oscillators(nn.Module):
    """A linear recurrence with a complex state."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.polar(torch.full((WIDTH,), 0.9), torch.arange(float(WIDTH))))

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, WIDTH, dtype=torch.cfloat)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        ys = []
        for step in x.unbind(1):
            state = self.rate * state + step
            ys.append(state.real)
        return torch.stack(ys, 1), state


class Flagged(Plain):
    """Takes both flags."""

    def forward(self, x: Tensor, state: Any, reset: Any = None, active: Any = None) -> tuple[Any, Any]:
        ys = []
        for t in range(x.shape[1]):
            if reset is not None:
                state = self.restart(state, reset[:, t, None])
            y, following = super().forward(x[:, t : t + 1], state)
            if active is not None:
                y = torch.where(active[:, t, None, None], y, 0.0)
                following = torch.where(active[:, t, None], following, state)
            ys.append(y)
            state = following
        return torch.cat(ys, 1), state

    def restart(self, state: Tensor, rows: Tensor) -> Tensor:
        return torch.where(rows, 0.0, state)


class Wrapper(nn.Module):
    """Hands on whatever it is given."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def initial_state(self, batch_size: int) -> Any:
        return self.inner.initial_state(batch_size)

    def forward(self, x: Tensor, state: Any, **kwargs: Any) -> tuple[Any, Any]:
        return self.inner(x, state, **kwargs)


class Swallowing(Wrapper):
    """Takes whatever it is given, and hands nothing on."""

    def forward(self, x: Tensor, state: Any, **kwargs: Any) -> tuple[Any, Any]:
        return self.inner(x, state)


class StackedLSTM(nn.Module):
    """Two layers, their states in a dict, with a learned first one."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True)
        self.first = nn.Parameter(0.1 * torch.ones(1, 2, WIDTH))

    def initial_state(self, batch_size: int) -> Any:
        first = self.first.expand(batch_size, -1, -1)
        return {"hidden": first, "cell": first, "unused": None}

    def forward(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        y, (h, c) = self.lstm(x, tuple(state[name].transpose(0, 1).contiguous() for name in ("hidden", "cell")))
        return y, {"hidden": h.transpose(0, 1), "cell": c.transpose(0, 1), "unused": None}


class Words(Plain):
    """Gets the numbers of tokens, [B, T]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, WIDTH)

    def forward(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        return super().forward(self.embedding(x), state)


@dataclass
class Past:
    """The last inputs, and how many there were."""

    inputs: Tensor
    seen: Tensor


class CachedConv(nn.Module):
    """A causal convolution that keeps the inputs which the next call needs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3)

    def initial_state(self, batch_size: int) -> Past:
        return Past(torch.zeros(batch_size, 2, WIDTH), torch.zeros(batch_size, dtype=torch.long))

    def forward(self, x: Tensor, state: Past) -> tuple[Any, Past]:
        joined = torch.cat([state.inputs, x], 1)
        y = self.conv(joined.transpose(1, 2)).transpose(1, 2)
        return y, Past(joined[:, -2:], state.seen + x.shape[1])


class WindowAttention(nn.Module):
    """Attends to the last three inputs; before the first one there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(batch_size, 3, WIDTH), torch.zeros(batch_size, 3, dtype=torch.bool)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
        window, there = state
        ys = []
        for step in x.unbind(1):
            window = torch.cat([window[:, 1:], step[:, None]], 1)
            there = torch.cat([there[:, 1:], there.new_ones(len(there), 1)], 1)
            ys.append(self.attention(step[:, None], window, window, key_padding_mask=~there)[0][:, 0])
        return torch.stack(ys, 1), (window, there)


# --- with one fault each


class OneBuffer(Plain):
    """All sessions share one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = torch.zeros(9, WIDTH)

    @torch.no_grad()
    def forward(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        y, state = super().forward(x, state)
        self.buffer[: len(x)] = state
        return y, self.buffer[: len(x)]


class OneOutput(Plain):
    """Writes all outputs into one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = torch.zeros(9, 99, WIDTH)

    @torch.no_grad()
    def forward(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        y, state = super().forward(x, state)
        self.outputs[: len(x), : x.shape[1]] = y
        return self.outputs[: len(x), : x.shape[1]], state


class ViewOfInput(nn.Module):
    """Compares each input with the last one, of which its state is a view."""

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, WIDTH)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        before = torch.cat([state[:, None], x[:, :-1]], 1)
        return x - before, x[:, -1]


class Forgetful(Plain):
    """Starts afresh at each call, and says little."""

    size = 1e-5

    def forward(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        y, _ = self.gru(x)
        return self.size * y, state


class VeryQuietlyForgetful(Forgetful):
    """The same, and says nearly nothing."""

    size = 1e-12


class ForgetfulOscillators(Oscillators):
    """Keeps the real part of its complex state."""

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = super().forward(x, state)
        return y, state.real + 0j


class PositionsOfTheCall(Plain):
    """Numbers the steps from 0 at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(99, WIDTH))

    def forward(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        return super().forward(x + self.positions[: x.shape[1]], state)


class PaddedConv(Plain):
    """Pads its convolution with zeros at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=2)

    def forward(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        return super().forward(self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2), state)


class NormalisedOverTime(Plain):
    """Subtracts the mean over all steps of the call."""

    def forward(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        return super().forward(x - x.mean(1, keepdim=True), state)


class TimeFirst(Plain):
    """Forgot `batch_first`: what is the row is taken for the step."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH)

    def forward(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        y, _ = self.gru(x)
        return y, state


class HalfState(Plain):
    """Keeps its state in half the bits."""

    def forward(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        y, state = super().forward(x, state.float())
        return y, state.bfloat16()

    def initial_state(self, batch_size: int) -> Any:
        return torch.zeros(batch_size, WIDTH, dtype=torch.bfloat16)


class OfItsRow(Plain):
    """Has something of its own for each row of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.randn(9, WIDTH))

    def forward(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        return super().forward(x + self.own[: len(x), None], state)


class ResetOfTheCall(Flagged):
    """Looks at the resets of a call's first step only."""

    def forward(self, x: Tensor, state: Any, reset: Any = None, active: Any = None) -> tuple[Any, Any]:
        first = None if reset is None else reset & (torch.arange(x.shape[1]) == 0)
        return super().forward(x, state, first, active)


class MultipliedReset(Flagged):
    """Multiplies what is reset by 0, and so a NaN stays."""

    def restart(self, state: Tensor, rows: Tensor) -> Tensor:
        return state * (~rows)


class MultipliedPause(Flagged):
    """Multiplies what pauses by 0."""

    def forward(self, x: Tensor, state: Any, reset: Any = None, active: Any = None) -> tuple[Any, Any]:
        if active is None:
            return super().forward(x, state, reset)
        ys = []
        for t in range(x.shape[1]):
            y, following = super().forward(x[:, t : t + 1], state, None if reset is None else reset[:, t : t + 1])
            here = active[:, t, None].float()
            ys.append(y * here[:, None])
            state = here * following + (1 - here) * state
        return torch.cat(ys, 1), state
