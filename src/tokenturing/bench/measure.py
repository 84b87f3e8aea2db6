"""Timings that can be compared: all contestants take turns in one run, and medians with quartiles are kept."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from tokenturing.bench.contestants import Contestant, Size, inputs, state_bytes
from tokenturing.bench.machine import synchronize

WARM_UP = 3
TRAINED_ROWS, TRAINED_STEPS = 8, 24
POSITIONS = (100, 1_000, 10_000, 100_000)
SEEN = 16
"""steps before one that is timed"""
AROUND = 51
"""steps whose median is the time of a position"""
Report = Callable[[int, int], None]
"""called with (done, in all)"""


@dataclass(frozen=True)
class Timing:
    """Of one contestant, in seconds."""

    median: float
    low: float
    """lower quartile"""
    high: float
    """upper quartile"""
    rounds: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        """Median and quartiles."""
        low, median, high = statistics.quantiles([*seconds, *seconds[: len(seconds) == 1]], n=4)
        return cls(median, low, high, len(seconds))


def take_turns(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: str = "cpu",
    report: Report | None = None,
    warm_up: int = WARM_UP,
) -> dict[str, Timing]:
    """Each round one call of each, another one first each time."""
    names = list(calls)
    for name in names:
        for _ in range(warm_up):
            calls[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with _undisturbed():
        for index in range(rounds):
            for name in names[index % len(names) :] + names[: index % len(names)]:
                synchronize(device)
                began = time.perf_counter()
                calls[name]()
                synchronize(device)
                seconds[name].append(time.perf_counter() - began)
            if report:
                report(index + 1, rounds)
    return {name: Timing.of(found) for name, found in seconds.items()}


@contextmanager
def _undisturbed() -> Any:
    """Without the garbage collector, which would come in somebody's turn."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def step_latency(
    found: Sequence[Contestant],
    size: Size,
    batches: Sequence[int],
    rounds: int,
    device: str = "cpu",
    report: Report | None = None,
) -> list[dict[str, Any]]:
    """A step of B rows from a state that has seen a few steps."""
    rows = []
    for at, batch in enumerate(batches):
        x = inputs(size, batch, device=device)
        calls: dict[str, Callable[[], Any]] = {}
        for one in found:
            calls[one.name] = _stepper(one, x)
        timings = take_turns(calls, rounds, device, _shifted(report, at * rounds, len(batches) * rounds))
        rows += [{"name": name, "batch": batch, **asdict(timing)} for name, timing in timings.items()]
    return rows


def _shifted(report: Report | None, done: int, total: int) -> Report | None:
    return None if report is None else lambda index, _: report(done + index, total)


def _stepper(one: Contestant, x: torch.Tensor) -> Callable[[], Any]:
    held = [one.start(len(x))]
    with torch.no_grad():
        for _ in range(SEEN):  # also for those that grow, whose state stays as it is then
            held[0] = one.step(x, held[0])[1]

    @torch.no_grad()
    def call() -> None:
        _, following = one.step(x, held[0])
        if not one.grows:
            held[0] = following

    return call


def training(
    found: Sequence[Contestant],
    size: Size,
    rounds: int,
    rows: int = TRAINED_ROWS,
    steps: int = TRAINED_STEPS,
    device: str = "cpu",
    report: Report | None = None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Forward and backward through T steps of B rows; who cannot be trained so, with the reason."""
    x = inputs(size, rows, steps, device=device)
    calls: dict[str, Callable[[], Any]] = {}
    failed, first = {}, {}
    for one in found:
        if one.train is None:
            continue
        began = time.perf_counter()
        try:
            one.train(x)
        except Exception as error:  # a peer's own; it is no reason to measure nobody
            failed[one.name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        first[one.name] = time.perf_counter() - began
        calls[one.name] = partial(one.train, x)
    timings = take_turns(calls, rounds, device, report, warm_up=1)
    table = [
        {"name": name, "rows": rows, "steps": steps, "first": first[name], **asdict(timing)} for name, timing in timings.items()
    ]
    return table, failed


def by_position(
    found: Sequence[Contestant],
    size: Size,
    positions: Sequence[int],
    seconds: float,
    device: str = "cpu",
    report: Report | None = None,
) -> list[dict[str, Any]]:
    """Step time and size of the state, one row, after so many steps of a stream.

    All go from position to position in turns of their own, so that a position is reached by all at about the same time. Who has
    used up `seconds` is not run any further; the rows say how far it came.
    """
    states = {one.name: one.start(1) for one in found}
    spent = dict.fromkeys(states, 0.0)
    rows: list[dict[str, Any]] = []
    at = 0
    x = inputs(size, 257, 1, device=device)
    for position in sorted(positions):
        for index, one in enumerate(found):
            if spent[one.name] > seconds:
                continue
            times, state = [], states[one.name]
            with torch.no_grad():
                for step in range(at, position):
                    began = time.perf_counter()
                    _, state = one.step(x[step % len(x)], state)
                    synchronize(device)
                    times.append(time.perf_counter() - began)
                    spent[one.name] += times[-1]
                    if spent[one.name] > seconds:
                        break
            states[one.name] = state
            last = at + len(times)
            rows.append(
                {
                    "name": one.name,
                    "position": last,
                    "reached": last == position,
                    "state_bytes": state_bytes(state),
                    **asdict(Timing.of(times[-AROUND:])),
                }
            )
            if report:
                report(sorted(positions).index(position) * len(found) + index + 1, len(positions) * len(found))
        at = position
    return rows
