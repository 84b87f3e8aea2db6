"""The contracts: what every model that streams promises, and what every recurrent model here keeps besides."""

from collections import namedtuple
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from tokenturing import state as states
from tokenturing.checkpoint.hub import HubMixin
from tokenturing.errors import OptionError, a
from tokenturing.layers.linear import autocast_available
from tokenturing.models.arguments import (
    StateForm,
    active_within,
    adopt,
    check_flags,
    check_mask,
    check_place,
    check_rows,
    check_steps,
    check_tokens,
)
from tokenturing.models.ill import treat
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
    _form: StateForm | None = None

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
            x: [B, T, N, D]; absent tokens are zeros, and so are steps in which a row pauses.
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

    def step(
        self,
        x: Tensor,
        state: Any = None,
        *,
        reset: Tensor | None = None,
        active: Tensor | None = None,
        token_mask: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """One step of the stream.

        Args:
            x: tokens [B, N, D], or [B, D] of one token.
            state: as `initial_state` or an earlier step returned it; it is not changed. None: from the beginning.
            reset: bool [B]; where true, the row starts afresh before this step.
            active: bool [B]; where false, the row keeps its state to the bit and its output is zeros. A row that is reset in the
                same step is reset all the same: the state it keeps is that before its first step.
            token_mask: bool [B, N] (of x [B, D]: bool [B] or [B, 1]), false where a token is absent; None: all are present.

        Returns:
            y [B, R, D] and the next state; for x [B, D] and R = 1, y [B, D].

        Raises:
            ShapeError: a tensor has another shape or type than said here.
        """
        check_tokens(x, ("B",), self.width, self.input_tokens, self._type_for(x))
        check_place("x", x.device, next(self.parameters(), None))
        one_token = x.dim() == 2
        token_mask = check_mask(token_mask, x, one_token)
        for name, flags in (("reset", reset), ("active", active)):
            check_flags(name, flags, x.shape[:1])
        if reset is not None or active is not None:
            flags_of_one = (None if part is None else part.unsqueeze(1) for part in (reset, active, token_mask))
            y, state = self.forward(x.unsqueeze(1), state, *flags_of_one)
            return y.squeeze(1), state
        if one_token:
            x = x.unsqueeze(1)
        state = self._checked(state, x.shape[0])
        prepared, known = prepare_one(self, x, token_mask, state)
        y, following = self.advance(prepared, state)
        y = y.squeeze(1) if one_token and self.output_tokens == 1 else y
        return y, following._replace(**known) if known else following

    def forward(
        self,
        x: Tensor,
        state: Any = None,
        reset: Tensor | None = None,
        active: Tensor | None = None,
        token_mask: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        bptt: int | None = None,
        recompute: int | None = None,
        terms: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Any]:
        """T steps of the stream.

        Args:
            x: tokens [B, T, N, D], or [B, T, D] of one token a step.
            state: where to go on from; None: from the beginning.
            reset: bool [B, T]; where true, the row starts afresh before that step.
            active: bool [B, T]; where false, the row keeps its state to the bit and its output is zeros. A row that is reset in
                the same step is reset all the same: the state it keeps is that before its first step.
            token_mask: bool [B, T, N] (of x [B, T, D]: bool [B, T] or [B, T, 1]); false where a token is absent. It gets no
                weight, whatever it holds.
            lengths: whole numbers [B], the steps of each row; what is behind them is padding, where the row is inactive.
            bptt: cut gradients every so many steps; the state goes on.
            recompute: hold only the states at every so many steps and compute the rest again on the way back:
                full backpropagation through T steps in the memory of a few.
            terms: where a dict is given, what the model itself would have a loss add is added to it by name: scalars that have
                gradients, summed over the active steps and averaged over rows. The machine with a `write_cost` has "write"; the
                other models leave the dict as it is. The terms of chunks sum to those of the whole.

        Returns:
            y [B, T, R, D] and the state after the last step; for x [B, T, D] and R = 1, y [B, T, D].

        Raises:
            ShapeError: a tensor has another shape or type than said here.
        """
        check_tokens(x, ("B", "T"), self.width, self.input_tokens, self._type_for(x))
        check_place("x", x.device, next(self.parameters(), None))
        one_token = x.dim() == 3
        token_mask = check_mask(token_mask, x, one_token)
        for name, flags in (("reset", reset), ("active", active)):
            check_flags(name, flags, x.shape[:2])
        for name, steps in (("bptt", bptt), ("recompute", recompute)):
            check_steps(name, steps)
        if terms is not None and not isinstance(terms, dict):
            raise OptionError(f"terms is {a(type(terms))}: expected a dict, to which the model adds, or None")
        if lengths is not None:
            within = active_within(lengths, x)
            active = within if active is None else active & within
        if one_token:
            x = x.unsqueeze(2)
        state = self._checked(state, x.shape[0])
        x = without_absent(x, token_mask)
        treated = None
        if reset is not None or active is not None:
            treated = treat(x, state, self.initial_state(x.shape[0]), reset, active)
            x, state = treated.x, treated.state
        y, state = scan(
            self,
            x,
            state,
            reset=reset,
            active=active,
            token_mask=token_mask,
            bptt=bptt,
            recompute=recompute,
            terms=terms,
        )
        y, state = (y, state) if treated is None else treated.show(y, state)
        return y.squeeze(2) if one_token and self.output_tokens == 1 else y, state

    def _checked(self, state: Any, rows: int) -> Any:
        """The state to go on from, which is one of this model's."""
        if state is None:
            return self.initial_state(rows)
        if not torch.compiler.is_compiling():  # a graph does not look up what is looked up once
            like = next(self.parameters(), None)
            of_type = None if like is None else like.dtype
            if self._form is None or self._form.of_type != of_type:
                with torch.no_grad():
                    self._form = StateForm.of(self.initial_state(1), self.growing, of_type)
            state = adopt(state, self._form, type(self).__name__)
            check_place("state", next(states.leaves(state))[1].device, like)
        check_rows(state, rows)
        return state

    def _type_for(self, x: Any) -> torch.dtype | None:
        """The type that tokens must have, that of the weights; None where it does not matter, as under autocast."""
        if torch.compiler.is_compiling() or not isinstance(x, Tensor):
            return None
        like = next(self.parameters(), None)
        if like is None or (autocast_available(like) and torch.is_autocast_enabled(like.device.type)):
            return None
        return like.dtype
