"""Commits: what was computed goes to the store, and may be acknowledged after that.

All that is there goes into one transaction, and meanwhile the next batch is computed. With `--durability interval` inputs are
acknowledged at once and written now and then: a session is dirty from its acknowledgement to that write. While such a write is
under way nothing more is acknowledged, so that a crash loses what was said within one interval and no more.

All bookkeeping happens on the event loop.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from tokenturing.serve import messages as say
from tokenturing.serve.background import Background
from tokenturing.serve.limits import Limits
from tokenturing.serve.metrics import Metrics
from tokenturing.serve.replies import bug, error_message
from tokenturing.serve.seats import Seats, Work
from tokenturing.serve.store import Change, Record, Store, StoreError

log = logging.getLogger(__name__)


class Commits:
    """What is on its way to the store.

    Args:
        store: where sessions are kept.
        seats: the sessions that are held here.
        limits: how often is written, and how many replies are kept.
        metrics: where steps and commits are counted.
        background: has the thread that writes.
        worker: whose sessions these are.
    """

    def __init__(self, store: Store, seats: Seats, limits: Limits, metrics: Metrics, background: Background, worker: str):
        self._store, self._seats, self._limits, self._metrics = store, seats, limits, metrics
        self._background, self._worker = background, worker
        self.failure: StoreError | None = None
        """why the last write of an interval failed: until one succeeds no input is to be taken"""
        self._computed: list[Work] = []
        self._new: list[tuple[Record, asyncio.Future[bool]]] = []
        self._wake, self._room, self._flushing = asyncio.Event(), asyncio.Event(), asyncio.Lock()
        self._room.set()

    def take(self, work: Work) -> None:
        """Put what was computed into the next commit; `settled` hands it back."""
        self._computed.append(work)
        self._wake.set()

    async def create(self, record: Record) -> bool:
        """Put a new session into the next commit, and wait for that; false: there is one of that id."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._new.append((record, done))
        self._wake.set()
        return await done

    async def settled(self) -> list[Work]:
        """Wait for what was computed, and commit it -> that, each with the reply that may be sent from now on."""
        await self._wake.wait()
        self._wake.clear()
        works, self._computed = self._computed, []
        new, self._new = self._new, []
        for work in works:
            assert work.reply is not None
            assert work.record is not None
            work.encoded = work.encoded or say.encode(work.reply)
        if self._limits.interval is None:
            await self._commit(works, new)
            return works
        if new:
            await self._commit([], new)
        await self._room.wait()
        for work in works:
            if work.seat.gone:  # another server has it, so that this would never be written
                self._refuse(work)
            else:
                self._acknowledge(work)
                self._make_dirty(work)
        return works

    async def _commit(self, works: Sequence[Work], new: Sequence[tuple[Record, asyncio.Future[bool]]]) -> None:
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
                self._seats.put_to_sleep(work.seat)
                work.reply, work.encoded = error_message(error, work.job.message), b""
            return
        for record, done in new:
            if not done.done():
                done.set_result(record.session not in lost)
        for work in works:
            if work.seat.record.session in lost:
                self._refuse(work)
            else:
                self._acknowledge(work)

    def _refuse(self, work: Work) -> None:
        """What was computed is nothing, since the session is not held here any more."""
        work.reply, work.encoded = error_message(self._seats.lose(work.seat), work.job.message), b""

    def _acknowledge(self, work: Work) -> None:
        assert work.record is not None
        work.seat.record = work.record
        if isinstance(work.job.message, say.Step):
            self._metrics.steps.labels(work.record.model).inc()
            self._metrics.latency.observe(time.monotonic() - work.job.arrived)

    async def _put(self, changes: Sequence[Change], new: Sequence[Record] = ()) -> list[str]:
        began = time.monotonic()
        lost = await self._background.write(self._store.put, changes, new, self._worker)
        self._metrics.commit.observe(time.monotonic() - began)
        return lost

    # --durability interval

    def _make_dirty(self, work: Work) -> None:
        assert work.record is not None
        seat = work.seat
        seat.replies[work.record.seq] = work.encoded
        seat.replies.pop(work.record.seq - self._limits.window, None)
        seat.marks.update(work.marks)
        seat.dirty_since = seat.dirty_since or time.monotonic()
        self._seats.dirty[seat.record.session] = seat

    async def flush_now_and_then(self) -> None:
        """Write all that is acknowledged, once an interval."""
        assert self._limits.interval is not None
        while True:
            await asyncio.sleep(self._limits.interval)
            if not self._seats.dirty:
                self.failure = None
                continue
            self._room.clear()  # what is acknowledged during a slow commit would be lost beyond the bound
            try:
                await self.flush()
                self.failure = None
            except StoreError as error:
                self.failure = error
            finally:
                self._room.set()

    async def flush_if_possible(self) -> None:
        """The same as `flush`, once; what the store does not take now is left to the next one."""
        with suppress(StoreError):
            await self.flush()

    async def flush(self) -> None:
        """Write all that is acknowledged and not yet on the disk.

        Raises:
            StoreError: it was not written, and is still to be.
        """
        async with self._flushing:
            dirty, self._seats.dirty = self._seats.dirty, {}
            changes = [
                Change(seat.record, tuple(seat.replies.items()), tuple(seat.marks.items()), seat.fence) for seat in dirty.values()
            ]
            if not changes:
                return
            try:
                lost = set(await self._put(changes))
            except StoreError:
                self._seats.dirty = dirty | self._seats.dirty
                raise
            for seat, change in zip(dirty.values(), changes, strict=True):
                for seq, _ in change.replies:
                    seat.replies.pop(seq, None)
                for name, _ in change.marks:
                    seat.marks.pop(name, None)
                session = seat.record.session
                seat.dirty_since = time.monotonic() if session in self._seats.dirty else None
                if session in lost:
                    self._seats.lose(seat)
                elif seat.listener is not None:
                    seat.listener.send(say.Kept(session, change.record.seq))
                self._seats.forget_if_unused(seat)
