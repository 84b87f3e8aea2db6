"""The functions of `tokenturing.state` on what they should not get: each says so, and none pads or mixes what does not grow."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from zoo import GROWING, ZOO, build, used_state

import tokenturing as tt
from tokenturing import state as states
from tokenturing.errors import ShapeError


def machine(memory_tokens: int = 4) -> tt.TokenTuringMachine:
    return tt.TokenTuringMachine(16, memory_tokens, 1, 1, 2)


@pytest.mark.parametrize("name", ZOO)
def test_classes_of_states_know_what_grows(name: str) -> None:
    model = build(name)
    assert getattr(model.initial_state(1), "growing", frozenset()) == model.growing


@pytest.mark.parametrize("name", GROWING)
def test_what_grows_is_padded(name: str) -> None:
    model = build(name)
    both = states.stack([used_state(model, 1, steps=2), used_state(model, 1, steps=5)])
    x = torch.randn(2, 1, model.input_tokens or 3, model.width, dtype=torch.float64)
    wanted = model.step(x[:1, 0], used_state(model, 1, steps=2))[0]
    torch.testing.assert_close(model.step(x[:, 0], both)[0][:1], wanted)


def test_machines_of_other_sizes_are_not_stacked_or_reset() -> None:
    small, large = machine(4).initial_state(1), machine(6).initial_state(1)
    with pytest.raises(ShapeError, match=r"'memory' have the shapes \[1, 4, 16\] and \[1, 6, 16\]: expected states of one model"):
        states.stack([small, large])
    for state, model in ((small, machine(6)), (large, machine(4))):
        with pytest.raises(ShapeError, match="expected states of one model"):
            states.reset(state, [0], model)
    assert states.rows(states.stack([small, machine(4).initial_state(2)])) == 3, "the control"


def test_states_of_two_classes_are_not_mixed() -> None:
    gru, min_gru = (getattr(tt.baselines, name)(16).initial_state(1) for name in ("GRU", "MinGRU"))
    for call in (
        lambda: states.stack([gru, min_gru]),
        lambda: states.merge(torch.tensor([True]), gru, min_gru),
        lambda: states.reset(gru, [0], tt.baselines.MinGRU(16)),
        lambda: states.map_state(torch.add, gru, min_gru),
    ):
        with pytest.raises(ShapeError, match=r"states are a (GRU|MinGRU)State and a (GRU|MinGRU)State"):
            call()
    with pytest.raises(ShapeError, match=r"a tuple of 1 and a tuple of 2"):
        states.stack([(torch.ones(1),), (torch.ones(1), torch.ones(1))])
    with pytest.raises(ShapeError, match="a Tensor and a tuple of 1 in '0'"):
        states.stack([(torch.ones(1),), ((torch.ones(1),),)])


def test_a_class_that_was_defined_anew_is_the_same() -> None:
    def define() -> Any:
        class Own(NamedTuple):
            total: Tensor

        return Own

    first, second = define()(torch.ones(1, 2)), define()(torch.zeros(1, 2))
    assert states.rows(states.stack([first, second])) == 2


def test_a_leaf_of_ones_own_grows_when_it_says_so() -> None:
    class Fixed(NamedTuple):
        seen: Tensor

    @states.grows("seen")
    class Grows(NamedTuple):
        seen: Tensor

    assert states.stack([Grows(torch.ones(1, 2)), Grows(torch.ones(1, 3))]).seen.tolist() == [[1, 1, 0], [1, 1, 1]]
    with pytest.raises(ShapeError, match=r"tokenturing\.state\.grows"):
        states.stack([Fixed(torch.ones(1, 2)), Fixed(torch.ones(1, 3))])


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "rows": states.rows,
    "nbytes": states.nbytes,
    "clone": states.clone,
    "detach": states.detach,
    "move": lambda state: states.move(state, torch.float64),
    "take": lambda state: states.take(state, [0]),
    "reset": lambda state: states.reset(state, [0], machine()),
    "stack": lambda state: states.stack([state, state]),
    "merge": lambda state: states.merge(torch.tensor([True]), state, state),
    "leaves": lambda state: list(states.leaves(state)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_state_is_refused(name: str) -> None:
    for wrong in ({"memory": torch.ones(1, 2)}, None, "memory", iter([torch.ones(1)]), (torch.ones(1), None), slice(0, 1)):
        with pytest.raises(ShapeError, match=r"state is an? \w+: expected tensors in a \(named\) tuple"):
            FUNCTIONS[name](wrong)


def test_rows_that_cannot_be_meant() -> None:
    state = machine().initial_state(3)
    for wrong in (None, {0: 1}, "0", ["0"], [[0], [0, 1]], slice("a", None)):
        with pytest.raises(ShapeError, match="rows are"):
            states.take(state, wrong)  # type: ignore[arg-type]
        with pytest.raises(ShapeError, match="rows are"):
            states.reset(state, wrong, machine())  # type: ignore[arg-type]
    for one in (2, torch.tensor(2)):
        with pytest.raises(ShapeError, match=r"rows are 2: .* one row is \[2\]"):
            states.take(state, one)  # type: ignore[arg-type]


def test_rows_as_a_slice_or_a_generator() -> None:
    state = machine().initial_state(3)._replace(memory=torch.arange(3.0).view(3, 1, 1).expand(3, 4, 16))
    for rows in (slice(1, None), (row for row in (1, 2)), range(1, 3)):
        assert states.take(state, rows).memory[:, 0, 0].tolist() == [1, 2]
    assert states.rows(states.stack(states.take(state, [row]) for row in (0, 1))) == 2


def test_no_states_and_one_that_is_not_in_a_list() -> None:
    for none in ([], iter([])):
        with pytest.raises(ShapeError, match="at least one state"):
            states.stack(none)
    for wrong in (None, machine().initial_state(1), {}):
        with pytest.raises(ShapeError, match=r"stack\(\) got .*: expected several states, as a list"):
            states.stack(wrong)  # type: ignore[arg-type]
    for empty in ((), (torch.tensor(1.0),)):
        with pytest.raises(ShapeError, match="no rows"):
            states.rows(empty)


def test_types_are_not_mixed_in_silence() -> None:
    state = machine().initial_state(1)
    with pytest.raises(ShapeError, match=r"'memory' are torch.float32 on cpu and torch.float64 on cpu"):
        states.stack([state, states.move(state, torch.float64)])
