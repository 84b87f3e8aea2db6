"""`check_streaming` and its report."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tokenturing.errors import OptionError, ShapeError, choose
from tokenturing.testing import laws, laws_of_flags
from tokenturing.testing.law import LAWS, Unchecked
from tokenturing.testing.subject import Subject, flags, run
from tokenturing.testing.trees import TOLERANCES, compare, leaves

FLAGS = ("reset", "active")
assert laws
assert laws_of_flags  # importing them fills the table


@dataclass(frozen=True)
class Failure:
    """One law that does not hold."""

    law: str
    message: str
    """which rows and steps differ first, by how much, and what that means"""


@dataclass(frozen=True)
class StreamingReport:
    """What `check_streaming` found."""

    passed: list[str] = field(default_factory=list)
    """the laws that hold"""
    failures: list[Failure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """law -> why it could not be checked"""

    @property
    def ok(self) -> bool:
        """Nothing failed."""
        return not self.failures

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        lines = [f"FAILED   {failure.law}: {failure.message}" for failure in self.failures]
        lines += [f"passed   {law}" for law in self.passed]
        lines += [f"skipped  {law}: {why}" for law, why in self.skipped.items()]
        return "\n".join(lines)


class StreamingError(AssertionError):
    """The module breaks laws of streaming; the message says which and where, `report` holds all findings."""

    def __init__(self, report: StreamingReport):
        count = len(report.failures)
        super().__init__(f"the module breaks {count} law{'s' * (count > 1)} of streaming\n{report}")
        self.report = report


def check_streaming(
    model: Callable[..., Any],
    inputs: Any,
    *,
    initial_state: Callable[[int], Any] | None = None,
    step: Callable[[Any, Any], Any] | None = None,
    splits: Sequence[Sequence[int]] | None = None,
    tolerance: float | None = None,
    probe_nan: bool = True,
    grows: bool = False,
    skip: Sequence[str] = (),
    raises: bool = True,
) -> StreamingReport:
    """Check the laws of streaming on a recurrent module of your own.

    Args:
        model: called as `model(x, state, reset=..., active=...)`; its training mode is left as it is. A reset counts in a step in
            which the row is inactive too: it then keeps the state from before its first step.
        inputs: [B, T, ...], or tuples or dicts of such tensors; 2 rows or more and about 8 steps reveal the most.
        initial_state: batch size -> state; None: `model.initial_state`.
        step: (x [B, ...], state) -> (y [B, ...], state); None: `model.step`, if there is one.
        splits: chunk lengths to try, each adding up to T; None: a few.
        tolerance: the largest difference allowed, relative to the largest value of each tensor; None: by dtype, 1e-4 for float32.
            What is all rounding, as it moves as much when inputs are rounded, may differ by that.
        probe_nan: also try NaN in inputs that must not matter: those of other rows, of inactive rows and from before a reset.
        grows: whether the state may grow with the stream.
        skip: laws not to check.
        raises: whether to raise if a law is broken, instead of only reporting it.

    Returns:
        The laws that hold, those that do not, and those that could not be checked.

    Raises:
        StreamingError: a law is broken.
        OptionError: the module or an argument does not fit.
    """
    for law in skip:
        choose("skip", law, LAWS)
    subject = _subject(model, inputs, initial_state, step, splits, tolerance, probe_nan, grows)
    report = StreamingReport()
    for name in LAWS:
        _check(name, subject, report, skip)
    if report.failures and raises:
        raise StreamingError(report)
    return report


def _check(name: str, subject: Subject, report: StreamingReport, skip: Sequence[str]) -> None:
    """Check one law and add the finding to the report."""
    why = "left out" if name in skip else LAWS[name].obstacle(subject)
    if why:
        report.skipped[name] = why
        return
    try:
        with torch.set_grad_enabled(name.startswith("gradients")):
            message = LAWS[name].check(subject)
    except Unchecked as obstacle:
        report.skipped[name] = str(obstacle)
        return
    except Exception as error:  # the module's own error is a finding too
        message = f"the module raised {type(error).__name__}: {error}"
    if message:
        report.failures.append(Failure(name, message))
    else:
        report.passed.append(name)


def _subject(
    model: Callable[..., Any],
    inputs: Any,
    initial_state: Callable[[int], Any] | None,
    step: Callable[[Any, Any], Any] | None,
    splits: Sequence[Sequence[int]] | None,
    tolerance: float | None,
    probe_nan: bool,
    grows: bool,
) -> Subject:
    try:
        tensors = [tensor for _, tensor in leaves(inputs)]
    except TypeError as error:
        raise ShapeError(f"inputs: {error}") from error
    if not tensors or any(t.dim() < 2 or t.shape[:2] != tensors[0].shape[:2] or not t.numel() for t in tensors):
        shapes = [list(t.shape) for t in tensors]
        raise ShapeError(f"inputs have the shapes {shapes}: expected [B, T, ...] with one B and one T of at least 1")
    initial_state = initial_state or getattr(model, "initial_state", None)
    if initial_state is None:
        raise OptionError(f"{type(model).__name__} has no initial_state(batch_size): pass one as initial_state=")
    steps = tensors[0].shape[1]
    for split in splits or ():
        if sum(split) != steps or min(split) < 1:
            raise OptionError(f"split {list(split)} of {steps} steps: expected lengths of at least 1 that add up")
    subject = Subject(
        model,
        inputs,
        initial_state,
        step or getattr(model, "step", None),
        frozenset(),
        frozenset(),
        _tolerance(model, tensors, initial_state) if tolerance is None else tolerance,
        tolerance is None,
        tuple(map(tuple, splits)) if splits else _splits(steps),
        probe_nan,
        grows,
    )
    taken = {flag: _takes(subject, flag) for flag in FLAGS}
    return replace(
        subject,
        flags=frozenset(flag for flag, answer in taken.items() if answer),
        ignored=frozenset(flag for flag, answer in taken.items() if answer is None),
    )


def _tolerance(model: Callable[..., Any], inputs: list[Tensor], initial_state: Callable[[int], Any]) -> float:
    """By the types of the inputs, or of the parameters where inputs are numbers of tokens.

    That of float32 does too where inputs are finer than a state or parameters. A state coarser than that loses what is in it.
    """
    others: list[Tensor] = list(model.parameters()) if isinstance(model, nn.Module) else []
    own = _by_type(inputs) or _by_type(others) or 1e-4
    with suppress(Exception), torch.no_grad():  # whatever is wrong with the module is for its laws to say
        others += [leaf for _, leaf in leaves(initial_state(len(inputs[0])))]
    return max(own, min(TOLERANCES[torch.float32], _by_type(others)))


def _by_type(tensors: Sequence[Tensor]) -> float:
    """The tolerance of the coarsest type, 0 where there is none."""
    return max((TOLERANCES.get(t.dtype, 0.0) for t in tensors), default=0.0)


def _takes(subject: Subject, flag: str) -> bool | None:
    """Whether the call takes this flag; None: it takes any keyword, and this one changes nothing.

    Wrappers hand on any keyword to who knows what, so that a call must tell.
    """
    call = getattr(subject.model, "_orig_mod", subject.model)
    parameters = inspect.signature(call.forward if isinstance(call, nn.Module) else call).parameters
    if flag in parameters:
        return True
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return False
    with torch.no_grad():
        try:
            _, used = run(subject, subject.inputs)
            plain = run(subject, subject.inputs, used)
        except Exception:  # whatever is wrong with the module is for its laws to say
            return False
        everywhere = ~flags(subject, False) if flag == "reset" else flags(subject, False)
        try:
            other = run(subject, subject.inputs, used, **{flag: everywhere})
        except TypeError as error:
            return f"'{flag}'" not in str(error)
        except Exception:
            return True
    return None if compare(plain, other) is None else True


def _splits(steps: int) -> tuple[tuple[int, ...], ...]:
    """The first step apart, the last step apart, halves, and uneven thirds."""
    third = steps // 3
    tries = [(1, steps - 1), (steps - 1, 1), (steps // 2, steps - steps // 2), (third, 1, steps - third - 1)]
    return tuple(dict.fromkeys(split for split in tries if min(split) >= 1))
