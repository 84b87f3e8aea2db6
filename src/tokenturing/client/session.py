"""A session that a client holds: inputs in order, each sent again until it is acknowledged."""

import asyncio
import itertools
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from tokenturing.client.results import ServerError, SessionLostError, StepResult, frame, server_error, step_result, to_values
from tokenturing.serve import messages as say

AGAIN_SECONDS = 0.2
"""before an input is sent again that the server could not take for now"""
LOST = "the session is not held any more"
_TASKS: set[asyncio.Future] = set()


def keep(task: asyncio.Future) -> None:
    """asyncio forgets tasks that nobody holds."""
    _TASKS.add(task)
    task.add_done_callback(_TASKS.discard)


class Client(Protocol):
    """What a session needs of the client that holds it."""

    models: list[say.Model]
    window: int
    durable: bool
    _largest: int
    _sessions: dict[str, "AsyncSession"]

    @property
    def _requests(self) -> Mapping[int, Any]: ...

    def _check(self, lost: Exception | None = None) -> None: ...

    def _held(self, opened: say.Opened, secret: str) -> "AsyncSession": ...

    async def _request(self, build: Callable[[int], Any]) -> Any: ...

    async def _send(self, message: Any) -> None: ...

    def _may_go_away(self, error: say.Error, since: float) -> bool: ...


class _Input:
    """An input that is not acknowledged yet, or not on the server's disk."""

    __slots__ = ("began", "build", "future", "message")

    def __init__(self, build: Callable[[int], Any], future: asyncio.Future | None):
        self.build, self.future, self.began = build, future, time.monotonic()
        self.message: Any = None
        """with its number, once it was sent"""


