"""How long each stage of a step takes, against the time there is."""

import time
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenturing.media.feed import Taken

DECODE, WAIT, ENCODE, MODEL, WRITE = "decode", "wait", "encode", "model", "write"
TOTAL = "all"
KEPT = 100_000
"""of the last steps"""
FIRST = 1
"""steps at the beginning that are left out: what is made ready then is not made again"""


class Stages:
    """Takes a session through steps and measures.

    Args:
        session: whatever it is; of one with `encode` and `absorb` what comes before the model is measured by itself.
        seconds: of a step, the time there is.
    """

    def __init__(self, session: Any, seconds: float):
        self._session, self._budget = session, seconds
        self._rows: deque[dict[str, float]] = deque(maxlen=KEPT)
        self._seen = 0
        self._splits = all(hasattr(session, name) for name in ("encode", "absorb", "state", "model"))

    def take(self, taken: "Taken") -> list[Any]:
        """What the session notices in a step."""
        session, step = self._session, taken.step
        began = encoded = time.perf_counter()
        if self._splits:
            inputs = session.encode(step)
            encoded = time.perf_counter()
            events = session.absorb(inputs, *session.model.step_and_perceive(dict(inputs), session.state))
        else:
            events = session.take(step)
        ended = time.perf_counter()
        row = {DECODE: taken.decoding, WAIT: taken.waiting, ENCODE: encoded - began, MODEL: ended - encoded}
        self._seen += 1
        if self._seen > FIRST:
            self._rows.append(row)
        return events

    def wrote(self, seconds: float) -> None:
        """It took so long to write what came of the last step."""
        if self._rows:
            self._rows[-1][WRITE] = seconds

    def figures(self) -> dict[str, dict[str, float]]:
        """Milliseconds by stage, and of all stages together but the waiting: "median" and "p99"."""
        rows = list(self._rows)
        names = [name for name in (DECODE, WAIT, ENCODE, MODEL, WRITE) if any(row.get(name) for row in rows)]
        times = {name: [row.get(name, 0.0) for row in rows] for name in names}
        times[TOTAL] = [sum(part for name, part in row.items() if name != WAIT) for row in rows]
        return {
            name: {"median": round(1000 * float(np.median(part)), 3), "p99": round(1000 * float(np.percentile(part, 99)), 3)}
            for name, part in times.items()
            if part
        }

    def line(self, dropped: int) -> str:
        """For people."""
        found = self.figures()
        if not found:
            return "too short to say how long a step takes"
        whole = found[TOTAL]
        parts = ", ".join(f"{name} {part['median']:.1f}/{part['p99']:.1f}" for name, part in found.items() if name != TOTAL)
        left_out = f"; {dropped} steps were left out, as they came too late" if dropped else ""
        return (
            f"a step took {whole['median']:.1f} ms (median) and {whole['p99']:.1f} ms (99 %) of the {1000 * self._budget:.0f} ms "
            f"there are ({parts}){left_out}"
        )
