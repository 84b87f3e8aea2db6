"""The laws that `check_streaming` checks, one small function each.

Each takes the subject and returns None, or a sentence on which rows and steps differ first, by how much, and what that means.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tokenturing.testing.subject import (
    Subject,
    at,
    changed,
    cut,
    flags,
    fresh_copy,
    gradients_of,
    probes,
    row,
    rows,
    run,
    run_chunks,
    run_steps,
)
from tokenturing.testing.trees import compare, leaves, map_tree


class Unchecked(Exception):  # noqa: N818 (not an error)
    """A law cannot be checked on this subject; the message says why."""


@dataclass(frozen=True)
class Law:
    """A law: its check, and what can prevent checking a subject."""

    check: Callable[[Subject], str | None]
    obstacles: tuple[Callable[[Subject], str | None], ...]

    def obstacle(self, subject: Subject) -> str | None:
        """The first reason why it cannot be checked, or None."""
        return next((why for each in self.obstacles if (why := each(subject))), None)


LAWS: dict[str, Law] = {}


def law(name: str, *obstacles: Callable[[Subject], str | None]) -> Callable[[Callable], Callable]:
    """Register a check in `LAWS`."""

    def register(check: Callable[[Subject], str | None]) -> Callable[[Subject], str | None]:
        LAWS[name] = Law(check, obstacles)
        return check

    return register


def several_rows(subject: Subject) -> str | None:
    return "the inputs have one row" if subject.rows < 2 else None


def several_steps(subject: Subject) -> str | None:
    return "the inputs have one step" if subject.steps < 2 else None


def has_step(subject: Subject) -> str | None:
    return None if subject.step else "the module has no step"


def takes(flag: str) -> Callable[[Subject], str | None]:
    return lambda subject: None if flag in subject.flags else f"the call takes no {flag!r}"


@law("same call, same result")
def same_twice(subject: Subject) -> str | None:
    first = fresh_copy(run(subject, subject.inputs))
    buffers = {name: buffer.clone() for name, buffer in _buffers(subject)}
    run(subject, changed(subject.inputs))
    second = run(subject, subject.inputs)
    if difference := compare(first, second, subject.tolerance):
        return (
            f"{difference} when the same call is made again after another: the module keeps something to "
            "itself that belongs in the state (or draws random numbers: set dropout to 0 or call eval())"
        )
    for name, buffer in _buffers(subject):
        if not torch.equal(buffer, buffers[name]):
            return f"the buffer {name!r} changes with every call: what is remembered belongs in the state"
    return None


def _buffers(subject: Subject) -> list[tuple[str, Tensor]]:
    return list(subject.model.named_buffers()) if isinstance(subject.model, nn.Module) else []


@law("state and inputs are left alone")
def not_mutated(subject: Subject) -> str | None:
    _, state = run(subject, subject.inputs)
    inputs, state = fresh_copy(subject.inputs), fresh_copy(state)
    calls: dict[str, Callable[[], Any]] = {"the call": lambda: run(subject, inputs, state)}
    if step := subject.step:
        calls["step"] = lambda: step(at(inputs, 0), state)
    for name, call in calls.items():
        before = fresh_copy((inputs, state))
        call()
        if difference := compare(before, (inputs, state)):
            places = ", ".join(place.replace("output", "the inputs") for place in difference.places)
            return f"{name} changes what it was given, in {places}: it must return a new state"
    return None


@law("a state is a value")
def value(subject: Subject) -> str | None:
    inputs = fresh_copy(subject.inputs)
    calls: dict[str, Callable[[Any], Any]] = {"the call": lambda given: run(subject, given)}
    if step := subject.step:
        calls["step"] = lambda given: step(at(given, 0), subject.initial_state(subject.rows))
    for name, call in calls.items():
        state = call(inputs)[1]
        before = fresh_copy(state)
        call(changed(subject.inputs))
        if difference := compare(((), before), ((), state)):
            return f"{difference} of one session when {name} serves another: sessions share memory, each needs a state of its own"
        _overwrite(inputs)
        if difference := compare(((), before), ((), state)):
            return f"{difference} when the inputs of {name} are overwritten after it: the state is a view of them, not a copy"
        inputs = fresh_copy(subject.inputs)
    return None


@torch.no_grad()
def _overwrite(inputs: Any) -> None:
    """What someone does who uses one buffer for the inputs of all steps."""
    for _, tensor in leaves(inputs):
        tensor.copy_(tensor.flip(0).flip(1) if tensor.dtype == torch.bool else tensor + 1)


@law("the state keeps its size")
def constant_size(subject: Subject) -> str | None:
    _, early = run(subject, cut(subject.inputs, 0, 1))
    _, late = run(subject, subject.inputs)
    sizes = {name: list(leaf.shape) for name, leaf in leaves(early)}
    for name, leaf in leaves(late):
        shape = list(leaf.shape)
        if shape[:1] != [subject.rows]:
            return f"state leaf {name!r} has shape {shape}: expected the {subject.rows} rows first"
        if shape != sizes[name] and not subject.grows:
            return (
                f"state leaf {name!r} grows from {sizes[name]} after 1 step to {shape} after "
                f"{subject.steps}: it cannot run on an endless stream (pass grows=True if that is intended)"
            )
    return None


@law("chunks = whole", several_steps)
def chunks(subject: Subject) -> str | None:
    whole = run(subject, subject.inputs)
    for split in subject.splits:
        if difference := compare(whole, run_chunks(subject, subject.inputs, split), subject.tolerance):
            return (
                f"{difference} when {subject.steps} steps come in chunks of {', '.join(map(str, split))}: "
                "something does not cross the boundary in the state"
            )
    return None


@law("step by step = whole", has_step)
def step_by_step(subject: Subject) -> str | None:
    whole, steps = run(subject, subject.inputs), run_steps(subject, subject.inputs)
    if difference := compare(whole, steps, subject.tolerance):
        return f"{difference} between `step` for each step and the call on all of them"
    return None


@law("a row alone = among strangers", several_rows)
def alone(subject: Subject) -> str | None:
    together = run(subject, subject.inputs)
    for index in range(subject.rows):
        by_itself = run(subject, row(subject.inputs, index))
        if difference := compare(row(together, index), by_itself, subject.tolerance):
            return f"{difference.of([index])} when it runs by itself: its result depends on its batch"
    return None


@law("strangers change nothing", several_rows)
def strangers(subject: Subject) -> str | None:
    expected = run(subject, subject.inputs)
    for nan in probes(subject):
        for index in range(subject.rows):
            actual = run(subject, changed(subject.inputs, rows=index, nan=nan))
            others = [other for other in range(subject.rows) if other != index]
            if difference := compare(rows(expected, others), rows(actual, others), subject.tolerance):
                how = "is NaN" if nan else "changes"
                return f"{difference.of(others)} when row {index}'s input {how}: a leak across rows"
    return None


@law("the future changes nothing", several_steps)
def causality(subject: Subject) -> str | None:
    expected, _ = run(subject, subject.inputs)
    for step in sorted({1, subject.steps // 2, subject.steps - 1}):
        actual, _ = run(subject, changed(subject.inputs, steps=slice(step, None)))
        past = (cut(expected, 0, step), ()), (cut(actual, 0, step), ())
        if difference := compare(*past, subject.tolerance):
            return f"{difference} when the inputs change only from step {step} on: it sees the future"
    return None


@law("a reset restarts exactly its rows", takes("reset"))
def resets(subject: Subject) -> str | None:
    _, used = run(subject, changed(subject.inputs))
    plain = run(subject, subject.inputs, used)
    for step in sorted({0, subject.steps // 2, subject.steps - 1}):
        index = step % subject.rows
        actual = run(subject, subject.inputs, used, reset=flags(subject, False, (index, step)))
        what = f"when row {index} is reset before step {step}"
        afresh = run(subject, row(cut(subject.inputs, step, subject.steps), index))
        after = row((cut(actual[0], step, subject.steps), actual[1]), index)
        if difference := compare(afresh, after, subject.tolerance, first_step=step):
            return f"{difference.of([index])} from a fresh start {what}: something of the old state survives"
        before = (cut(plain[0], 0, step), ()), (cut(actual[0], 0, step), ())
        if step and (difference := compare(*before, subject.tolerance)):
            return f"{difference} {what}: the reset comes too early"
        others = [other for other in range(subject.rows) if other != index]
        if others and (difference := compare(rows(plain, others), rows(actual, others), subject.tolerance)):
            return f"{difference.of(others)} {what}: the reset reaches other rows"
    return None


@law("an inactive row keeps its state to the bit", takes("active"))
def inactive(subject: Subject) -> str | None:
    step, index = subject.steps // 2, subject.rows - 1
    others = list(range(index))
    _, state = run(subject, cut(subject.inputs, 0, max(1, step)))
    now = cut(subject.inputs, step, step + 1)
    plain = run(subject, now, state)
    for nan in probes(subject):
        here = changed(now, rows=index, nan=True) if nan else now
        y, following = run(subject, here, state, active=flags(subject, True, (index, step))[:, step : step + 1])
        what = f"when row {index} is inactive at step {step}" + " and its input is NaN" * nan
        kept = row((map_tree(torch.zeros_like, y), state), index)
        if difference := compare(kept, row((y, following), index), first_step=step):
            wrong = "its state does not stay" if difference.step is None else "its output is not zeros"
            return f"{difference.of([index])} {what}: {wrong}"
        if others and (
            difference := compare(rows(plain, others), rows((y, following), others), subject.tolerance, first_step=step)
        ):
            return f"{difference.of(others)} {what}: a leak across rows"
    return None


@law("inactive steps are as if they were not there", takes("active"), several_steps)
def skipped_steps(subject: Subject) -> str | None:
    off = [step for step in range(subject.steps) if step % 3 == 1]
    on = [step for step in range(subject.steps) if step % 3 != 1]
    y, state = run(subject, subject.inputs, active=flags(subject, True, *((0, step) for step in off)))
    without = run(subject, map_tree(lambda x: x[:1, on], subject.inputs))
    if difference := compare(without, (map_tree(lambda x: x[:1, on], y), row(state, 0)), subject.tolerance):
        if difference.step is not None:
            difference = replace(difference, step=on[difference.step])
        return f"{difference} when row 0 is inactive at the steps {', '.join(map(str, off))}: they change later results"
    return None


@law("gradients of chunks = gradients of the whole", several_steps)
def gradients(subject: Subject) -> str | None:
    whole = gradients_of(subject, (subject.steps,))
    if not whole:
        raise Unchecked("nothing here has gradients")
    for split in subject.splits:
        actual = gradients_of(subject, split)
        for name, gradient in whole.items():
            pair = ((), gradient.unsqueeze(0)), ((), actual[name].unsqueeze(0))
            if difference := compare(*pair, 10 * subject.tolerance, among=whole):
                return (
                    f"the gradient to {name} differs by up to {difference.size:.3g} when {subject.steps} "
                    f"steps come in chunks of {', '.join(map(str, split))}: it is lost at the boundary"
                )
    return None
