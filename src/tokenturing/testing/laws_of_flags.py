"""The laws of resets and pauses, for modules that take these flags; as the others, one small function each."""

from dataclasses import replace

import torch
from torch import Tensor

from tokenturing.testing.law import law, several_steps, takes
from tokenturing.testing.subject import Subject, changed, cut, flags, probes, row, rows, run
from tokenturing.testing.trees import compare, map_tree


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
        if difference := subject.compare(afresh, after, first_step=step):
            return f"{difference.of([index])} from a fresh start {what}: something of the old state survives"
        before = (cut(plain[0], 0, step), ()), (cut(actual[0], 0, step), ())
        if step and (difference := subject.compare(*before)):
            return f"{difference} {what}: the reset comes too early"
        others = [other for other in range(subject.rows) if other != index]
        if others and (difference := subject.compare(rows(plain, others), rows(actual, others))):
            return f"{difference.of(others)} {what}: the reset reaches other rows"
    if subject.probe_nan:
        lost = map_tree(lambda leaf: _with_nan(leaf, 0), used)
        actual = run(subject, subject.inputs, lost, reset=flags(subject, False, (0, 0)))
        afresh = run(subject, row(subject.inputs, 0))
        if difference := subject.compare(afresh, row(actual, 0)):
            return f"{difference.of([0])} from a fresh start when its state is NaN and is reset: replace it, NaN times 0 is NaN"
    return _nan_before_reset(subject) if True in probes(subject) and subject.steps > 1 else None


def _nan_before_reset(subject: Subject) -> str | None:
    """NaN that came in earlier in the same call is gone after a reset."""
    step = subject.steps // 2
    inputs = changed(subject.inputs, rows=0, steps=slice(0, step), nan=True)
    outputs, state = run(subject, inputs, reset=flags(subject, False, (0, step)))
    afresh = run(subject, row(cut(subject.inputs, step, subject.steps), 0))
    if difference := subject.compare(afresh, row((cut(outputs, step, subject.steps), state), 0), first_step=step):
        what = f"when its inputs before step {step} are NaN and it is reset there"
        return f"{difference.of([0])} from a fresh start {what}: replace the state, NaN times 0 is NaN"
    return None


def _with_nan(leaf: Tensor, index: int) -> Tensor:
    if not (leaf.is_floating_point() or leaf.is_complex()):
        return leaf
    leaf = leaf.clone()
    leaf[index] = torch.nan
    return leaf


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
        if others and (difference := subject.compare(rows(plain, others), rows((y, following), others), first_step=step)):
            return f"{difference.of(others)} {what}: a leak across rows"
    return None


@law("a reset in an inactive step counts", takes("reset"), takes("active"))
def reset_while_inactive(subject: Subject) -> str | None:
    """The row keeps the state from before its first step, and goes on from there."""
    _, used = run(subject, changed(subject.inputs))
    index, what = subject.rows - 1, "when it is reset in a step in which it is inactive"
    ignored = "the reset must count, so that the row keeps the state it has before its first step"
    off = flags(subject, False, (index, 0))
    _, state = run(subject, cut(subject.inputs, 0, 1), used, reset=off[:, :1], active=~off[:, :1])
    afresh, later = run(subject, row(subject.inputs, index)), run(subject, subject.inputs, state)
    if difference := subject.compare(afresh, row(later, index)):
        return f"{difference.of([index])} in the calls after from a fresh start {what}: {ignored}"
    if subject.steps > 1:
        outputs, state = run(subject, subject.inputs, used, reset=off, active=~off)
        afresh = run(subject, row(cut(subject.inputs, 1, subject.steps), index))
        if difference := subject.compare(afresh, row((cut(outputs, 1, subject.steps), state), index), first_step=1):
            return f"{difference.of([index])} from a fresh start {what}: {ignored}"
    return None


@law("inactive steps are as if they were not there", takes("active"), several_steps)
def skipped_steps(subject: Subject) -> str | None:
    off = [step for step in range(subject.steps) if step % 3 == 1]
    on = [step for step in range(subject.steps) if step % 3 != 1]
    y, state = run(subject, subject.inputs, active=flags(subject, True, *((0, step) for step in off)))
    without = run(subject, map_tree(lambda x: x[:1, on], subject.inputs))
    if difference := subject.compare(without, (map_tree(lambda x: x[:1, on], y), row(state, 0))):
        if difference.step is not None:
            difference = replace(difference, step=on[difference.step])
        return f"{difference} when row 0 is inactive at the steps {', '.join(map(str, off))}: they change later results"
    return None
