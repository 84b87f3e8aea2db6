"""The heart of a server: what connections ask for of their sessions, and what goes on until its end.

Messages of a session wait in its line; `turns.py` takes one after another to the models, and `commits.py` to the store before
anything is acknowledged. All bookkeeping of the three happens on the event loop, so that nothing needs a lock; models work in one
thread and the store in others (`background.py`).
"""

import asyncio
import hmac
import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tokenturing.serve import messages as say
from tokenturing.serve.background import Background
from tokenturing.serve.commits import Commits
from tokenturing.serve.files import from_file, to_file
from tokenturing.serve.limits import Limits
from tokenturing.serve.messages import ProtocolError
from tokenturing.serve.metrics import Metrics
from tokenturing.serve.replies import LONGEST_NAME, about, hashed, unknown
from tokenturing.serve.seats import Job, Listener, Seat, Seats
from tokenturing.serve.served import Served, dump
from tokenturing.serve.store import FIRST, Record, Store, StoreError
from tokenturing.serve.turns import Turns

log = logging.getLogger(__name__)
NAME = re.compile(r"[A-Za-z0-9_-]{8,64}")
SHORTEST_SECRET = 16
TICK = 1.0
"""seconds between two looks for sessions that have expired"""
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
        self.draining = False
        self._background = Background()
        self._commits = Commits(store, self.seats, limits, self.metrics, self._background, self.worker)
        self._turns = Turns(
            self.models, store, self.seats, limits, self.metrics, self._background, self._commits, fork=self._fork
        )

    async def start(self) -> None:
        """Begin to work on this event loop."""
        for loop in (self._turns.run_models, self._turns.send_replies, self._tick):
            self._background.keep(loop)
        if self.limits.interval is not None:
            self._background.keep(self._commits.flush_now_and_then)

    async def stop(self) -> None:
        """Finish what waits, write all, and let go of the store."""
        self.draining = True
        end = time.monotonic() + self.limits.drain_seconds
        while time.monotonic() < end and any(seat.busy for seat in self.seats.values()):
            await asyncio.sleep(0.01)
        if self.limits.interval is not None:
            await self._commits.flush_if_possible()
        await self._background.close()
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
        stream, kind, steps = await self._background.compute(from_file, message.data, served)
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
        if await self._background.read(self.store.count) >= self.limits.sessions:
            raise ProtocolError(
                "full", f"there are {self.limits.sessions} sessions: close some, or raise --max-sessions", retry=True
            )
        name, word = session or secrets.token_urlsafe(16), secret or secrets.token_urlsafe(32)
        now = await self._background.read(self.store.now)
        record = Record(name, hashed(word), served.name, served.fingerprint, kind, 0, steps, state, now)
        if not await self._commits.create(record):
            if session is None or secret is None:
                raise ProtocolError("exists", f"there is a session {name} already: attach to it, or give another id")
            if listener is None:
                return await self.lookup(name, secret), word
            return await self.attach(say.Attach(0, name, secret), listener, at_rest=at_rest), word
        if listener is not None:
            self.seats[name] = seat = Seat(record, FIRST, listener, served.resume(kind, state))
            self.seats.touch(seat)
        return record, word

    async def _fork(self, record: Record, message: say.Fork, listener: Listener) -> tuple[Record, str]:
        served = self.models[record.model]
        return await self._create(served, record.kind, record.steps, record.state, message.fork, message.secret, listener, False)

    async def attach(self, message: say.Attach, listener: Listener, *, at_rest: bool = True) -> Record:
        """Hold a session that is there, from when what is at work for another connection is done.

        Args:
            message: of the client.
            listener: who holds it from now on.
            at_rest: false where a session's own turn is what this is done in: two that wait for each other would do so for ever.
        """
        await self.lookup(message.session, message.secret)
        claim = await self._background.write(self.store.claim, message.session, self.worker)
        if claim is None:
            raise unknown(message.session)
        seat = self.seats.get(message.session)
        if seat is None or seat.fence != claim.fence:
            if seat:
                self.seats.drop(seat, "another worker had it meanwhile", listener)
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
            await self._commits.flush()
        record = await self._background.read(self.store.get, session)
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

        replies = await self._background.compute(answer)
        self.metrics.asked.labels(record.model).inc(len(replies))
        return record.seq, replies

    async def inspect(self, session: str, secret: str) -> dict[str, Any]:
        """What there is to say of a session."""
        record = await self.lookup(session, secret)
        marks = await self._background.read(self.store.marks, session)
        now = await self._background.read(self.store.now)
        return about(record, now) | {"bytes": len(record.state), "marks": marks}

    async def listed(self, after: str, limit: int) -> list[dict[str, Any]]:
        """Sessions by id, those behind `after`."""
        now = await self._background.read(self.store.now)
        return [about(record, now) for record in await self._background.read(self.store.page, after, limit)]

    async def file(self, session: str, secret: str) -> bytes:
        """A session as the bytes of a file, as of its last input that is in the store."""
        record = await self.lookup(session, secret)
        served = self.models[record.model]

        def written() -> bytes:
            return to_file(served.resume(record.kind, record.state), served, record.steps)

        return await self._background.compute(written)

    async def stored(self) -> int:
        """How many sessions there are; it needs the store."""
        return await self._background.read(self.store.count)

    async def delete(self, session: str, listener: Listener | None = None) -> None:
        """Forget a session, which `listener` has asked for."""
        found = await self._background.write(self.store.delete, session)
        if seat := self.seats.get(session):
            self.seats.drop(seat, "it was closed", listener)
        if not found:
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
        self._turns.next(seat)

    async def detach(self, seat: Seat, listener: Listener) -> None:
        """The connection wants to hear no more of this session, of which all is written first: it may go on at another server."""
        if seat.dirty_since is not None:
            await self._commits.flush()
        self._let_go(seat, listener)

    def vanished(self, seats: Sequence[Seat], listener: Listener) -> None:
        """The connection that held these sessions is gone; it may come back at another server."""
        for seat in seats:
            self._let_go(seat, listener)
        if any(seat.dirty_since is not None for seat in seats):
            self._background.spawn(self._commits.flush_if_possible())

    def _let_go(self, seat: Seat, listener: Listener) -> None:
        if seat.listener is listener:
            seat.listener = None
        self.seats.forget_if_unused(seat)

    # Memory and time

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.seats.sleep_some()
            try:
                expired = await self._background.write(self.store.expire, self.limits.idle_seconds, self.limits.total_seconds)
                self.metrics.stored.set(await self._background.read(self.store.count))
            except StoreError as error:
                log.warning("%s", error)
                continue
            for session in expired:
                if seat := self.seats.get(session):
                    self.seats.drop(seat, "its time is over")

    def _served(self, name: str) -> Served:
        if not name and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise ProtocolError(
                "unknown_model", f"there is no model {name[:LONGEST_NAME]!r} here: expected one of {', '.join(self.models)}"
            )
        return self.models[name]