class AsyncSession:
    """A session that this client holds.

    Attributes:
        id, secret: what it takes to attach to it again, later or elsewhere.
        seq: number of the last input that was acknowledged.
        steps: that the state has seen.
    """

    def __init__(self, client: Client, opened: say.Opened, secret: str):
        self._client = client
        self.id, self.secret, self.model, self.kind = opened.session, secret, opened.model, opened.kind
        self.seq, self.steps = opened.seq, opened.steps
        self._last = opened.seq
        """the highest number that was sent"""
        self._unsent: deque[_Input] = deque()
        self._flight: dict[int, _Input] = {}
        self._unkept: dict[int, Any] = {}
        """acknowledged, but perhaps not on the server's disk"""
        self._refused: dict[int, _Input] = {}
        """that will be sent again under new numbers once all others in flight are answered"""
        self._wait = 0.0
        self._lost: Exception | None = None
        self._returning = False
        """whether it waits to be attached again"""
        self._room = asyncio.Event()
        self._room.set()

    async def step(self, inputs: Any = None, /, **named: Any) -> StepResult:
        """One step: arrays by name, without the axis of rows; of a "media" session `frame=` and `sound=`.

        Args:
            inputs: where the model takes only one input, or a mapping of all.
            named: inputs by name.

        Raises:
            ServerError: the inputs do not fit; nothing was changed.
            TypeError: an input came twice.
        """
        return await (await self.send(inputs, **named))

    async def send(self, inputs: Any = None, /, **named: Any) -> "asyncio.Future[StepResult]":
        """The same without waiting for the reply, which the future will have. It waits while too many are on their way."""
        self._client._check(self._lost)
        first = self._named(inputs)
        if twice := sorted(first.keys() & named.keys()):
            raise TypeError(f"the input {twice[0]!r} came twice, by its place and by its name: expected it once")
        values = to_values(first | named)
        return await self._submit(lambda seq: say.Step(self.id, seq, values))

    def _named(self, inputs: Any) -> dict[str, Any]:
        if inputs is None or isinstance(inputs, Mapping):
            return dict(inputs or {})
        about = next(model for model in self._client.models if model.name == self.model)
        return {next(iter(about.inputs)): inputs}

    async def mark(self, name: str) -> None:
        """Give the state as it is now a name to come back to."""
        await (await self._submit(lambda seq: say.Mark(self.id, seq, name)))

    async def rewind(self, name: str) -> None:
        """Go back to a mark."""
        await (await self._submit(lambda seq: say.Rewind(self.id, seq, name)))

    async def ask(self, *queries: str | int) -> list[say.Reply]:
        """Ask about the last input, any number of queries; nothing changes."""
        return (await self._request(lambda number: say.Ask(number, self.id, list(queries)))).answers

    async def fork(self) -> "AsyncSession":
        """Another session that begins with this one's state."""
        name, word = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
        return self._client._held(await self._request(lambda number: say.Fork(number, self.id, name, word)), word)

    async def export(self) -> bytes:
        """The session as the bytes of a file, which `tokenturing stream --state` reads too."""
        return (await self._request(lambda number: say.Export(number, self.id))).data

    async def detach(self) -> None:
        """Hold the session no more; it stays on the server."""
        await self._request(lambda number: say.Detach(number, self.id))
        self._end("it was detached")

    async def delete(self) -> None:
        """End the session for good."""
        await self._request(lambda number: say.Close(number, self.id))
        self._end("it was deleted")

    async def _request(self, build: Callable[[int], Any]) -> Any:
        """After all inputs before it: what is asked is asked of what was sent."""
        self._client._check(self._lost)
        for future in [one.future for one in self._pending() if one.future]:
            with suppress(Exception):
                await asyncio.shield(future)
        self._client._check(self._lost)
        return await self._client._request(build)

    def _pending(self) -> Iterator[_Input]:
        yield from itertools.chain(list(self._flight.values()), list(self._refused.values()), list(self._unsent))

    async def _submit(self, build: Callable[[int], Any]) -> "asyncio.Future[Any]":
        while len(self._unsent) >= self._client.window and not self._lost:
            self._room.clear()
            await self._room.wait()
        self._client._check(self._lost)
        frame(build(say.NUMBERS[-1]), self._client._largest)
        future = asyncio.get_running_loop().create_future()
        self._unsent.append(_Input(build, future))
        await self._pump()
        return future

    async def _pump(self) -> None:
        """Send what may be sent."""
        while self._unsent and not (self._refused or self._returning or self._lost) and len(self._flight) < self._client.window:
            one = self._unsent.popleft()
            self._room.set()
            if one.message is None:
                self._last += 1
                one.message = one.build(self._last)
            self._flight[one.message.seq] = one
            await self._client._send(one.message)

    async def _handle(self, reply: Any) -> None:
        if isinstance(reply, say.Kept):
            self._unkept = {seq: message for seq, message in self._unkept.items() if seq > reply.seq}
            return
        if isinstance(reply, say.Gone):
            if reply.request is None:
                self._end(reply.reason)
            return
        one = self._flight.pop(getattr(reply, "seq", None) or -1, None)
        if one is None:
            return
        seq = one.message.seq
        if isinstance(reply, say.Error):
            if reply.code == "gap" or self._client._may_go_away(reply, one.began):
                self._refused[seq] = one
                self._wait = max(self._wait, AGAIN_SECONDS if reply.code != "gap" else 0.0)
            else:
                self._refused.setdefault(seq, _Input(one.build, None))  # later numbers have to be given anew
                _settle(one.future, server_error(reply))
                if reply.code == "moved":
                    self._end(reply.message)
                    return
        else:
            self.seq, self.steps = max(self.seq, reply.seq), reply.steps
            if not self._client.durable:
                self._unkept[seq] = one.message
            _settle(one.future, step_result(reply) if isinstance(reply, say.Stepped) else None)
        if self._refused and not self._flight:
            wait, self._wait = self._wait, 0.0
            asyncio.get_running_loop().call_later(wait, self._renumber)
        else:
            await self._pump()

    def _renumber(self) -> None:
        """Nothing is in flight, so the server has nothing beyond `seq`: number what it refused anew."""
        if not self._refused or self._flight:
            return
        again = [one for _, one in sorted(self._refused.items()) if one.message and not (one.future and one.future.done())]
        self._refused = {}
        for one in (*again, *self._unsent):
            one.message = None
        self._last = self.seq
        self._unsent.extendleft(reversed(again))
        keep(asyncio.ensure_future(self._pump()))

    def _reattach(self) -> None:
        """After a new connection."""
        if not self._returning:  # else what it waits for is sent again
            self._returning = True
            keep(asyncio.ensure_future(self._go_on()))

    async def _go_on(self) -> None:
        try:
            opened = await self._client._request(lambda number: say.Attach(number, self.id, self.secret))
        except ServerError as error:
            self._fail(error)
            return
        finally:
            self._returning = False
        lost = {seq: _sent_before(message) for seq, message in self._unkept.items() if seq > opened.seq}
        waiting = lost | self._flight | self._refused
        self._flight, self._refused = {}, {}
        again = [one for _, one in sorted(waiting.items()) if one.message is not None]
        if len(again) < len(waiting):  # one was refused for good, so the numbers behind it change
            for one in (*again, *self._unsent):
                if one.message is not None and one.message.seq > opened.seq:
                    one.message = None
            self._last = opened.seq
        self._unsent.extendleft(reversed(again))
        if not waiting:
            self._last = max(self._last, opened.seq)
        await self._pump()
        for message in [one.message for one in self._client._requests.values()]:
            if getattr(message, "session", None) == self.id and not isinstance(message, say.Attach | say.Open):
                await self._client._send(message)

    def _end(self, reason: str) -> None:
        self._client._sessions.pop(self.id, None)
        self._fail(SessionLostError("moved", f"{LOST}: {reason}"))

    def _fail(self, error: Exception) -> None:
        self._lost = self._lost or error
        self._room.set()
        for one in self._pending():
            _settle(one.future, error)
        self._flight, self._refused = {}, {}
        self._unsent.clear()


def _sent_before(message: Any) -> _Input:
    """An input that nobody waits for any more."""
    one = _Input(lambda seq: msgspec.structs.replace(message, seq=seq), None)
    one.message = message
    return one


def _settle(future: asyncio.Future | None, result: Any) -> None:
    if future is None or future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
        future.exception()  # who never looks is not told of it at the end either
    else:
        future.set_result(result)
