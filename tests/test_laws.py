"""Laws of the stream, on every model; each with a broken model that it must catch."""

from collections.abc import Callable

import broken
import laws
import pytest
import torch
from hypothesis import given, settings
from laws import Stream, streams
from zoo import ZOO, build

every_model = pytest.mark.parametrize("name", ZOO)


@every_model
@given(stream=streams)
@settings(max_examples=3)
def test_whole_is_chunks_is_steps(name: str, stream: Stream) -> None:
    laws.whole_is_chunks_is_steps(build(name), stream)


@every_model
@given(stream=streams)
@settings(max_examples=1)
def test_gradients_too(name: str, stream: Stream) -> None:
    laws.gradients_of_whole_are_of_chunks_are_of_steps(build(name), stream)


@every_model
@given(stream=streams)
@settings(max_examples=2)
def test_rows_do_not_mix(name: str, stream: Stream) -> None:
    model = build(name)
    laws.a_row_alone_is_the_row_among_strangers(model, stream)
    laws.strangers_change_nothing(model, stream)


@every_model
@given(stream=streams)
@settings(max_examples=2)
def test_reset(name: str, stream: Stream) -> None:
    laws.a_reset_restarts_exactly_its_rows(build(name), stream, nan_state=False)


@every_model
@given(stream=streams)
@settings(max_examples=1)
def test_reset_heals(name: str, stream: Stream) -> None:
    laws.a_reset_restarts_exactly_its_rows(build(name), stream, nan_state=True)


@every_model
@given(stream=streams)
@settings(max_examples=2)
def test_inactive(name: str, stream: Stream) -> None:
    model = build(name)
    laws.an_inactive_row_is_unchanged_to_the_bit(model, stream)
    laws.inactive_steps_leave_no_trace(model, stream)


@every_model
@given(stream=streams)
@settings(max_examples=2)
def test_masked_tokens(name: str, stream: Stream) -> None:
    model = build(name)
    laws.masked_tokens_change_nothing(model, stream)
    laws.an_absent_token_is_no_token_of_zeros(model)
    if model.input_tokens is None:
        laws.masked_tokens_are_as_if_they_were_not_there(model, stream)


@every_model
@given(stream=streams)
@settings(max_examples=1)
def test_state_is_a_value(name: str, stream: Stream) -> None:
    laws.state_and_inputs_are_left_alone(build(name), stream)


@every_model
@given(stream=streams)
@settings(max_examples=1)
def test_future(name: str, stream: Stream) -> None:
    laws.the_future_changes_nothing(build(name), stream, value=5.0)


@every_model
@given(stream=streams)
@settings(max_examples=1)
def test_ill_future(name: str, stream: Stream) -> None:
    laws.the_future_changes_nothing(build(name), stream, value=torch.nan)


# --- controls

CONTROLS: list[tuple[Callable, type[broken.Sound]]] = [
    (laws.whole_is_chunks_is_steps, broken.Hidden),
    (laws.whole_is_chunks_is_steps, broken.LateReset),
    (laws.whole_is_chunks_is_steps, broken.Prophet),
    (laws.whole_is_chunks_is_steps, broken.Decaying),
    (laws.gradients_of_whole_are_of_chunks_are_of_steps, broken.Detaching),
    (laws.a_row_alone_is_the_row_among_strangers, broken.LeakyMean),
    (laws.a_row_alone_is_the_row_among_strangers, broken.LeakyNorm),
    (laws.a_row_alone_is_the_row_among_strangers, broken.BroadReset),
    (laws.strangers_change_nothing, broken.LeakyMean),
    (laws.strangers_change_nothing, broken.LeakyNorm),
    (laws.a_reset_restarts_exactly_its_rows, broken.LateReset),
    (laws.a_reset_restarts_exactly_its_rows, broken.BroadReset),
    (laws.a_reset_restarts_exactly_its_rows, broken.ZeroReset),
    (laws.an_inactive_row_is_unchanged_to_the_bit, broken.Decaying),
    (laws.an_inactive_row_is_unchanged_to_the_bit, broken.LoudInactive),
    (laws.inactive_steps_leave_no_trace, broken.Decaying),
    (laws.the_future_changes_nothing, broken.Prophet),
    (laws.masked_tokens_change_nothing, broken.LeakyMask),
    (laws.masked_tokens_are_as_if_they_were_not_there, broken.ZeroMask),
    (laws.state_and_inputs_are_left_alone, broken.Mutating),
    (laws.state_and_inputs_are_left_alone, broken.Hidden),
]


def check(law: Callable, model: broken.Sound) -> None:
    @given(stream=streams)
    @settings(max_examples=5)
    def holds(stream: Stream) -> None:
        law(model, stream, **({"nan_state": True} if law is laws.a_reset_restarts_exactly_its_rows else {}))

    holds()


@pytest.mark.parametrize(("law", "cls"), CONTROLS, ids=lambda part: part.__name__)
def test_control_fails(law: Callable, cls: type[broken.Sound]) -> None:
    with pytest.raises(AssertionError):
        check(law, broken.make(cls))


def test_absent_control_fails() -> None:
    laws.an_absent_token_is_no_token_of_zeros(broken.make(broken.Sound))
    with pytest.raises(AssertionError, match="absent tokens and zeros give the same"):
        laws.an_absent_token_is_no_token_of_zeros(broken.make(broken.ZeroMask))


@pytest.mark.parametrize("law", dict.fromkeys(law for law, _ in CONTROLS), ids=lambda law: law.__name__)
def test_sound_model_passes_where_the_controls_fail(law: Callable) -> None:
    check(law, broken.make(broken.Sound))
