"""The heart of the server: inputs of many sessions in, batches through the model, commits, replies out.

All bookkeeping happens on the event loop, so that nothing needs a lock. Models work in one thread and the store in others. A
session has one input at work at a time; whoever is ready goes into the next step, first come, first served, and takes its place
at the end of the line again after its commit. While one batch is committed the next is computed.
"""

import asyncio
import hmac
import logging
import re
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from tokenturing.errors import TokenTuringError
from tokenturing.serve import messages as say
from tokenturing.serve.batches import Batches
from tokenturing.serve.files import from_file, to_file
from tokenturing.serve.limits import Limits
from tokenturing.serve.messages import ProtocolError
from tokenturing.serve.metrics import Metrics
from tokenturing.serve.replies import LONGEST_NAME, about, bug, error_message, hashed, opened, unknown
from tokenturing.serve.seats import Job, Listener, Seat, Seats, Work
from tokenturing.serve.served import Served, Stream, dump
from tokenturing.serve.store import FIRST, Change, MarkBytes, Record, Store, StoreError, pack, unpack_mark

Result = TypeVar("Result")

log = logging.getLogger(__name__)
NAME = re.compile(r"[A-Za-z0-9_-]{8,64}")
SHORTEST_SECRET = 16
TICK = 1.0
"""seconds between two looks for sessions that have expired"""
READERS = 2
HAND_OVER_SECONDS = 0.002
"""between two looks whether what a connection left at work is done"""


