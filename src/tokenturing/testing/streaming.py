"""`check_streaming` and its report."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tokenturing.errors import OptionError, ShapeError, choose
from tokenturing.testing.laws import LAWS, Unchecked
from tokenturing.testing.subject import Subject
from tokenturing.testing.trees import compare, leaves

FLAGS = ("reset", "active")
TOLERANCES = {
    **{torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2},
    **{torch.complex128: 1e-9, torch.complex64: 1e-4},
}


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
        model: called as `model(x, state, reset=..., active=...)`; its training mode is left as it is.
        inputs: [B, T, ...], or tuples or dicts of such tensors; 2 rows or more and about 8 steps reveal the most.
        initial_state: batch size -> state; None: `model.initial_state`.
        step: (x [B, ...], state) -> (y [B, ...], state); None: `model.step`, if there is one.
        splits: chunk lengths to try, each adding up to T; None: a few.
        tolerance: the largest difference allowed, relative to the largest value; None: by dtype, 1e-4 for float32.
        probe_nan: also try NaN in inputs that must not matter: those of other rows and of inactive rows.
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
    tensors = [tensor for _, tensor in leaves(inputs)]
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
    types = [t.dtype for t in tensors if t.dtype in TOLERANCES]
    return Subject(
        model,
        inputs,
        initial_state,
        step or getattr(model, "step", None),
        _flags(model, inputs, initial_state),
        max((TOLERANCES[dtype] for dtype in types), default=1e-4) if tolerance is None else tolerance,
        tuple(map(tuple, splits)) if splits else _splits(steps),
        probe_nan,
        grows,
    )


def _flags(model: Callable[..., Any], inputs: Any, initial_state: Callable[[int], Any]) -> frozenset[str]:
    """Which of "reset" and "active" the call takes; one that passes on whatever it gets is tried."""
    inner = getattr(model, "_orig_mod", model)  # what torch.compile returned takes anything
    call = inner.forward if isinstance(inner, nn.Module) else inner
    parameters = inspect.signature(call).parameters
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    known = [flag for flag in FLAGS if flag in parameters]
    tried = [flag for flag in FLAGS if anything and flag not in known and _passes_on(flag, model, inputs, initial_state)]
    return frozenset(known + tried)


def _passes_on(flag: str, model: Callable[..., Any], inputs: Any, initial_state: Callable[[int], Any]) -> bool:
    """Whether a call that takes anything does something with the flag: some pass it on, others swallow it."""
    first = next(tensor for _, tensor in leaves(inputs))
    value = torch.full(first.shape[:2], flag == "reset", device=first.device)
    try:
        with torch.no_grad():
            plain = model(inputs, initial_state(len(first)))
            return compare(plain, model(inputs, initial_state(len(first)), **{flag: value})) is not None
    except TypeError as error:
        return flag not in str(error)  # of something else: the laws will find it
    except Exception:  # the module's own, which the laws will find
        return True


def _splits(steps: int) -> tuple[tuple[int, ...], ...]:
    """The first step apart, the last step apart, halves, and uneven thirds."""
    third = steps // 3
    tries = [(1, steps - 1), (steps - 1, 1), (steps // 2, steps - steps // 2), (third, 1, steps - third - 1)]
    return tuple(dict.fromkeys(split for split in tries if min(split) >= 1))
