"""What callers of a recurrent model hand over, checked: what came, what was expected, what to do."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from tokenturing import state as states
from tokenturing.errors import OptionError, ShapeError, a

WIDE = (torch.uint16, torch.uint32, torch.uint64)


class LeafShape(NamedTuple):
    """One leaf of a model's state."""

    shape: tuple[int, ...]
    """without B, before the first step"""
    dtype: torch.dtype
    grows: bool

    def fits(self, leaf: Tensor) -> bool:
        """Whether a leaf [B, ...] may be this one."""
        shape = tuple(leaf.shape[1:])
        return leaf.dim() > 0 and (
            len(shape) == len(self.shape) and shape[1:] == self.shape[1:] if self.grows else shape == self.shape
        )

    def __str__(self) -> str:
        sizes = ["B", *map(str, self.shape)]
        if self.grows:
            sizes[1] = "S"
        return f"[{', '.join(sizes)}]"


class StateForm(NamedTuple):
    """What a model's states look like."""

    structure: Any
    """one of them, without values"""
    leaves: dict[str, LeafShape]
    of_type: torch.dtype | None
    """of the model's weights when it was looked up"""

    @classmethod
    def of(cls, state: Any, growing: frozenset[str], of_type: torch.dtype | None) -> "StateForm":
        """The form of the states of a model with this one before the first step."""
        leaves = {name: LeafShape(tuple(leaf.shape[1:]), leaf.dtype, name in growing) for name, leaf in states.leaves(state)}
        return cls(states.map_state(lambda leaf: leaf.new_empty(0), state), leaves, of_type)

    def __str__(self) -> str:
        return f"{a(type(self.structure))} of {', '.join(f'{name} {leaf}' for name, leaf in self.leaves.items())}"


