"""Ctrl-C while a model learns: the update that goes on is finished first, so that all of it can be kept."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether somebody wants the run to stop."""

    wanted = False


@contextmanager
def stoppable(possible: bool = True) -> Iterator[Stop]:
    """The first Ctrl-C meanwhile is only noted; a second one interrupts at once, as it does elsewhere.

    Args:
        possible: whether one process may stop by itself, and not all those of a run together.
    """
    stop = Stop()
    usual = signal.getsignal(signal.SIGINT)
    if not possible or usual is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop.wanted = True
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, usual)
