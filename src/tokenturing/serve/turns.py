"""Turns: a session's messages, one after another, to the models or the store and back as replies.

A session has one input at work at a time. Whoever is ready goes into the next step, first come, first served, and takes its place
at the end of the line again when its input is committed; a reply is sent after its commit and not before. All bookkeeping happens
on the event loop, so that nothing needs a lock.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from tokenturing.errors import TokenTuringError
from tokenturing.serve import messages as say
from tokenturing.serve.background import Background
from tokenturing.serve.batches import Batches
from tokenturing.serve.commits import Commits
from tokenturing.serve.files import to_file
from tokenturing.serve.limits import Limits
from tokenturing.serve.messages import ProtocolError
from tokenturing.serve.metrics import Metrics
from tokenturing.serve.replies import LONGEST_NAME, bug, error_message, opened, unknown
from tokenturing.serve.seats import Listener, Seat, Seats, Work
from tokenturing.serve.served import Served, Stream
from tokenturing.serve.store import MarkBytes, Record, Store, StoreError, pack, unpack_mark

Fork = Callable[[Record, say.Fork, Listener], Awaitable[tuple[Record, str]]]
"""opens a session that begins as another one is, and is held by the same connection -> it and its secret"""

log = logging.getLogger(__name__)


class Turns:
    """Whose turn it is, and what becomes of it.

    Args:
        models: by name.
        store: where sessions are kept.
        seats: the sessions that are held here.
        limits: how many go into a step, and what of each is kept.
        metrics: where batches are counted.
        background: has the models' thread and the store's.
        commits: what takes that which was computed.
        fork: opens a session out of another one.
    """

    def __init__(
        self,
        models: Mapping[str, Served],
        store: Store,
        seats: Seats,
        limits: Limits,
        metrics: Metrics,
        background: Background,
        commits: Commits,
        fork: Fork,
    ):
        self._models, self._store, self._seats, self._limits, self._metrics = models, store, seats, limits, metrics
        self._background, self._commits, self._fork = background, commits, fork
        self._batches = Batches(models, metrics)
        self._ready: deque[Work] = deque()
        self._wake = asyncio.Event()

    def next(self, seat: Seat) -> None:
        """Let the session's first message go to work, if none is."""
        if seat.busy or not seat.queue:
            return
        seat.busy = True
        job = seat.queue.popleft()
        message = job.message
        if isinstance(message, say.Sequenced):
            expected = seat.record.seq + 1
            if message.seq > expected:
                error = ProtocolError(
                    "gap", f"input {message.seq} came where {expected} was expected: send {expected} first", expected=expected
                )
                self._finish(Work(seat, job, error_message(error, message)))
                return
            if message.seq < expected:
                self._background.spawn(self._repeat(Work(seat, job)))
                return
            if self._commits.failure:
                self._finish(Work(seat, job, error_message(self._commits.failure, message)))
                return
        if isinstance(message, say.Step | say.Ask) and seat.stream is not None:
            self._line_up(Work(seat, job))
        else:
            self._background.spawn(self._prepare(Work(seat, job)))

    async def run_models(self) -> None:
        """Batches through the models, for ever."""
        while True:
            await self._wake.wait()
            works = [self._ready.popleft() for _ in range(min(len(self._ready), self._limits.batch))]
            self._metrics.waiting.set(len(self._ready))
            if not self._ready:
                self._wake.clear()
            if not works:
                continue
            await self._background.compute(self._batches.compute, works)
            for work in works:
                if work.record is None:
                    if isinstance(work.job.message, say.Step):
                        self._seats.put_to_sleep(work.seat)  # the stream may have taken half of it
                    self._finish(work)
                else:
                    self._commits.take(work)

    async def send_replies(self) -> None:
        """Say what is committed, for ever."""
        while True:
            for work in await self._commits.settled():
                self._finish(work)

    def _line_up(self, work: Work) -> None:
        self._seats.touch(work.seat)
        self._ready.append(work)
        self._wake.set()

    def _finish(self, work: Work) -> None:
        """Send the reply, and let the session's next message have its turn."""
        work.seat.busy = False  # whatever becomes of the reply
        if work.reply is not None:
            work.job.listener.send(work.reply, work.encoded or None)
        self._seats.forget_if_unused(work.seat)
        # Not at once: a long line of repeated inputs would be a deep recursion.
        asyncio.get_running_loop().call_soon(self.next, work.seat)

    async def _prepare(self, work: Work) -> None:
        """What needs the store before the model, or instead of it."""
        seat, message = work.seat, work.job.message
        try:
            if seat.stream is None:
                await self._rouse(seat)
            if isinstance(message, say.Step | say.Ask):
                self._line_up(work)
                return
            if seat.dirty_since is not None:
                await self._commits.flush()
            if isinstance(message, say.Mark):
                await self._mark(work, message)
            elif isinstance(message, say.Rewind):
                await self._rewind(work, message)
            elif isinstance(message, say.Fork):
                if message.fork == seat.record.session:
                    raise ProtocolError("exists", "a session is no fork of itself: give another id")
                record, secret = await self._fork(seat.record, message, work.job.listener)
                work.reply = opened(message.request, record, secret)
            elif isinstance(message, say.Export):
                stream, served = seat.stream, self._models[seat.record.model]
                data = await self._background.compute(to_file, stream, served, seat.record.steps)
                work.reply = say.Exported(message.request, seat.record.session, seat.record.seq, data)
        except (TokenTuringError, StoreError) as error:
            work.reply = error_message(error, message)
        except Exception:
            log.exception("a message of session %s failed", seat.record.session)
            work.reply = error_message(bug(), message)
        if work.record is None:
            self._finish(work)
        else:
            self._commits.take(work)

    async def _rouse(self, seat: Seat) -> None:
        """Bring a sleeping session back."""

        def load() -> tuple[Record, Stream]:
            record = self._store.get(seat.record.session)
            if record is None:
                raise unknown(seat.record.session)
            return record, self._models[record.model].resume(record.kind, record.state)

        if seat.record.state:
            seat.stream = self._models[seat.record.model].resume(seat.record.kind, seat.record.state)
            self._seats.touch(seat)
            return
        record, stream = await self._background.read(load)
        if record.seq != seat.record.seq:
            raise self._seats.lose(seat)
        seat.record, seat.stream = record, stream
        self._seats.touch(seat)

    async def _mark(self, work: Work, message: say.Mark) -> None:
        seat = work.seat
        if not 0 < len(message.name) <= LONGEST_NAME:
            raise ProtocolError("bad_message", f"a mark has a name of 1 to {LONGEST_NAME} characters")
        names = await self._background.read(self._store.marks, seat.record.session)
        if message.name not in names and len(names) >= self._limits.marks:
            raise ProtocolError(
                "too_many_marks", f"this session has {len(names)} marks: use one of their names again ({', '.join(names)})"
            )
        work.record = msgspec.structs.replace(seat.record, seq=message.seq)
        work.marks = ((message.name, pack(MarkBytes(seat.record.steps, seat.record.state))),)
        work.reply = say.Done(seat.record.session, message.seq, seat.record.steps)

    async def _rewind(self, work: Work, message: say.Rewind) -> None:
        seat = work.seat
        data = await self._background.read(self._store.mark, seat.record.session, message.name)
        if data is None:
            names = await self._background.read(self._store.marks, seat.record.session)
            raise ProtocolError("unknown_mark", f"there is no mark {message.name[:LONGEST_NAME]!r}: expected one of {names}")
        mark = unpack_mark(data)
        self._models[seat.record.model].resume(seat.record.kind, mark.state)
        work.record = msgspec.structs.replace(seat.record, seq=message.seq, steps=mark.steps, state=mark.state)
        work.reply = say.Done(seat.record.session, message.seq, mark.steps)
        seat.stream = None  # it is roused from what is acknowledged

    async def _repeat(self, work: Work) -> None:
        """The saved reply to an input that came before."""
        seat, seq = work.seat, work.job.message.seq
        try:
            saved = seat.replies.get(seq)
            if saved is None:
                saved = await self._background.read(self._store.reply, seat.record.session, seq)
            if saved is None:
                oldest = max(1, seat.record.seq - self._limits.window + 1)
                raise ProtocolError(
                    "too_old",
                    f"the reply to input {seq} is kept no more: the last {self._limits.window} are, from {oldest}",
                    expected=seat.record.seq + 1,
                )
            work.reply = say.decode_reply(saved)
        except (TokenTuringError, StoreError) as error:
            work.reply = error_message(error, work.job.message)
        except Exception:
            log.exception("a reply of session %s could not be said again", seat.record.session)
            work.reply = error_message(bug(), work.job.message)
        self._finish(work)
