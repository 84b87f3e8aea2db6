"""Laws: a model is what it declares: a step takes what its signature says, and exactly the leaves in `growing` grow."""

from collections.abc import Callable

import broken
import laws
import pytest
from zoo import ZOO, build

from tokenturing.models.contract import StreamModel

LAWS = [laws.a_step_takes_what_its_signature_says, laws.exactly_what_is_declared_grows]


@pytest.mark.parametrize("name", ZOO)
def test_declared(name: str) -> None:
    model = build(name)
    assert isinstance(model, StreamModel)
    for law in LAWS:
        law(model)


@pytest.mark.parametrize(
    ("law", "cls", "message"),
    [
        (laws.exactly_what_is_declared_grows, broken.Growing, "nothing is declared to grow, and {'memory'} does"),
        (laws.exactly_what_is_declared_grows, broken.Boastful, "{'memory'} is declared to grow, and nothing does"),
        (laws.exactly_what_is_declared_grows, broken.Misnaming, "the leaves are {'memory'}"),
        (laws.exactly_what_is_declared_grows, broken.RowsLast, r"has shape \[8, 3\] for 3 rows"),
        (laws.exactly_what_is_declared_grows, broken.Nameless, "the state is a tuple"),
        (laws.a_step_takes_what_its_signature_says, broken.Nameless, "the state is a tuple"),
        (laws.a_step_takes_what_its_signature_says, broken.Narrow, r"cannot take {'x': \[1, 2, 8\]}"),
        (laws.a_step_takes_what_its_signature_says, broken.Lying, r"cannot take {'x': \[1, 2, 9\]}"),
        (laws.a_step_takes_what_its_signature_says, broken.Unmasked, r"'token_mask': \[1, 2\]"),
    ],
)
def test_control_fails(law: Callable, cls: type[broken.Sound], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        law(broken.make(cls))


@pytest.mark.parametrize("law", LAWS)
def test_sound_model_passes_where_the_controls_fail(law: Callable) -> None:
    law(broken.make(broken.Sound))
