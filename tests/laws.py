"""The laws as functions: each takes a model and raises AssertionError, saying where it is broken."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from zoo import inputs, used_state

from tokenturing import state as states
from tokenturing.models.contract import Input, RecurrentModel, StreamModel, step_by_name
from tokenturing.testing.trees import compare

ROWS, STEPS = 3, 5
TOLERANCE = 1e-6  # models are float64, but the ages of slots are float32
Result = tuple[Tensor, Any]


@dataclass(frozen=True)
class Stream:
    """What happens on a stream besides its inputs."""

    reset: Tensor
    """bool [B, T]"""
    active: Tensor
    """bool [B, T]"""
    mask: Tensor
    """bool [B, T, N], for models of 3 input tokens"""
    borders: tuple[int, ...]
    """where chunks begin, besides 0"""

    def flags(self, start: int = 0, stop: int = STEPS) -> dict[str, Tensor]:
        """The keyword arguments of a call on these steps."""
        part = slice(start, stop)
        return {
            "reset": self.reset[:, part],
            "active": self.active[:, part],
            "token_mask": self.mask[:, part],
        }

    def row(self, index: int) -> dict[str, Tensor]:
        """The keyword arguments of a call on one row."""
        return {name: flags[index : index + 1] for name, flags in self.flags().items()}

    def chunks(self) -> list[tuple[int, int]]:
        """(start, stop) of each chunk."""
        return list(zip((0, *self.borders), (*self.borders, STEPS), strict=True))


def stream_of(seed: int) -> Stream:
    """Resets, inactive steps, absent tokens and borders by chance, some of each."""
    generator = torch.Generator().manual_seed(seed)

    def chance(part: float, *shape: int) -> Tensor:
        return torch.rand(ROWS, STEPS, *shape, generator=generator) < part

    count = int(torch.randint(1, STEPS - 1, (), generator=generator))
    borders = torch.randperm(STEPS - 1, generator=generator)[:count].add(1).sort().values
    return Stream(chance(0.2), ~chance(0.25), ~chance(0.3, 3), tuple(borders.tolist()))


streams = st.integers(0, 2**32 - 1).map(stream_of)
"""Drawn by their seed, not flag by flag, so that the first example is as rich as any other."""


def assert_same(expected: Result, came: Result, law: str, tolerance: float = TOLERANCE) -> None:
    """Outputs and states are equal within the tolerance, 0: to the bit."""
    difference = compare(expected, came, tolerance)
    assert difference is None, f"{law}: {difference}"


# --- whole = chunks = steps


def whole(model: RecurrentModel, x: Tensor, state: Any, stream: Stream) -> Result:
    return model(x, state, **stream.flags())


def in_chunks(model: RecurrentModel, x: Tensor, state: Any, stream: Stream) -> Result:
    outputs = []
    for start, stop in stream.chunks():
        y, state = model(x[:, start:stop], state, **stream.flags(start, stop))
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def by_hand(model: RecurrentModel, x: Tensor, state: Any, stream: Stream) -> Result:
    """The readable twin of the scan: `step`, `merge` and nothing else."""
    fresh, outputs = model.initial_state(len(x)), []
    for t in range(x.shape[1]):
        state = states.merge(stream.reset[:, t], fresh, state)
        y, following = model.step(x[:, t], state, token_mask=stream.mask[:, t])
        outputs.append(torch.where(stream.active[:, t, None, None], y, 0.0))
        state = states.merge(stream.active[:, t], following, state)
    return torch.stack(outputs, dim=1), state


def weigh(tensor: Tensor, seed: int) -> Tensor:
    """A sum with weights by place, the same for a leaf however much it has grown."""
    phase = torch.full((), float(seed), dtype=tensor.dtype)
    for axis, size in enumerate(tensor.shape):
        phase = phase.unsqueeze(-1) + (axis + 1.7) * torch.arange(size, dtype=tensor.dtype)
    return (phase.cos() * tensor).sum()


def total(result: Result) -> Tensor:
    """One number of all outputs and of the last state."""
    floating = [tensor for _, tensor in states.leaves((result[0], result[1])) if tensor.is_floating_point()]
    return torch.stack([weigh(tensor, seed).double() for seed, tensor in enumerate(floating)]).sum()


def gradients(run: Any, model: RecurrentModel, x: Tensor, state: Any, *args: Any) -> dict[str, Tensor]:
    """Of `total(run(model, x, state, ...))` to the inputs, the first state and every parameter."""
    x = x.detach().clone().requires_grad_()
    state = states.map_state(lambda leaf: leaf.detach().clone().requires_grad_(leaf.is_floating_point()), state)
    named = {"inputs": x, **dict(states.leaves(state)), **dict(model.named_parameters())}
    named = {name: tensor for name, tensor in named.items() if tensor.requires_grad}
    found = torch.autograd.grad(total(run(model, x, state, *args)), list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(named.items(), found, strict=True)
    }


def assert_same_gradients(expected: dict[str, Tensor], came: dict[str, Tensor], law: str) -> None:
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max())) if gradient.numel() else 1.0
        off = float((gradient - came[name]).abs().max()) if gradient.numel() else 0.0
        assert off <= 10 * TOLERANCE * scale, f"{law}: the gradient to {name} is off by {off:.3g}"


RUNS = {"chunks = whole": in_chunks, "step by step = whole": by_hand}


@torch.no_grad()
def whole_is_chunks_is_steps(model: RecurrentModel, stream: Stream) -> None:
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS)
    expected = whole(model, x, state, stream)
    for law, run in RUNS.items():
        assert_same(expected, run(model, x, state, stream), law)


def gradients_of_whole_are_of_chunks_are_of_steps(model: RecurrentModel, stream: Stream) -> None:
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS)
    wanted = gradients(whole, model, x, state, stream)
    assert wanted["inputs"].abs().max() > 0
    for law, run in RUNS.items():
        assert_same_gradients(wanted, gradients(run, model, x, state, stream), law)


# --- rows


@torch.no_grad()
def a_row_alone_is_the_row_among_strangers(model: RecurrentModel, stream: Stream) -> None:
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS)
    together = whole(model, x, state, stream)
    for index in range(ROWS):
        alone = model(x[index : index + 1], states.take(state, [index]), **stream.row(index))
        expected = together[0][index : index + 1], states.take(together[1], [index])
        assert_same(expected, alone, f"row {index} alone")


@torch.no_grad()
def strangers_change_nothing(model: RecurrentModel, stream: Stream) -> None:
    """Not even with NaN in their inputs and their states, and infinity beside it."""
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS)
    y, following = whole(model, x, state, stream)
    for index in range(ROWS):
        stranger = torch.arange(ROWS) != index
        poisoned = x.clone()
        poisoned[stranger], poisoned[stranger, ::2] = torch.nan, torch.inf
        with_nan = states.map_state(
            lambda leaf: (
                leaf.masked_fill(stranger.view(-1, *[1] * (leaf.dim() - 1)), torch.nan)  # noqa: B023
                if leaf.is_floating_point()
                else leaf
            ),
            state,
        )
        z, other = whole(model, poisoned, with_nan, stream)
        expected = y[index : index + 1], states.take(following, [index])
        assert_same(expected, (z[index : index + 1], states.take(other, [index])), f"strangers of row {index}")


@torch.no_grad()
def a_reset_restarts_exactly_its_rows(model: RecurrentModel, stream: Stream, *, nan_state: bool) -> None:
    """After a reset a row is as new, whatever its state was (`nan_state`: NaN); the others notice nothing."""
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS)
    step = stream.borders[0]
    reset = torch.zeros(ROWS, STEPS, dtype=torch.bool)
    reset[1, step] = True
    plain = model(x, state)
    if nan_state:
        bad = torch.arange(ROWS) == 1
        state = states.merge(bad, states.map_state(_ill, state), state)
    y, following = model(x, state, reset=reset)
    afresh = model(x[1:2, step:])
    assert_same(afresh, (y[1:2, step:], states.take(following, [1])), "a reset row is as new")
    others = [0, 2]
    expected = plain[0][others], states.take(plain[1], others)
    assert_same(expected, (y[others], states.take(following, others)), "a reset leaves others alone")
    if not nan_state:
        assert_same((plain[0][:, :step], ()), (y[:, :step], ()), "a reset does not reach back")


def _ill(leaf: Tensor) -> Tensor:
    return torch.full_like(leaf, torch.nan) if leaf.is_floating_point() else leaf


@torch.no_grad()
def an_inactive_row_is_unchanged_to_the_bit(model: RecurrentModel, stream: Stream) -> None:
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS)
    active = stream.active.clone()
    active[1] = False
    x[1], x[1, ::2] = torch.nan, torch.inf
    y, following = model(x, state, active=active)
    expected = torch.zeros_like(y[1:2]), states.take(state, [1])
    assert_same(expected, (y[1:2], states.take(following, [1])), "an inactive row", tolerance=0)
    assert not y[~active].any(), "an inactive step has zeros for output"


@torch.no_grad()
def inactive_steps_leave_no_trace(model: RecurrentModel, stream: Stream) -> None:
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS)
    active = stream.active.clone()
    active[:, -1] = True
    y, following = model(x, state, active=active)
    for index in range(ROWS):
        on = active[index]
        expected = model(x[index : index + 1, on], states.take(state, [index]))
        came = y[index : index + 1, on], states.take(following, [index])
        assert_same(expected, came, f"row {index} without its inactive steps")


# --- tokens


def masked_tokens_change_nothing(model: RecurrentModel, stream: Stream) -> None:
    """Whatever they hold, outputs, states and gradients are the same, and no gradient goes to them."""
    x, state, mask = inputs(model, ROWS, STEPS), used_state(model, ROWS), stream.mask.clone()
    mask[1, stream.borders[0]] = False

    def run(model: RecurrentModel, x: Tensor, state: Any) -> Result:
        return model(x, state, token_mask=mask)

    with torch.no_grad():
        expected = run(model, x, state)
    assert expected[0].isfinite().all(), "outputs are finite, even where all tokens are absent"
    wanted = gradients(run, model, x, state)
    assert not wanted["inputs"][~mask].any(), "an absent token gets no gradient"
    for value in (torch.nan, -torch.inf):
        poisoned = x.masked_fill(~mask.unsqueeze(-1), value)
        with torch.no_grad():
            assert_same(expected, run(model, poisoned, state), f"absent tokens hold {value}", tolerance=0)
        assert_same_gradients(wanted, gradients(run, model, poisoned, state), f"absent tokens hold {value}")


@torch.no_grad()
def an_absent_token_is_no_token_of_zeros(model: RecurrentModel) -> None:
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS)
    mask = torch.tensor([True, False, True]).expand(ROWS, STEPS, 3)
    off = float((model(torch.where(mask.unsqueeze(-1), x, 0.0), state)[0] - model(x, state, token_mask=mask)[0]).abs().max())
    assert off > 1e-4, f"absent tokens and zeros give the same, but for {off:.2g}"


@torch.no_grad()
def masked_tokens_are_as_if_they_were_not_there(model: RecurrentModel, stream: Stream) -> None:
    """For models of any number of tokens: the same as without those tokens."""
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS)
    present = torch.tensor([True, False, True])
    came = model(x, state, token_mask=present.expand(ROWS, STEPS, 3))
    assert_same(model(x[:, :, present], state), came, "absent tokens")
    full = model(x, state, token_mask=torch.ones(ROWS, STEPS, 3, dtype=torch.bool))
    assert_same(model(x, state), full, "a mask in which all tokens are present")


# --- values


@torch.no_grad()
def state_and_inputs_are_left_alone(model: RecurrentModel, stream: Stream) -> None:
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS)
    kept = x.clone(), states.clone(state)
    first = whole(model, x, state, stream)
    model.step(x[:, 0], state)
    assert_same(kept, (x, state), "what was passed in", tolerance=0)
    model(inputs(model, ROWS, STEPS, seed=9))
    assert_same(first, whole(model, x, state, stream), "the same call again", tolerance=0)


@torch.no_grad()
def the_future_changes_nothing(model: RecurrentModel, stream: Stream, *, value: float = 5.0) -> None:
    """The inputs from some step on are `value`, and the outputs before it stay."""
    x, state = inputs(model, ROWS, STEPS), used_state(model, ROWS)
    step = stream.borders[-1]
    expected = model(x, state)[0][:, :step]
    later = x.clone()
    later[:, step:] = value
    assert_same((expected, ()), (model(later, state)[0][:, :step], ()), f"{value} from step {step} on")


# --- declarations

LETTERS = (2, 4)
"""values of every free letter of a signature"""


def _made_up(one: Input, rows: int, letter: int, generator: torch.Generator) -> Tensor:
    """A tensor as a signature has it, with all free letters the same."""
    shape = rows, *(letter if isinstance(size, str) else size for size in one.shape)
    if one.dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.7
    if one.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(one.dtype)
    return torch.zeros(shape, dtype=one.dtype)


def _assert_batch_first(tree: Any, rows: int, what: str) -> None:
    """A tensor [B, ...], or a (nested) NamedTuple of those."""
    if isinstance(tree, Tensor):
        assert tree.dim() > 0, f"{what} has no axis of rows"
        assert len(tree) == rows, f"{what} has shape {list(tree.shape)} for {rows} rows"
        return
    assert isinstance(tree, tuple), f"{what} is a {type(tree).__name__}"
    assert hasattr(tree, "_fields"), f"{what} is a {type(tree).__name__}"
    for name, part in zip(tree._fields, tree, strict=True):
        _assert_batch_first(part, rows, f"{what}.{name}")


@torch.no_grad()
def a_step_takes_what_its_signature_says(model: StreamModel) -> None:
    """With the optional ones, with each alone and without; of so many rows and of others."""
    signature, generator = model.signature(), torch.Generator().manual_seed(4)
    needed = {name for name, one in signature.items() if not one.optional}
    choices = [needed, set(signature), *(needed | {name} for name in signature)]
    for rows, letter, names in itertools.product((1, ROWS), LETTERS, choices):
        inputs_by_name = {name: _made_up(one, rows, letter, generator) for name, one in signature.items() if name in names}
        shapes = {name: list(part.shape) for name, part in inputs_by_name.items()}
        try:
            y, state = step_by_name(model, inputs_by_name, model.initial_state(rows))
            step_by_name(model, inputs_by_name, state)
        except Exception as error:
            raise AssertionError(f"a step cannot take {shapes}, which its signature promises: {error}") from error
        _assert_batch_first(y, rows, "the output")
        _assert_batch_first(state, rows, "the state")


@torch.no_grad()
def exactly_what_is_declared_grows(model: StreamModel) -> None:
    state = model.initial_state(ROWS)
    assert not isinstance(state, Tensor), "the state is a tensor: expected a NamedTuple"
    _assert_batch_first(state, ROWS, "the state")
    first = {name: (leaf.shape, leaf.dtype) for name, leaf in states.leaves(state)}
    assert model.growing <= set(first), f"{set(model.growing)} grow, but the leaves are {set(first)}"
    generator, found = torch.Generator().manual_seed(4), set()
    for _ in range(STEPS):
        inputs_by_name = {name: _made_up(one, ROWS, LETTERS[0], generator) for name, one in model.signature().items()}
        _, state = step_by_name(model, inputs_by_name, state)
        now = {name: (leaf.shape, leaf.dtype) for name, leaf in states.leaves(state)}
        assert set(now) == set(first), f"the state has other leaves after a step: {set(now)}"
        found |= {name for name in first if now[name] != first[name]}
    assert found == model.growing, f"{set(model.growing) or 'nothing'} is declared to grow, and {found or 'nothing'} does"
