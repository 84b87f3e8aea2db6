"""The contract that every model here keeps: state in, state out, one step, one loop over time."""

from typing import Any

import torch
from torch import Tensor

from tokenturing import state as states
from tokenturing.checkpoint.hub import HubMixin
from tokenturing.errors import OptionError, ShapeError
from tokenturing.layers.look_back import Past, look_back
from tokenturing.models.scan import scan


class RecurrentModel(HubMixin):
    """A sequence model whose state is a value.

    Subclasses give `initial_state` and `advance`, and may give `prepare`. They set `width` (D), `output_tokens` (R)
    and, where it is fixed, `input_tokens` (N). One with a `look_back` of K steps has a state with the leaves of `Past`,
    `recent` [B, K, N, D] and `quiet` [B, N], which are kept for it, and gives `prepare_after` in place of `prepare`.
    """

    width: int
    output_tokens: int
    input_tokens: int | None = None
    look_back: int = 0
    never: float = 0.0
    """what the clock of an input place shows before its first step, where there is a look back"""

    def initial_state(self, batch_size: int) -> Any:
        """The state of `batch_size` rows before their first step: a NamedTuple of batch-first tensors."""
        raise NotImplementedError

    def prepare(self, x: Tensor, token_mask: Tensor | None) -> Any:
        """What does not depend on the state, for any number of steps at once.

        x [..., N, D] (absent tokens are zeros), token_mask bool [..., N] -> a tuple of tensors [..., ...].
        """
        return (x,) if token_mask is None else (x, token_mask)

    def prepare_after(self, past: Past, x: Tensor, token_mask: Tensor | None) -> Any:
        """`prepare` of a model that looks back, with what is known of the past at each step."""
        raise NotImplementedError

    def advance(self, prepared: Any, state: Any) -> tuple[Tensor, Any]:
        """One step on what `prepare` returned for it -> y [B, R, D] and the next state."""
        raise NotImplementedError

    def step(self, x: Tensor, state: Any, *, token_mask: Tensor | None = None) -> tuple[Tensor, Any]:
        """One step of the stream.

        Args:
            x: tokens [B, N, D].
            state: as `initial_state` or an earlier step returned it; it is not changed.
            token_mask: bool [B, N], false where a token is absent; None: all are present.

        Returns:
            y [B, R, D] and the next state.
        """
        self._check(x, state, token_mask, leading=("B",))
        return self.advance(*self.prepare_step(x, state, token_mask))

    def prepare_step(self, x: Tensor, state: Any, token_mask: Tensor | None) -> tuple[Any, Any]:
        """What `advance` needs for one step of x [B, N, D]: what `prepare` says of it, and the state that has seen it."""
        x = _without_absent(x, token_mask)
        if not self.look_back:
            return self.prepare(x, token_mask), state
        past, after = look_back(Past(state.recent, state.quiet), self.never, x.unsqueeze(1), None, None)
        here = Past(*(part.squeeze(1) for part in past))
        return self.prepare_after(here, x, token_mask), state._replace(**after._asdict())

    def forward(
        self,
        x: Tensor,
        state: Any = None,
        reset: Tensor | None = None,
        active: Tensor | None = None,
        token_mask: Tensor | None = None,
        *,
        bptt: int | None = None,
        recompute: int | None = None,
    ) -> tuple[Tensor, Any]:
        """T steps of the stream.

        Args:
            x: tokens [B, T, N, D].
            state: where to go on from; None: from the beginning.
            reset: bool [B, T]; where true, the row starts afresh before that step.
            active: bool [B, T]; where false, the row keeps its state to the bit and its output is zeros.
            token_mask: bool [B, T, N]; false where a token is absent. It gets no weight, whatever it holds.
            bptt: cut gradients every so many steps; the state goes on.
            recompute: hold only the states at every so many steps and compute the rest again on the way back:
                full backpropagation through T steps in the memory of a few.

        Returns:
            y [B, T, R, D] and the state after the last step.

        Raises:
            ShapeError: a tensor has another shape or type than said here.
        """
        if state is None:
            state = self.initial_state(x.shape[0] if x.dim() else 0)
        self._check(x, state, token_mask, leading=("B", "T"))
        for name, flags in (("reset", reset), ("active", active)):
            _check_flags(name, flags, x.shape[:2])
        for name, steps in (("bptt", bptt), ("recompute", recompute)):
            if steps is not None and steps < 1:
                raise OptionError(f"{name}={steps}: expected a number of steps of at least 1, or None")
        return scan(
            self,
            _without_absent(x, token_mask),
            state,
            reset=reset,
            active=active,
            token_mask=token_mask,
            bptt=bptt,
            recompute=recompute,
        )

    def _check(self, x: Tensor, state: Any, token_mask: Tensor | None, leading: tuple[str, ...]) -> None:
        expected = f"[{', '.join((*leading, 'N', 'D'))}] with D={self.width}"
        if self.input_tokens is not None:
            expected += f" and N={self.input_tokens}"
        if not x.is_floating_point():
            raise ShapeError(f"x has type {x.dtype}: expected floating-point tokens {expected}")
        fits = x.dim() == len(leading) + 2 and x.shape[-1] == self.width
        if not fits or (self.input_tokens is not None and x.shape[-2] != self.input_tokens):
            raise ShapeError(f"x has shape {list(x.shape)}: expected {expected}")
        if x.dim() == 4 and not x.shape[1]:
            raise ShapeError(f"x has shape {list(x.shape)}: expected at least one step (T >= 1)")
        _check_flags("token_mask", token_mask, x.shape[:-1])
        if not isinstance(state, tuple):
            raise ShapeError(f"state is a {type(state).__name__}: expected what initial_state() or a step returned")
        if states.rows(state) != x.shape[0]:
            raise ShapeError(
                f"state has {states.rows(state)} rows and x has {x.shape[0]}: expected the same B; "
                "take rows with tokenturing.state.take or begin with initial_state(B)"
            )


def _without_absent(x: Tensor, token_mask: Tensor | None) -> Tensor:
    """Zeros in place of absent tokens, so that what they held (NaN included) goes nowhere."""
    return x if token_mask is None else torch.where(token_mask.unsqueeze(-1), x, 0.0)


def _check_flags(name: str, flags: Tensor | None, shape: torch.Size) -> None:
    if flags is None:
        return
    if flags.dtype != torch.bool or flags.shape != shape:
        raise ShapeError(f"{name} has shape {list(flags.shape)} and type {flags.dtype}: expected bool {list(shape)}")