class Engine:
    """Sessions of some models in one store.

    Args:
        models: by name.
        store: where sessions are kept.
        limits: what may be used.
        worker: this process's name, which no other has.
    """

    def __init__(self, models: Mapping[str, Served], store: Store, limits: Limits, worker: str | None = None):
        self.models, self.store, self.limits = dict(models), store, limits
        self.worker = worker or secrets.token_hex(8)
        self.metrics = Metrics()
        self.seats = Seats(self.models, limits, self.metrics)
        self._batches = Batches(self.models, self.metrics)
        self.draining = False
        self._ready: deque[Work] = deque()
        self._computed: list[Work] = []
        self._new: list[tuple[Record, asyncio.Future[bool]]] = []
        self._store_error: StoreError | None = None
        self._compute = ThreadPoolExecutor(1, "model")
        self._write = ThreadPoolExecutor(1, "commit")
        self._read = ThreadPoolExecutor(READERS, "store")
        self._tasks: list[asyncio.Task] = []
        self._others: set[asyncio.Task] = set()

    async def start(self) -> None:
        """Begin to work on this event loop."""
        self._wake, self._commit_wake, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._flushing = asyncio.Lock()
        self._room.set()
        loops: list[Callable[[], Awaitable[None]]] = [self._work, self._commit, self._tick]
        if self.limits.interval is not None:
            loops.append(self._flush_now_and_then)
        self._tasks = [asyncio.create_task(self._kept_alive(loop)) for loop in loops]

    async def stop(self) -> None:
        """Finish what waits, write all, and let go of the store."""
        self.draining = True
        end = time.monotonic() + self.limits.drain_seconds
        while time.monotonic() < end and any(seat.busy for seat in self.seats.values()):
            await asyncio.sleep(0.01)
        if self.limits.interval is not None:
            with suppress(StoreError):
                await self.flush()
        for task in [*self._tasks, *self._others]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._others, return_exceptions=True)
        for pool in (self._compute, self._write, self._read):
            pool.shutdown()
        self.store.close()

    # What connections ask for

    async def open(self, message: say.Open, listener: Listener) -> tuple[Record, str]:
        """A new session -> it and its secret."""
        served = self._served(message.model)
        stream = served.begin(message.kind)
        return await self._create(served, message.kind, 0, dump(stream), message.session, message.secret, listener)

    async def take_in(self, message: say.Import, listener: Listener | None) -> tuple[Record, str]:
        """A session out of a file -> it and its secret."""
        served = self._served(message.model)
        stream, kind, steps = await self._in(self._compute, from_file, message.data, served)
        return await self._create(served, kind, steps, dump(stream), message.session, message.secret, listener)

    async def _create(
        self,
        served: Served,
        kind: str,
        steps: int,
        state: bytes,
        session: str | None,
        secret: str | None,
        listener: Listener | None,
        at_rest: bool = True,
    ) -> tuple[Record, str]:
        if session is not None and not NAME.fullmatch(session):
            raise ProtocolError("bad_message", "a session's id is 8 to 64 letters, figures, - and _, such as a random UUID")
        if secret is not None and not SHORTEST_SECRET <= len(secret) <= 4 * LONGEST_NAME:
            raise ProtocolError("bad_message", f"a secret has {SHORTEST_SECRET} to {4 * LONGEST_NAME} characters")
        if await self._in(self._read, self.store.count) >= self.limits.sessions:
            raise ProtocolError(
                "full", f"there are {self.limits.sessions} sessions: close some, or raise --max-sessions", retry=True
            )
        name, word = session or secrets.token_urlsafe(16), secret or secrets.token_urlsafe(32)
        now = await self._in(self._read, self.store.now)
        record = Record(name, hashed(word), served.name, served.fingerprint, kind, 0, steps, state, now)
        if not await self._written(record):
            if session is None or secret is None:
                raise ProtocolError("exists", f"there is a session {name} already: attach to it, or give another id")
            if listener is None:
                return await self.lookup(name, secret), word
            return await self.attach(say.Attach(0, name, secret), listener, at_rest=at_rest), word
        if listener is not None:
            self.seats[name] = seat = Seat(record, FIRST, listener, served.resume(kind, state))
            self.seats.touch(seat)
        return record, word

    async def _written(self, record: Record) -> bool:
        """Put a new session into the next commit; false: there is one of that id."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._new.append((record, done))
        self._commit_wake.set()
        return await done

    async def attach(self, message: say.Attach, listener: Listener, *, at_rest: bool = True) -> Record:
        """Hold a session that is there, from when what is at work for another connection is done.

        Args:
            message: of the client.
            listener: who holds it from now on.
            at_rest: false where a session's own turn is what this is done in: two that wait for each other would do so for ever.
        """
        await self.lookup(message.session, message.secret)
        claim = await self._in(self._write, self.store.claim, message.session, self.worker)
        if claim is None:
            raise unknown(message.session)
        seat = self.seats.get(message.session)
        if seat is None or seat.fence != claim.fence:
            if seat:
                self.seats.drop(seat, "another worker had it meanwhile")
            seat = self.seats[message.session] = Seat(msgspec.structs.replace(claim.record, state=b""), claim.fence)
        if seat.listener is not listener:
            self.seats.hand_over(seat, listener)
        while at_rest and seat.busy and not seat.gone:  # what was begun for the last one is finished, and its number is taken
            await asyncio.sleep(HAND_OVER_SECONDS)
        return seat.record

    async def lookup(self, session: str, secret: str | None) -> Record:
        """A session as it is kept; without a secret for those who may see all.

        Raises:
            ProtocolError: there is none, its secret is another, or its model is not served here.
        """
        if (seat := self.seats.get(session)) and seat.dirty_since is not None:
            await self.flush()
        record = await self._in(self._read, self.store.get, session)
        if record is None:
            raise unknown(session)
        if secret is not None and not hmac.compare_digest(record.secret, hashed(secret)):
            raise ProtocolError(
                "wrong_secret", "the secret is not this session's: expected the one that was said when it was opened"
            )
        served = self._served(record.model)
        if served.fingerprint != record.fingerprint:
            raise ProtocolError(
                "other_model",
                f"the session is of {record.model} with the fingerprint {record.fingerprint}, and the {served.name} here has "
                f"{served.fingerprint}: serve the model that it was begun with, or open a new session",
            )
        return record

    async def ask(self, session: str, secret: str | None, queries: Sequence[str | int]) -> tuple[int, list[say.Reply]]:
        """Answers of a session that need not be attached, as of its last input -> the number of that and the answers."""
        record = await self.lookup(session, secret)

        def answer() -> list[say.Reply]:
            return self.models[record.model].resume(record.kind, record.state).ask(queries)

        replies = await self._in(self._compute, answer)
        self.metrics.asked.labels(record.model).inc(len(replies))
        return record.seq, replies

    async def inspect(self, session: str, secret: str) -> dict[str, Any]:
        """What there is to say of a session."""
        record = await self.lookup(session, secret)
        marks = await self._in(self._read, self.store.marks, session)
        now = await self._in(self._read, self.store.now)
        return about(record, now) | {"bytes": len(record.state), "marks": marks}

    async def listed(self, after: str, limit: int) -> list[dict[str, Any]]:
        """Sessions by id, those behind `after`."""
        now = await self._in(self._read, self.store.now)
        return [about(record, now) for record in await self._in(self._read, self.store.page, after, limit)]

    async def file(self, session: str, secret: str) -> bytes:
        """A session as the bytes of a file, as of its last input that is in the store."""
        record = await self.lookup(session, secret)
        served = self.models[record.model]

        def written() -> bytes:
            return to_file(served.resume(record.kind, record.state), served, record.steps)

        return await self._in(self._compute, written)

    async def stored(self) -> int:
        """How many sessions there are; it needs the store."""
        return await self._in(self._read, self.store.count)

    async def delete(self, session: str, asked_by: Listener | None = None) -> None:
        """Forget a session; who holds it is told, unless it asked for this."""
        if seat := self.seats.get(session):
            if seat.listener is asked_by:
                seat.listener = None
            self.seats.drop(seat, "it was closed")
        if not await self._in(self._write, self.store.delete, session):
            raise unknown(session)

    def submit(self, seat: Seat, job: Job) -> None:
        """Put a message in a session's line.

        Raises:
            ProtocolError: the line is full.
        """
        if self.draining:
            raise ProtocolError("draining", "the server is about to end: connect again and send the same", retry=True)
        if len(seat.queue) >= self.limits.window:
            raise ProtocolError(
                "too_fast", f"{self.limits.window} messages of this session wait already: wait for replies", retry=True
            )
        seat.queue.append(job)
        self._next(seat)

    def detach(self, seat: Seat, listener: Listener) -> None:
        """The connection is gone, or wants to hear no more of this session."""
        if seat.listener is listener:
            seat.listener = None
        self.seats.forget_if_unused(seat)

    # A session's turn

    def _next(self, seat: Seat) -> None:
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
                self._spawn(self._repeat(Work(seat, job)))
                return
            if self._store_error:
                self._finish(Work(seat, job, error_message(self._store_error, message)))
                return
        if isinstance(message, say.Step | say.Ask) and seat.stream is not None:
            self._line_up(Work(seat, job))
        else:
            self._spawn(self._prepare(Work(seat, job)))

    def _line_up(self, work: Work) -> None:
        self.seats.touch(work.seat)
        self._ready.append(work)
        self._wake.set()

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
                await self.flush()
            if isinstance(message, say.Mark):
                await self._mark(work, message)
            elif isinstance(message, say.Rewind):
                await self._rewind(work, message)
            elif isinstance(message, say.Fork):
                record, secret = await self._fork(seat, message, work.job.listener)
                work.reply = opened(message.request, record, secret)
            elif isinstance(message, say.Export):
                stream, served = seat.stream, self.models[seat.record.model]
                data = await self._in(self._compute, to_file, stream, served, seat.record.steps)
                work.reply = say.Exported(message.request, seat.record.session, seat.record.seq, data)
        except (TokenTuringError, StoreError) as error:
            work.reply = error_message(error, message)
        except Exception:
            log.exception("a message of session %s failed", seat.record.session)
            work.reply = error_message(bug(), message)
        if work.record is None:
            self._finish(work)
        else:
            self._computed.append(work)
            self._commit_wake.set()

    async def _rouse(self, seat: Seat) -> None:
        """Bring a sleeping session back."""

        def load() -> tuple[Record, Stream]:
            record = self.store.get(seat.record.session)
            if record is None:
                raise unknown(seat.record.session)
            return record, self.models[record.model].resume(record.kind, record.state)

        if seat.record.state:
            seat.stream = self.models[seat.record.model].resume(seat.record.kind, seat.record.state)
            self.seats.touch(seat)
            return
        record, stream = await self._in(self._read, load)
        if record.seq != seat.record.seq:
            raise self._moved(seat)
        seat.record, seat.stream = record, stream
        self.seats.touch(seat)

    async def _mark(self, work: Work, message: say.Mark) -> None:
        seat = work.seat
        if not 0 < len(message.name) <= LONGEST_NAME:
            raise ProtocolError("bad_message", f"a mark has a name of 1 to {LONGEST_NAME} characters")
        names = await self._in(self._read, self.store.marks, seat.record.session)
        if message.name not in names and len(names) >= self.limits.marks:
            raise ProtocolError(
                "too_many_marks", f"this session has {len(names)} marks: use one of their names again ({', '.join(names)})"
            )
        work.record = msgspec.structs.replace(seat.record, seq=message.seq)
        work.marks = ((message.name, pack(MarkBytes(seat.record.steps, seat.record.state))),)
        work.reply = say.Done(seat.record.session, message.seq, seat.record.steps)

    async def _rewind(self, work: Work, message: say.Rewind) -> None:
        seat = work.seat
        data = await self._in(self._read, self.store.mark, seat.record.session, message.name)
        if data is None:
            names = await self._in(self._read, self.store.marks, seat.record.session)
            raise ProtocolError("unknown_mark", f"there is no mark {message.name[:LONGEST_NAME]!r}: expected one of {names}")
        mark = unpack_mark(data)
        self.models[seat.record.model].resume(seat.record.kind, mark.state)
        work.record = msgspec.structs.replace(seat.record, seq=message.seq, steps=mark.steps, state=mark.state)
        work.reply = say.Done(seat.record.session, message.seq, mark.steps)
        seat.stream = None  # it is roused from what is acknowledged

    async def _fork(self, seat: Seat, message: say.Fork, listener: Listener) -> tuple[Record, str]:
        record, served = seat.record, self.models[seat.record.model]
        if message.fork == record.session:
            raise ProtocolError("exists", "a session is no fork of itself: give another id")
        return await self._create(served, record.kind, record.steps, record.state, message.fork, message.secret, listener, False)

    async def _repeat(self, work: Work) -> None:
        """The saved reply to an input that came before."""
        seat, seq = work.seat, work.job.message.seq
        try:
            saved = seat.replies.get(seq)
            if saved is None:
                saved = await self._in(self._read, self.store.reply, seat.record.session, seq)
            if saved is None:
                oldest = max(1, seat.record.seq - self.limits.window + 1)
                raise ProtocolError(
                    "too_old",
                    f"the reply to input {seq} is kept no more: the last {self.limits.window} are, from {oldest}",
                    expected=seat.record.seq + 1,
                )
            work.reply = say.decode_reply(saved)
        except (TokenTuringError, StoreError) as error:
            work.reply = error_message(error, work.job.message)
        except Exception:
            log.exception("a reply of session %s could not be said again", seat.record.session)
            work.reply = error_message(bug(), work.job.message)
        self._finish(work)

    def _finish(self, work: Work) -> None:
        """Send the reply, and let the session's next message have its turn."""
        work.seat.busy = False  # whatever becomes of the reply
        if work.reply is not None:
            work.job.listener.send(work.reply, work.encoded or None)
        self.seats.forget_if_unused(work.seat)
        # Not at once: a long line of repeated inputs would be a deep recursion.
        asyncio.get_running_loop().call_soon(self._next, work.seat)

    # The loops

    async def _work(self) -> None:
        """Batches through the models."""
        while True:
            await self._wake.wait()
            works = [self._ready.popleft() for _ in range(min(len(self._ready), self.limits.batch))]
            self.metrics.waiting.set(len(self._ready))
            if not self._ready:
                self._wake.clear()
            if not works:
                continue
            await self._in(self._compute, self._batches.compute, works)
            for work in works:
                if work.record is None:
                    if isinstance(work.job.message, say.Step):
                        self.seats.put_to_sleep(work.seat)  # the stream may have taken half of it
                    self._finish(work)
                else:
                    self._computed.append(work)
                    self._commit_wake.set()

    async def _commit(self) -> None:
        """What was computed goes to the store, all that is there in one transaction, and is acknowledged after that."""
        while True:
            await self._commit_wake.wait()
            self._commit_wake.clear()
            works, self._computed = self._computed, []
            new, self._new = self._new, []
            for work in works:
                assert work.reply is not None
                assert work.record is not None
                work.encoded = work.encoded or say.encode(work.reply)
            if self.limits.interval is None:
                await self._commit_now(works, new)
            else:
                if new:
                    await self._commit_now([], new)
                await self._room.wait()
                for work in works:
                    self._acknowledge(work)
                    self._make_dirty(work)

    async def _commit_now(self, works: Sequence[Work], new: Sequence[tuple[Record, asyncio.Future[bool]]]) -> None:
        changes = [
            Change(work.record, ((work.record.seq, work.encoded),), work.marks, work.seat.fence) for work in works if work.record
        ]
        try:
            lost = set(await self._put(changes, [record for record, _ in new]))
        except Exception as failure:  # a bug of ours, too, must leave no session waiting
            if not isinstance(failure, StoreError):
                log.exception("a commit of %d sessions failed", len(works))
            error = failure if isinstance(failure, StoreError) else bug()
            for _, done in new:
                if not done.done():
                    done.set_exception(error)
            for work in works:
                self.seats.put_to_sleep(work.seat)
                work.reply, work.encoded = error_message(error, work.job.message), b""
                self._finish(work)
            return
        for record, done in new:
            if not done.done():
                done.set_result(record.session not in lost)
        for work in works:
            if work.seat.record.session in lost:
                work.reply, work.encoded = error_message(self._moved(work.seat), work.job.message), b""
                self._finish(work)
            else:
                self._acknowledge(work)

    def _acknowledge(self, work: Work) -> None:
        assert work.record is not None
        work.seat.record = work.record
        if isinstance(work.job.message, say.Step):
            self.metrics.steps.labels(work.record.model).inc()
            self.metrics.latency.observe(time.monotonic() - work.job.arrived)
        self._finish(work)

    async def _put(self, changes: Sequence[Change], new: Sequence[Record] = ()) -> list[str]:
        began = time.monotonic()
        lost = await self._in(self._write, self.store.put, changes, new, self.worker)
        self.metrics.commit.observe(time.monotonic() - began)
        return lost

    # --durability interval

    def _make_dirty(self, work: Work) -> None:
        assert work.record is not None
        seat = work.seat
        if seat.gone:
            return
        seat.replies[work.record.seq] = work.encoded
        seat.replies.pop(work.record.seq - self.limits.window, None)
        seat.marks.update(work.marks)
        seat.dirty_since = seat.dirty_since or time.monotonic()
        self.seats.dirty[seat.record.session] = seat

    async def _flush_now_and_then(self) -> None:
        assert self.limits.interval is not None
        while True:
            await asyncio.sleep(self.limits.interval)
            if not self.seats.dirty:
                self._store_error = None
                continue
            self._room.clear()  # what is acknowledged during a slow commit would be lost beyond the bound
            try:
                await self.flush()
                self._store_error = None
            except StoreError as error:
                self._store_error = error
            finally:
                self._room.set()

    async def flush(self) -> None:
        """Write all that is acknowledged and not yet on the disk."""
        async with self._flushing:
            dirty, self.seats.dirty = self.seats.dirty, {}
            changes = [
                Change(seat.record, tuple(seat.replies.items()), tuple(seat.marks.items()), seat.fence) for seat in dirty.values()
            ]
            if not changes:
                return
            try:
                lost = set(await self._put(changes))
            except StoreError:
                self.seats.dirty = dirty | self.seats.dirty
                raise
            for seat, change in zip(dirty.values(), changes, strict=True):
                for seq, _ in change.replies:
                    seat.replies.pop(seq, None)
                for name, _ in change.marks:
                    seat.marks.pop(name, None)
                session = seat.record.session
                seat.dirty_since = time.monotonic() if session in self.seats.dirty else None
                if session in lost:
                    self._moved(seat)
                elif seat.listener is not None:
                    seat.listener.send(say.Kept(session, change.record.seq))

    # Memory and time

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.seats.sleep_some()
            try:
                expired = await self._in(self._write, self.store.expire, self.limits.idle_seconds, self.limits.total_seconds)
                self.metrics.stored.set(await self._in(self._read, self.store.count))
            except StoreError as error:
                log.warning("%s", error)
                continue
            for session in expired:
                if seat := self.seats.get(session):
                    self.seats.drop(seat, "its time is over")

    def _moved(self, seat: Seat) -> ProtocolError:
        self.seats.drop(seat, "another worker has it now")
        return ProtocolError(
            "moved", "another worker has this session now: attach to it again, and send what was not acknowledged", retry=True
        )

    def _served(self, name: str) -> Served:
        if not name and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise ProtocolError(
                "unknown_model", f"there is no model {name[:LONGEST_NAME]!r} here: expected one of {', '.join(self.models)}"
            )
        return self.models[name]

    async def _in(self, pool: ThreadPoolExecutor, call: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(pool, call, *arguments)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    async def _kept_alive(self, loop: Callable[[], Awaitable[None]]) -> None:
        """A fault of ours in one round must not end the server's work for good."""
        while True:
            try:
                await loop()
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("%s failed and begins anew", loop.__name__)