COMPUTED_IN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""types of weights that tokens have to share; others are only kept in"""


def check_tokens(
    x: Any, leading: Sequence[str], width: int, input_tokens: int | None, of_type: torch.dtype | None = None
) -> None:
    """Refuse what is no tensor of tokens [*leading, N, D], or [*leading, D] of one token, in the weights' type if it matters.

    Raises:
        ShapeError: as it says.
    """
    expected = f"[{', '.join((*leading, 'N', 'D'))}] with D={width}"
    if input_tokens is not None:
        expected += f" and N={input_tokens}"
    if input_tokens in (None, 1):
        expected += f", or [{', '.join((*leading, 'D'))}] of one token"
    if isinstance(x, PackedSequence):
        raise ShapeError(
            "x is a PackedSequence: expected a padded tensor; take it apart with torch.nn.utils.rnn.pad_packed_sequence(x, "
            "batch_first=True) and pass what it returns as x and lengths="
        )
    if not isinstance(x, Tensor):
        hint = "; make one with torch.from_numpy(x)" if hasattr(x, "__array__") else ""
        raise ShapeError(f"x is {a(f'{type(x).__module__}.{type(x).__qualname__}')}: expected a torch tensor {expected}{hint}")
    if not x.is_floating_point():
        raise ShapeError(f"x has type {x.dtype}: expected floating-point tokens {expected}")
    if of_type in COMPUTED_IN and x.dtype != of_type:
        raise ShapeError(
            f"x has type {x.dtype} and the model {of_type}: expected one type; pass x.to({of_type}), or convert the model once "
            f"with model.to({x.dtype})"
        )
    tokens = x.shape[-2] if x.dim() == len(leading) + 2 else 1
    fits = x.dim() in (len(leading) + 1, len(leading) + 2) and x.shape[-1] == width
    if not fits or (input_tokens is not None and tokens != input_tokens):
        raise ShapeError(f"x has shape {list(x.shape)}: expected {expected}")
    if len(leading) > 1 and not x.shape[1]:
        raise ShapeError(f"x has shape {list(x.shape)}: expected at least one step (T >= 1)")


def check_flags(name: str, flags: Any, shape: torch.Size) -> None:
    """Refuse what is not None and no bool tensor of this shape.

    Raises:
        ShapeError: as it says.
    """
    if flags is None:
        return
    if not isinstance(flags, Tensor):
        raise ShapeError(f"{name} is {a(type(flags))}: expected a tensor, bool {list(shape)}")
    if flags.dtype != torch.bool or flags.shape != shape:
        raise ShapeError(f"{name} has shape {list(flags.shape)} and type {flags.dtype}: expected bool {list(shape)}")


def check_mask(token_mask: Any, x: Tensor, one_token: bool) -> Tensor | None:
    """The caller's mask as bool [..., N]; of one token's x [..., D] it comes as [...], or as [..., 1].

    Raises:
        ShapeError: it is no such mask.
    """
    if not one_token:
        check_flags("token_mask", token_mask, x.shape[:-1])
        return token_mask
    if isinstance(token_mask, Tensor) and token_mask.dim() == x.dim():
        check_flags("token_mask", token_mask, torch.Size((*x.shape[:-1], 1)))
        return token_mask
    check_flags("token_mask", token_mask, x.shape[:-1])
    return None if token_mask is None else token_mask.unsqueeze(-1)


def check_batch_size(rows: Any) -> None:
    """Refuse what is no number of rows.

    Raises:
        OptionError: as it says.
    """
    if isinstance(rows, bool) or not isinstance(rows, Integral | torch.SymInt) or (isinstance(rows, Integral) and rows < 0):
        raise OptionError(f"batch_size={rows!r}: expected a whole number of rows, from 0")


def check_place(name: str, found: torch.device, like: Tensor | None) -> None:
    """Refuse what is on another device than the weights.

    Raises:
        ShapeError: as it says.
    """
    if like is not None and found != like.device and not torch.compiler.is_compiling():
        move = "tokenturing.state.move(state, device)" if name == "state" else f"{name}.to(device)"
        raise ShapeError(f"{name} is on {found} and the model on {like.device}: expected one device; {move} moves it")


def check_steps(name: str, steps: Any) -> None:
    """Refuse what is not None and no number of steps.

    Raises:
        OptionError: as it says.
    """
    if steps is not None and (not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1):
        raise OptionError(f"{name}={steps!r}: expected a whole number of steps of at least 1, or None")


def active_within(lengths: Any, x: Tensor) -> Tensor:
    """lengths [B] of rows x [B, T, ...] -> bool [B, T], true before the row's end.

    Raises:
        ShapeError: they are no whole numbers from 0 to T, one for each row.
    """
    rows, steps = x.shape[:2]
    try:
        given = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"lengths are {lengths!r}: expected whole numbers [B={rows}], each row's steps") from error
    if given.dtype in WIDE:  # torch can't compare these
        given = given.long()
    if given.shape == (rows,) and not rows:  # an empty list has the type of fractions
        given = given.long()
    if given.shape != (rows,) or given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise ShapeError(
            f"lengths have shape {list(given.shape)} and type {given.dtype}: expected whole numbers [B={rows}], each row's steps"
        )
    if rows and not torch.compiler.is_compiling() and not 0 <= int(given.min()) <= int(given.max()) <= steps:
        raise ShapeError(f"lengths from {int(given.min())} to {int(given.max())}: expected 0 to T={steps}")
    return torch.arange(steps, device=x.device) < given.to(x.device).unsqueeze(1)


def check_rows(state: Any, rows: int) -> None:
    """Refuse a state of other rows.

    Raises:
        ShapeError: as it says.
    """
    if states.rows(state) != rows:
        raise ShapeError(
            f"state has {states.rows(state)} rows and x has {rows}: expected the same B; "
            "take rows with tokenturing.state.take or begin with initial_state(B)"
        )


def adopt(state: Any, form: StateForm, model: str) -> Any:
    """The state, if it is one of the model's; whole numbers in another type get the model's.

    Raises:
        ShapeError: it is the state of another model, of torch.nn.LSTM for example, or in another type.
    """
    expected = form.leaves
    if not isinstance(state, tuple):
        raise ShapeError(f"state is {a(type(state))}: expected what initial_state() or a step of this {model} returned")
    try:
        found = dict(states.leaves(state)) if states.alike(form.structure, state) else {}
    except ShapeError:  # a part is neither a tensor nor a tuple of them
        found = {}
    if found.keys() != expected.keys() or not all(leaf.fits(found[name]) for name, leaf in expected.items()):
        raise ShapeError(
            f"state is a {_described(state)}: expected what initial_state() or a step of this {model} returned, {form}"
        )
    wrong = [name for name, leaf in expected.items() if found[name].dtype != leaf.dtype]
    for name in wrong:
        if expected[name].dtype.is_floating_point:
            raise ShapeError(
                f"state has {name} of type {found[name].dtype}, and this {model} {expected[name].dtype}: expected one type; "
                f"tokenturing.state.move(state, {expected[name].dtype}) converts it"
            )
    if not wrong:
        return state
    return states.rebuild(state, found | {name: found[name].to(expected[name].dtype) for name in wrong})


def _described(state: Any) -> str:
    if hasattr(state, "_fields"):
        parts = [
            f"{name} {list(part.shape) if isinstance(part, Tensor) else type(part).__name__}"
            for name, part in zip(state._fields, state, strict=True)
        ]
        return f"{type(state).__name__} of {', '.join(parts)}"
    parts = [str(list(part.shape)) if isinstance(part, Tensor) else type(part).__name__ for part in state]
    return f"plain tuple of {', '.join(parts)}"
