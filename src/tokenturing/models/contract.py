"""The contracts: what every model that streams promises, and what every recurrent model here keeps besides."""

from collections import namedtuple
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from tokenturing import state as states
from tokenturing.checkpoint.hub import HubMixin
from tokenturing.errors import OptionError, ShapeError, a
from tokenturing.models.scan import prepare_one, scan, step_by_step, without_absent


class Input(NamedTuple):
    """One tensor that a step takes."""

    shape: tuple[int | str, ...]
    """without B; a letter where any number fits"""
    dtype: torch.dtype
    optional: bool = False


@runtime_checkable
class StreamModel(Protocol):
    """A model of any task whose state is a value: what export, sessions and servers need to know of it.

    A step takes the tensor itself where the signature has one that is not optional, and else a NamedTuple of those; optional
    ones come by name. Outputs are a tensor or a NamedTuple of tensors [B, ...].
    """

    growing: frozenset[str]
    """leaves of the state that grow with the stream, by dotted name; empty for a bounded model"""

    def initial_state(self, rows: int, /) -> Any:
        """The state of so many rows before their first step: a NamedTuple of batch-first tensors."""
        ...

    def step(self, inputs: Any, state: Any, /) -> tuple[Any, Any]:
        """One step of B rows -> outputs and the next state."""
        ...

    def signature(self) -> dict[str, Input]:
        """What a step takes, by name."""
        ...


@cache
def _inputs_type(names: tuple[str, ...]) -> Any:
    return namedtuple("Inputs", names)  # type: ignore[misc]


def step_by_name(model: StreamModel, inputs: Mapping[str, Any], state: Any) -> tuple[Any, Any]:
    """`model.step` with its inputs by the names of its signature; optional ones may be left out.

    Raises:
        OptionError: a name is missing or unknown.
    """
    signature = model.signature()
    needed = tuple(name for name, one in signature.items() if not one.optional)
    if not set(needed) <= set(inputs) <= set(signature):
        raise OptionError(f"a step takes {', '.join(signature)}: got {', '.join(inputs) or 'nothing'}")
    optional = {name: part for name, part in inputs.items() if name not in needed}
    if len(needed) == 1:
        return model.step(inputs[needed[0]], state, **optional)
    return model.step(_inputs_type(needed)(*(inputs[name] for name in needed)), state, **optional)


class RecurrentModel(HubMixin):
    """A sequence model whose state is a value.

    Subclasses give `initial_state` and `advance`, and may give `prepare`. They set `width` (D), `output_tokens` (R)
    and, where it is fixed, `input_tokens` (N). One whose steps can run side by side gives `segment` too.
    """

    width: int
    output_tokens: int
    input_tokens: int | None = None
    growing: frozenset[str] = frozenset()
    longest_segment: int | None = None
    """steps that `segment` is given at most; None: as many as there are"""

    def initial_state(self, batch_size: int) -> Any:
        """The state of `batch_size` rows before their first step: a NamedTuple of batch-first tensors."""
        raise NotImplementedError

    def signature(self) -> dict[str, Input]:
        """One step's tokens x [B, N, D], and which of them are there."""
        tokens = "N" if self.input_tokens is None else self.input_tokens
        like = next(self.parameters(), torch.empty(0))
        return {
            "x": Input((tokens, self.width), like.dtype),
            "token_mask": Input((tokens,), torch.bool, optional=True),
        }

    def prepare(
        self, x: Tensor, token_mask: Tensor | None, state: Any, reset: Tensor | None, active: Tensor | None
    ) -> tuple[Any, dict[str, Tensor]]:
        """What can be said of T steps before any of them is taken.

        Args:
            x: [B, T, N, D]; absent tokens are zeros.
            token_mask: bool [B, T, N] or None.
            state: before the first of these steps.
            reset: bool [B, T] or None.
            active: bool [B, T] or None.

        Returns:
            What `advance` gets of each step, a (nested) tuple of tensors [B, T, ...]; and those leaves of the state after the
            last step that the inputs alone decide, by name.
        """
        return (x,) if token_mask is None else (x, token_mask), {}

    def advance(self, prepared: Any, state: Any) -> tuple[Tensor, Any]:
        """One step on what `prepare` returned for it -> y [B, R, D] and the next state."""
        raise NotImplementedError

    def advance_with_terms(self, prepared: Any, state: Any) -> tuple[Tensor, Any, dict[str, Tensor]]:
        """`advance`, and what the step adds to the loss by itself: terms [B] by name."""
        return *self.advance(prepared, state), {}

    def segment(
        self,
        state: Any,
        x: Tensor,
        token_mask: Tensor | None,
        reset: Tensor | None,
        active: Tensor | None,
        terms: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Any]:
        """T steps in a row, with arguments as `prepare` and `forward` have them -> y [B, T, R, D] and the last state."""
        return step_by_step(self, state, x, token_mask, reset, active, terms)

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
        prepared, known = prepare_one(self, x, token_mask, state)
        y, following = self.advance(prepared, state)
        return y, following._replace(**known) if known else following

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
        terms: dict[str, Tensor] | None = None,
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
            terms: where a dict is given, what the model itself would have a loss add is added to it by name: scalars that have
                gradients, summed over the active steps and averaged over rows. The machine with a `write_cost` has "write"; the
                other models leave the dict as it is. The terms of chunks sum to those of the whole.

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
            without_absent(x, token_mask),
            state,
            reset=reset,
            active=active,
            token_mask=token_mask,
            bptt=bptt,
            recompute=recompute,
            terms=terms,
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
            raise ShapeError(f"state is {a(type(state))}: expected what initial_state() or a step returned")
        if states.rows(state) != x.shape[0]:
            raise ShapeError(
                f"state has {states.rows(state)} rows and x has {x.shape[0]}: expected the same B; "
                "take rows with tokenturing.state.take or begin with initial_state(B)"
            )


def _check_flags(name: str, flags: Tensor | None, shape: torch.Size) -> None:
    if flags is None:
        return
    if flags.dtype != torch.bool or flags.shape != shape:
        raise ShapeError(f"{name} has shape {list(flags.shape)} and type {flags.dtype}: expected bool {list(shape)}")
