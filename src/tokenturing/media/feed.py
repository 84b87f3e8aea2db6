"""The steps of media for one who may be slower than they come: of a live source, steps that come too late are left out."""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from tokenturing.errors import OptionError, choose
from tokenturing.media.steps import Media, MediaStep

AUTO, OLDEST, NEVER = DROPS = ("auto", "oldest", "never")
LATE_SECONDS = 1.0
"""behind the clock on the wall, from which on waiting steps are left out"""
WAITING_SECONDS, FEWEST = 2.0, 2
"""of media that are decoded ahead, and steps at least"""
ENDING_SECONDS = 2.0
"""for which the end waits for a source that is being read"""


class Taken(NamedTuple):
    """A step and how it came."""

    step: MediaStep
    passed: Sequence[tuple[float, Any]]
    """see `Media.passed`"""
    decoding: float
    """seconds of this step; of a live source without those in which nothing came"""
    waiting: float
    """seconds for which it was ready before it was taken"""


class Feed:
    """An iterable of `Taken`, to be read once.

    Of what is not live, each step is decoded when it is asked for, and none is left out. A live source is read by a thread of
    its own: where the oldest waiting step is more than LATE_SECONDS late and another one waits behind it, it is left out and
    counted. Late is what comes later after the first step than its time says.

    Args:
        media: open.
        drop: "auto": as above; "oldest": the same for a pipe, taken for live; "never".

    Raises:
        OptionError: steps of a file would be left out.
    """

    def __init__(self, media: Media, drop: str = AUTO):
        choose("drop", drop, DROPS)
        if drop == OLDEST and media.is_file:
            raise OptionError(f"drop={drop!r}: {media.name} is a file, of which nothing is left out: expected auto or never")
        self._media, self.live = media, media.live or drop == OLDEST
        self._drops = self.live and drop != NEVER
        self.dropped = 0
        """steps that were left out"""
        self._most = max(FEWEST, round(WAITING_SECONDS / media.step_seconds))
        self._ready: deque[tuple[Taken, float]] = deque()
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._began = 0.0

    def __iter__(self) -> Iterator[Taken]:
        return self._taken() if self.live else self._decoded(time.perf_counter)

    def _decoded(self, clock: Any) -> Iterator[Taken]:
        with closing(iter(self._media)) as steps:  # type: ignore[type-var]
            while True:
                began = clock()
                step = next(steps, None)
                if step is None:
                    return
                yield Taken(step, self._media.passed, clock() - began, 0.0)

    def _taken(self) -> Iterator[Taken]:
        reader = threading.Thread(target=self._read, name="media", daemon=True)
        reader.start()
        try:
            while (found := self._next()) is not None:
                yield found
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            reader.join(ENDING_SECONDS)
        if self._error:
            raise self._error

    def _read(self) -> None:
        """In the thread: its own seconds of work, not those in which it waits for the source."""
        try:
            with closing(self._decoded(time.thread_time)) as steps:  # type: ignore[type-var]
                for taken in steps:
                    with self._changed:
                        self._changed.wait_for(lambda: self._closed or len(self._ready) < self._most)
                        if self._closed:
                            return
                        now = time.monotonic()
                        self._began = self._began or now - taken.step.time
                        self._ready.append((taken, now))
                        self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _next(self) -> Taken | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            now = time.monotonic()
            while self._drops and len(self._ready) > 1 and now - self._began - self._ready[0][0].step.time > LATE_SECONDS:
                self._ready.popleft()
                self.dropped += 1
            if not self._ready:
                return None
            taken, since = self._ready.popleft()
            self._changed.notify_all()
            return taken._replace(waiting=now - since)
