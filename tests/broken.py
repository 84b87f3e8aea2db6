"""One sound little model, and the same with one fault each: the controls that every law must catch."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenturing import state as states
from tokenturing.checkpoint import register
from tokenturing.models.contract import Input, RecurrentModel
from tokenturing.models.scan import scan


class SoundState(NamedTuple):
    """What the sound model remembers."""

    memory: Tensor
    """[B, D]"""


@register
class Sound(RecurrentModel):
    """memory = tanh(A mean of the tokens that are present + B memory); y = C memory."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.config = {"width": width}
        self.width, self.output_tokens = width, 1
        self.input = nn.Linear(width, width)
        self.recurrent = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def initial_state(self, batch_size: int) -> SoundState:
        return SoundState(self.out.weight.new_zeros(batch_size, self.width))

    def prepare(self, x: Tensor, token_mask: Tensor | None, *others: Any) -> tuple[tuple[Tensor], dict[str, Tensor]]:
        if token_mask is None:
            return (x.mean(-2),), {}
        present = token_mask.unsqueeze(-1).to(x.dtype)
        return ((x * present).sum(-2) / present.sum(-2).clamp(min=1),), {}

    def advance(self, prepared: tuple[Tensor], state: SoundState) -> tuple[Tensor, SoundState]:
        memory = (self.input(prepared[0]) + self.recurrent(state.memory)).tanh()
        return self.out(memory).unsqueeze(-2), SoundState(memory)


class LeakyMean(Sound):
    """Adds the mean over rows."""

    def advance(self, prepared: tuple[Tensor], state: SoundState) -> tuple[Tensor, SoundState]:
        y, state = super().advance(prepared, state)
        return y + 0.1 * y.mean(0, keepdim=True), state


class LeakyNorm(Sound):
    """Normalises over rows, as batch normalisation does in training."""

    def __init__(self, width: int = 8):
        super().__init__(width)
        self.norm = nn.BatchNorm1d(width, track_running_stats=False)

    def prepare(self, x: Tensor, token_mask: Tensor | None, *others: Any) -> tuple[tuple[Tensor], dict[str, Tensor]]:
        (mean,), known = super().prepare(x, token_mask, *others)
        return (self.norm(mean.reshape(-1, self.width)).view_as(mean),), known


class Hidden(Sound):
    """Keeps its last memory in the module."""

    last: Tensor | None = None

    def advance(self, prepared: tuple[Tensor], state: SoundState) -> tuple[Tensor, SoundState]:
        if self.last is not None and self.last.shape == state.memory.shape:
            state = SoundState(self.last)
        y, following = super().advance(prepared, state)
        self.last = following.memory.detach()
        return y, following


class Mutating(Sound):
    """Writes the new memory into the old one's storage."""

    def advance(self, prepared: tuple[Tensor], state: SoundState) -> tuple[Tensor, SoundState]:
        y, following = super().advance(prepared, state)
        state.memory.data.copy_(following.memory)
        return y, following


