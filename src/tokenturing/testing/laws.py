"""The laws that `check_streaming` checks, one small function each.

Each takes the subject and returns None, or a sentence on which rows and steps differ first, by how much, and what that means.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokenturing.testing.law import Unchecked, has_step, law, several_rows, several_steps
from tokenturing.testing.subject import (
    ROUNDINGS,
    Subject,
    at,
    changed,
    cut,
    fresh_copy,
    gradients_of,
    nudged,
    overwritten,
    probes,
    row,
    rows,
    run,
    run_chunks,
    run_steps,
)
from tokenturing.testing.trees import Difference, Tolerance, compare, distance, largest, leaves, map_tree


@law("outputs are numbers")
def numbers(subject: Subject) -> str | None:
    if any(x.isnan().any() for _, x in leaves(subject.inputs)):
        raise Unchecked("the inputs hold NaN")
    outputs, state = run(subject, subject.inputs)
    for name, y in leaves(outputs):
        lost = y.isnan().flatten(2).any(-1) if y.dim() > 2 else y.isnan()
        if lost.any():
            row, step = lost.nonzero()[0].tolist()
            return (
                f"the output{f' {name!r}' if name else ''} of row {row} is NaN from step {step} on, and the inputs are not: no "
                "law can tell one NaN from another; give inputs that it can work with, or leave this law out if NaN is meant"
            )
    for name, leaf in leaves(state):
        if leaf.numel() and leaf.isnan().all():
            return f"state leaf {name!r} is NaN throughout, and the inputs are not: no law can tell one NaN from another"
    return None


@law("same call, same result")
def same_twice(subject: Subject) -> str | None:
    first = fresh_copy(run(subject, subject.inputs))
    buffers = {name: buffer.clone() for name, buffer in _buffers(subject)}
    run(subject, changed(subject.inputs))
    second = run(subject, subject.inputs)
    if difference := subject.compare(first, second):
        return (
            f"{difference} when the same call is made again after another: the module keeps something to "
            "itself that belongs in the state (or draws random numbers: set dropout to 0 or call eval())"
        )
    for name, buffer in _buffers(subject):
        if not torch.equal(buffer, buffers[name]):
            return f"the buffer {name!r} changes with every call: what is remembered belongs in the state"
    return None


def _buffers(subject: Subject) -> list[tuple[str, Tensor]]:
    return [] if subject.module is None else list(subject.module.named_buffers())


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


@law("results are left alone")
def not_shared(subject: Subject) -> str | None:
    inputs = fresh_copy(subject.inputs)
    calls: dict[str, Callable[[], Any]] = {"the call": lambda: run(subject, inputs)}
    if step := subject.step:
        calls["step"] = lambda: step(at(inputs, 0), subject.initial_state(subject.rows))
    for name, call in calls.items():
        result = call()
        kept = fresh_copy(result)
        run(subject, changed(subject.inputs))
        if step:
            step(at(changed(subject.inputs), 0), subject.initial_state(subject.rows))
        if difference := _of_call(kept, result, name):
            return (
                f"{difference} in what {name} returned before, when another session runs: the module keeps it and writes "
                "to it again; return a clone"
            )
        overwritten(inputs)
        if difference := compare(((), kept[1]), ((), result[1])):
            return (
                f"{difference} in what {name} returned, when its inputs are overwritten: the state is a view of the input; "
                "keep a clone"
            )
        inputs = fresh_copy(subject.inputs)
    return None


def _of_call(expected: Any, actual: Any, name: str) -> Difference | None:
    """Compare two results of the call, or of `step`, whose outputs have no axis of steps."""
    if name == "step":
        expected, actual = ((map_tree(lambda y: y.unsqueeze(1), y), state) for y, state in (expected, actual))
    return compare(expected, actual)


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
        if difference := subject.compare(whole, run_chunks(subject, subject.inputs, split)):
            return (
                f"{difference} when {subject.steps} steps come in chunks of {', '.join(map(str, split))}: "
                "something does not cross the boundary in the state"
            )
    return None


@law("step by step = whole", has_step)
def step_by_step(subject: Subject) -> str | None:
    whole, steps = run(subject, subject.inputs), run_steps(subject, subject.inputs)
    if difference := subject.compare(whole, steps):
        return f"{difference} between `step` for each step and the call on all of them"
    return None


@law("a row alone = among strangers", several_rows)
def alone(subject: Subject) -> str | None:
    together = run(subject, subject.inputs)
    for index in range(subject.rows):
        by_itself = run(subject, row(subject.inputs, index))
        if difference := subject.compare(row(together, index), by_itself):
            return f"{difference.of([index])} when it runs by itself: its result depends on its batch"
    return None


@law("strangers change nothing", several_rows)
def strangers(subject: Subject) -> str | None:
    expected = run(subject, subject.inputs)
    for nan in probes(subject):
        for index in range(subject.rows):
            actual = run(subject, changed(subject.inputs, rows=index, nan=nan))
            others = [other for other in range(subject.rows) if other != index]
            if difference := subject.compare(rows(expected, others), rows(actual, others)):
                how = "is NaN" if nan else "changes"
                return f"{difference.of(others)} when row {index}'s input {how}: a leak across rows"
    return None


@law("the future changes nothing", several_steps)
def causality(subject: Subject) -> str | None:
    expected, _ = run(subject, subject.inputs)
    for step in sorted({1, subject.steps // 2, subject.steps - 1}):
        actual, _ = run(subject, changed(subject.inputs, steps=slice(step, None)))
        past = (cut(expected, 0, step), ()), (cut(actual, 0, step), ())
        if difference := subject.compare(*past):
            return f"{difference} when the inputs change only from step {step} on: it sees the future"
    return None


@law("gradients of chunks = gradients of the whole", several_steps)
def gradients(subject: Subject) -> str | None:
    whole = gradients_of(subject, (subject.steps,))
    if not whole:
        raise Unchecked("nothing here has gradients")
    allowed = _of_gradients(subject, whole)
    for split in subject.splits:
        actual = gradients_of(subject, split)
        for name, gradient in whole.items():
            pair = ((), {name: gradient.unsqueeze(0)}), ((), {name: actual[name].unsqueeze(0)})
            if difference := compare(*pair, allowed):
                return (
                    f"the gradient to {name} differs by up to {difference.size:.3g} when {subject.steps} "
                    f"steps come in chunks of {', '.join(map(str, split))}: it is lost at the boundary"
                )
    return None


def _of_gradients(subject: Subject, whole: dict[str, Tensor]) -> Tolerance:
    """What gradients may be off: those that are 0 but for rounding too, such as that of a key's bias."""
    nearby = gradients_of(subject, (subject.steps,), nudged(subject.inputs))
    most = max(map(largest, whole.values()))
    noise = {
        f"state leaf {name!r}": ROUNDINGS * max(largest(distance(gradient, nearby[name])), torch.finfo(gradient.dtype).eps * most)
        for name, gradient in whole.items()
    }
    return Tolerance(subject.tolerance, subject.by_type, noise, factor=10.0)
