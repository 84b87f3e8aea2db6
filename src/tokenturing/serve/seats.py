"""The sessions that this process holds: in memory, asleep, or about to be forgotten."""

import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from tokenturing.serve import messages as say
from tokenturing.serve.limits import Limits
from tokenturing.serve.messages import Message, ProtocolError
from tokenturing.serve.metrics import Metrics
from tokenturing.serve.replies import error_message, moved
from tokenturing.serve.served import Served, Stream
from tokenturing.serve.store import Record


class Listener(Protocol):
    """A connection, as the engine knows it."""

    def send(self, message: Message, encoded: bytes | None = None) -> None:
        """Put a message in line; `encoded` is the same as bytes where they are at hand."""
        ...


@dataclass
class Job:
    """A message of a client that waits for its turn."""

    message: Any
    listener: Listener
    arrived: float = field(default_factory=time.monotonic)


@dataclass
class Seat:
    """A session that this process holds."""

    record: Record
    fence: int
    listener: Listener | None = None
    stream: Stream | None = None
    """None: it sleeps, and the state of `record` is left out"""
    queue: deque[Job] = field(default_factory=deque)
    busy: bool = False
    replies: dict[int, bytes] = field(default_factory=dict)
    """that are not in the store yet, with --durability interval"""
    marks: dict[str, bytes] = field(default_factory=dict)
    dirty_since: float | None = None
    gone: str = ""
    """why it must not be used any more"""


@dataclass
class Work:
    """A session's input and what became of it."""

    seat: Seat
    job: Job
    reply: Message | None = None
    record: Record | None = None
    """the session after it; None: nothing has changed"""
    marks: tuple[tuple[str, bytes], ...] = ()
    encoded: bytes = b""


class Seats(dict[str, Seat]):
    """Seats by their session's id.

    Args:
        models: by name.
        limits: how many may be in memory.
        metrics: where they are counted.
    """

    def __init__(self, models: Mapping[str, Served], limits: Limits, metrics: Metrics):
        super().__init__()
        self._models, self._limits, self._metrics = models, limits, metrics
        self.awake: OrderedDict[str, Seat] = OrderedDict()
        """those with a stream, the least recently used first"""
        self.dirty: dict[str, Seat] = {}
        """those of which something is acknowledged and not in the store, with --durability interval"""

    def touch(self, seat: Seat) -> None:
        """It is used now."""
        if seat.gone:
            return
        self.awake[seat.record.session] = seat
        self.awake.move_to_end(seat.record.session)
        if len(self.awake) > self._limits.resident:
            self.sleep_some()

    def sleep_some(self) -> None:
        """Let go of the states of sessions that have been idle the longest, down to the limit."""
        too_many = len(self.awake) - self._limits.resident
        for seat in list(self.awake.values()) if too_many > 0 else ():
            if too_many <= 0:
                break
            if not seat.busy and not seat.queue and seat.dirty_since is None:
                self.put_to_sleep(seat)
                too_many -= 1
        self._metrics.resident.set(len(self.awake))

    def put_to_sleep(self, seat: Seat) -> None:
        """Let go of its state, which the store has."""
        session = seat.record.session
        seat.stream = None
        self.awake.pop(session, None)
        if seat.dirty_since is not None:
            # Its last acknowledged state is here and nowhere else.
            seat.stream = self._models[seat.record.model].resume(seat.record.kind, seat.record.state)
            self.awake[session] = seat
            return
        seat.record = msgspec.structs.replace(seat.record, state=b"")
        self.forget_if_unused(seat)

    def forget_if_unused(self, seat: Seat) -> None:
        """A session that sleeps and that no connection holds takes no memory at all."""
        session = seat.record.session
        used = seat.listener or seat.busy or seat.queue or seat.stream or seat.dirty_since is not None
        if not used and self.get(session) is seat:
            del self[session]

    def drop(self, seat: Seat, why: str, knows: Listener | None = None) -> None:
        """This process holds the session no more.

        Args:
            seat: of the session.
            why: for whoever held it.
            knows: who needs not be told, having asked for it.
        """
        session = seat.record.session
        if seat.gone:
            return
        seat.gone = why
        if self.get(session) is seat:
            del self[session]
        self.awake.pop(session, None)
        self.dirty.pop(session, None)
        if seat.listener is not None and seat.listener is not knows:
            seat.listener.send(say.Gone(session, why))
        self._clear_line(seat, why)

    def lose(self, seat: Seat) -> ProtocolError:
        """Another worker has the session now -> what whoever uses it here is told."""
        self.drop(seat, "another worker has it now")
        return moved(seat.gone)

    def hand_over(self, seat: Seat, listener: Listener) -> None:
        """The session is another connection's; what the last one has in line is not taken any more."""
        last, seat.listener = seat.listener, listener
        if last is not None:
            last.send(say.Gone(seat.record.session, "another connection attached to it"))
        self._clear_line(seat, "another connection attached to it")

    def _clear_line(self, seat: Seat, why: str) -> None:
        error = moved(why)
        while seat.queue:
            job = seat.queue.popleft()
            job.listener.send(error_message(error, job.message))