class LateReset(Sound):
    """Resets one step too late."""

    def forward(self, x: Tensor, state: Any = None, reset: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        late = None if reset is None else nn.functional.pad(reset, (1, 0))[:, :-1]
        return super().forward(x, state, late, *args, **kwargs)


class BroadReset(Sound):
    """Resets all rows when one is to be."""

    def forward(self, x: Tensor, state: Any = None, reset: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        broad = None if reset is None else reset.any(0, keepdim=True).expand_as(reset)
        return super().forward(x, state, broad, *args, **kwargs)


class ZeroReset(Sound):
    """Multiplies the memory by zero instead of replacing it: a NaN survives."""

    def forward(self, x: Tensor, state: Any = None, reset: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        assert state is not None
        assert not args
        outputs = []
        for t in range(x.shape[1]):
            if reset is not None:
                state = SoundState(state.memory * (~reset[:, t, None]).to(x.dtype))
            y, state = super().forward(x[:, t : t + 1], state, **kwargs)
            outputs.append(y)
        return torch.cat(outputs, 1), state


class ZeroMask(Sound):
    """Takes absent tokens for zeros, which count in the mean."""

    def prepare(self, x: Tensor, token_mask: Tensor | None, *others: Any) -> tuple[tuple[Tensor], dict[str, Tensor]]:
        return (x.mean(-2),), {}


class LeakyMask(Sound):
    """Multiplies absent tokens by zero: NaN times zero is NaN."""

    def forward(
        self,
        x: Tensor,
        state: Any = None,
        reset: Any = None,
        active: Any = None,
        token_mask: Tensor | None = None,
        **options: Any,
    ) -> Any:
        state = self.initial_state(x.shape[0]) if state is None else state
        every = {"bptt": None, "recompute": None, **options}
        return scan(self, x, state, reset=reset, active=active, token_mask=token_mask, **every)


class Decaying(Sound):
    """Takes an inactive step for a step with zeros for input: the memory decays."""

    def forward(
        self,
        x: Tensor,
        state: Any = None,
        reset: Any = None,
        active: Tensor | None = None,
        token_mask: Tensor | None = None,
        **options: Any,
    ) -> Any:
        if active is None:
            return super().forward(x, state, reset, None, token_mask, **options)
        x = torch.where(active[:, :, None, None], x, 0.0)
        y, state = super().forward(x, state, reset, None, token_mask, **options)
        return torch.where(active[:, :, None, None], y, 0.0), state


class LoudInactive(Sound):
    """Keeps an inactive row's state, but speaks for it."""

    def forward(
        self, x: Tensor, state: Any = None, reset: Any = None, active: Tensor | None = None, *args: Any, **options: Any
    ) -> Any:
        y, following = super().forward(x, state, reset, active, *args, **options)
        return (y if active is None else torch.where(active[:, :, None, None], y, 1.0)), following


class Prophet(Sound):
    """Sees the next step."""

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Any:
        return super().forward(x + x.roll(-1, 1) if x.dim() == 4 else x, *args, **options)


class Careless(Sound):
    """Takes whatever comes for a state."""

    def _checked(self, state: Any, rows: int) -> Any:
        return self.initial_state(rows) if state is None else state


class Growing(Careless):
    """Keeps every memory there was."""

    def initial_state(self, batch_size: int) -> SoundState:
        return SoundState(self.out.weight.new_zeros(batch_size, 1, self.width))

    def advance(self, prepared: tuple[Tensor], state: SoundState) -> tuple[Tensor, SoundState]:
        y, following = super().advance(prepared, SoundState(state.memory.mean(1)))
        return y, SoundState(torch.cat([state.memory, following.memory.unsqueeze(1)], 1))


class Boastful(Sound):
    """Declares a leaf to grow that does not."""

    growing = frozenset({"memory"})


class Misnaming(Growing):
    """Grows in another leaf than it declares."""

    growing = frozenset({"cache"})


class Narrow(Sound):
    """Declares any number of tokens and takes three."""

    def step(self, x: Tensor, state: Any, **options: Any) -> Any:
        assert x.shape[1] == 3
        return super().step(x, state, **options)


class Lying(Sound):
    """Declares tokens that are wider than those it takes."""

    def signature(self) -> dict[str, Input]:
        return {**super().signature(), "x": Input(("N", self.width + 1), torch.float64)}


class Unmasked(Sound):
    """Declares a mask of tokens that it does not take."""

    def step(self, x: Tensor, state: Any, *, token_mask: None = None) -> Any:
        assert token_mask is None
        return super().step(x, state)


class RowsLast(Sound):
    """Keeps its rows along the last axis."""

    def initial_state(self, batch_size: int) -> SoundState:
        return SoundState(self.out.weight.new_zeros(self.width, batch_size))

    def step(self, x: Tensor, state: SoundState, **options: Any) -> Any:
        y, following = super().step(x, SoundState(state.memory.T), **options)
        return y, SoundState(following.memory.T)


class Nameless(Careless):
    """Has a state without names."""

    def initial_state(self, batch_size: int) -> Any:
        return tuple(super().initial_state(batch_size))

    def step(self, x: Tensor, state: Any, **options: Any) -> Any:
        y, following = super().step(x, SoundState(*state), **options)
        return y, tuple(following)


class Detaching(Sound):
    """Cuts gradients where a call begins."""

    def forward(self, x: Tensor, state: Any = None, *args: Any, **options: Any) -> Any:
        return super().forward(x, None if state is None else states.detach(state), *args, **options)


class Deaf(Sound):
    """Does not hear of bptt and recompute."""

    def forward(self, *args: Any, bptt: int | None = None, recompute: int | None = None, **options: Any) -> Any:
        return super().forward(*args, **options)


class Forgetful(Sound):
    """Forgets its values too where gradients are cut."""

    def forward(self, x: Tensor, state: Any = None, *args: Any, bptt: int | None = None, **flags: Any) -> Any:
        outputs = []
        for start in range(0, x.shape[1], bptt or x.shape[1]):
            part = slice(start, start + (bptt or x.shape[1]))
            own: dict[str, Any] = {name: flag[:, part] for name, flag in flags.items()}
            y, following = super().forward(x[:, part], state, *args, **own)
            outputs.append(y)
        return torch.cat(outputs, 1), following


class Branching(Sound):
    """Looks at a value in Python, which no compiler can follow."""

    def advance(self, prepared: tuple[Tensor], state: SoundState) -> tuple[Tensor, SoundState]:
        if float(prepared[0].sum()) > 0:
            return super().advance(prepared, state)
        y, state = super().advance(prepared, state)
        return -y, state


class OneBatch(Sound):
    """Works for the batch size it was built with only."""

    def advance(self, prepared: tuple[Tensor], state: SoundState) -> tuple[Tensor, SoundState]:
        y, state = super().advance(prepared, state)
        return y.reshape(3, 1, self.width), state


@register
class Unsaved(Sound):
    """Has a number that is neither in its config nor among its weights."""

    def __init__(self, width: int = 8):
        super().__init__(width)
        self.secret = float(torch.rand(()))

    def advance(self, prepared: tuple[Tensor], state: SoundState) -> tuple[Tensor, SoundState]:
        y, state = super().advance(prepared, state)
        return y + self.secret, state


def make(cls: type[Sound], *, dtype: torch.dtype = torch.float64) -> Sound:
    """A model of one of these classes."""
    torch.manual_seed(1)
    return cls().to(dtype)
