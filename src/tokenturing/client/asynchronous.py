"""The client for asyncio; the synchronous one is this one in a thread."""

import asyncio
import itertools
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from tokenturing.client.results import ServerError, SessionLostError, StepResult, frame, server_error, step_result, to_values
from tokenturing.errors import OptionError
from tokenturing.extras import require
from tokenturing.serve import messages as say

RECONNECT_SECONDS = 60.0
"""in which to reach a server again that is away"""
WAITS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)
"""seconds before each try; the last one ever after"""
AGAIN_SECONDS = 0.2
"""before an input is sent again that the server could not take for now"""
LOST = "the session is not held any more"


async def connect_async(url: str, *, token: str | None = None, reconnect: float = RECONNECT_SECONDS) -> "AsyncClient":
    """Connect to a server.

    Args:
        url: such as "http://127.0.0.1:8080".
        token: one of the server's --token-file.
        reconnect: seconds in which to reach the server again after the connection was lost; 0: not at all.

    Raises:
        OSError: it cannot be reached.
        ServerError: it refuses.
    """
    require("client")
    client = AsyncClient(url, token, reconnect)
    await client._connect()
    return client


class AsyncClient:
    """A connection, and the sessions that it holds. Use `connect_async`."""

    models: list[say.Model]
    """what the server has"""
    worker: str
    """the name of the server process"""

    def __init__(self, url: str, token: str | None, reconnect: float):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.netloc:
            raise OptionError(f"{url!r} is no address of a server: expected one such as http://127.0.0.1:8080")
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        self.url = f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/v1/connect"
        self._token, self._reconnect = token, reconnect
        self._sessions: dict[str, AsyncSession] = {}
        self._requests: dict[int, _Request] = {}
        self._numbers = itertools.count(1)
        self._socket: Any = None
        self._connected = asyncio.Event()
        self._closed = False
        self._reader: asyncio.Task | None = None
        self._failure: Exception | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connection; sessions stay on the server."""
        self._closed = True
        if self._reader:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()
        self._fail(ServerError("closed", "this client was closed"))

    async def open(
        self, model: str = "", *, kind: str = "inputs", session: str | None = None, secret: str | None = None
    ) -> "AsyncSession":
        """Begin a session.

        Args:
            model: its name on the server; "": the only one.
            kind: what a step brings: "inputs" by the model's signature, or "media".
            session: an id of your own, 8 to 64 letters and figures; None: a random one.
            secret: of your own, 16 characters or more; None: a random one. Whoever knows it can go on with the session.
        """
        name, word = session or secrets.token_urlsafe(16), secret or secrets.token_urlsafe(32)
        opened = await self._request(lambda number: say.Open(number, model, kind, name, word))
        return self._held(opened, word)

    async def attach(self, session: str, secret: str) -> "AsyncSession":
        """Go on with a session that was begun before."""
        return self._held(await self._request(lambda number: say.Attach(number, session, secret)), secret)

    async def import_session(self, data: bytes, model: str = "") -> "AsyncSession":
        """Begin a session with what `AsyncSession.export` returned."""
        name, word = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
        return self._held(await self._request(lambda number: say.Import(number, data, model, name, word)), word)

    def _held(self, opened: say.Opened, secret: str) -> "AsyncSession":
        session = AsyncSession(self, opened, secret)
        if before := self._sessions.get(session.id):
            before._end("this client attached to it again")
        self._sessions[session.id] = session
        return session

    async def _request(self, build: Callable[[int], Any]) -> Any:
        """Send a message that has a number of its own -> the reply."""
        if self._failure:
            raise self._failure
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        message = build(number)
        frame(message, self._largest)
        self._requests[number] = _Request(message, future, time.monotonic())
        try:
            await self._send(message)
            return await future
        finally:
            self._requests.pop(number, None)

    async def _send(self, message: Any) -> None:
        """Into the socket; what is lost there is sent again after the next connection."""
        from websockets.exceptions import ConnectionClosed

        if self._connected.is_set():
            with suppress(ConnectionClosed):
                await self._socket.send(say.encode(message))

    async def _connect(self) -> None:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidStatus

        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            self._socket = await connect(self.url, additional_headers=headers, max_size=None, compression=None)
        except InvalidStatus as error:
            body = error.response.body.decode(errors="replace")[:300]
            code = "refused" if error.response.status_code < 500 else "full"
            raise ServerError(code, f"{self.url} refuses ({error.response.status_code}): {body}") from None
        welcome = say.decode_reply(await self._socket.recv())
        if not isinstance(welcome, say.Welcome) or welcome.version != say.VERSION:
            raise ServerError("version", f"{self.url} speaks another version: expected {say.VERSION}")
        self.models, self.window, self.worker = welcome.models, welcome.window, welcome.worker
        self.durable, self._largest = welcome.durability == "step", welcome.largest
        self._connected.set()
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        from websockets.exceptions import ConnectionClosed

        while not self._closed:
            try:
                async for data in self._socket:
                    await self._handle(say.decode_reply(data))
            except (ConnectionClosed, OSError):
                pass
            except Exception as error:  # whoever waits for a reply must not wait for ever
                self._fail(error)
                raise
            self._connected.clear()
            if self._closed:
                return
            try:
                await self._connect_again()
            except (OSError, ServerError) as error:
                self._fail(error)
                return

    async def _connect_again(self) -> None:
        end = time.monotonic() + self._reconnect
        for tries in itertools.count():
            wait = WAITS[min(tries, len(WAITS) - 1)]
            if self._reconnect <= 0 or time.monotonic() + wait > end:
                raise ServerError("away", f"{self.url} could not be reached again for {self._reconnect:g} s")
            await asyncio.sleep(wait)
            try:
                await self._connect()
                break
            except ServerError as error:
                if error.code != "full":
                    raise
            except (TimeoutError, OSError, EOFError, _handshake_error()):
                continue
        for session in list(self._sessions.values()):
            session._reattach()
        for message in [one.message for one in self._requests.values()]:
            if getattr(message, "session", None) not in self._sessions or isinstance(message, say.Attach):
                await self._send(message)

    async def _handle(self, reply: Any) -> None:
        request, name = getattr(reply, "request", None), getattr(reply, "session", None)
        if request in self._requests:
            message, future, began = self._requests[request]
            if future.done():
                return
            if not isinstance(reply, say.Error):
                future.set_result(reply)
            elif isinstance(message, say.Close) and reply.code == "unknown_session":
                future.set_result(say.Gone(message.session, "closed", request))  # an earlier try did it
            elif self._may_go_away(reply, began) and not isinstance(message, say.Attach):
                asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._again, message)
            else:
                future.set_exception(server_error(reply))
        elif name in self._sessions:
            await self._sessions[name]._handle(reply)

    def _may_go_away(self, error: say.Error, since: float) -> bool:
        """Whether what is in the way may be gone before the time is over in which this client tries again."""
        return error.retry and error.code not in ("moved", "full") and time.monotonic() - since < self._reconnect

    def _again(self, message: Any) -> None:
        _keep(asyncio.ensure_future(self._send(message)))

    def _fail(self, error: Exception) -> None:
        """Nothing will come any more."""
        self._failure = self._failure or error
        for one in list(self._requests.values()):
            if not one.future.done():
                one.future.set_exception(error)
        for session in list(self._sessions.values()):
            session._fail(error)


class _Request(NamedTuple):
    """A message that has a number of its own, and waits for its reply."""

    message: Any
    future: asyncio.Future
    began: float
    """by the clock of time.monotonic"""


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

    def __init__(self, client: AsyncClient, opened: say.Opened, secret: str):
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
        """
        return await (await self.send(inputs, **named))

    async def send(self, inputs: Any = None, /, **named: Any) -> "asyncio.Future[StepResult]":
        """The same without waiting for the reply, which the future will have. It waits while too many are on their way."""
        values = to_values(self._named(inputs) | named)
        return await self._submit(lambda seq: say.Step(self.id, seq, values))

    def _named(self, inputs: Any) -> dict[str, Any]:
        if inputs is None or isinstance(inputs, dict):
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
        if self._lost:
            raise self._lost
        for future in [one.future for one in self._pending() if one.future]:
            with suppress(Exception):
                await asyncio.shield(future)
        if self._lost:
            raise self._lost
        return await self._client._request(build)

    def _pending(self) -> Iterator[_Input]:
        yield from itertools.chain(list(self._flight.values()), list(self._refused.values()), list(self._unsent))

    async def _submit(self, build: Callable[[int], Any]) -> "asyncio.Future[Any]":
        while len(self._unsent) >= self._client.window and not self._lost:
            self._room.clear()
            await self._room.wait()
        if self._lost:
            raise self._lost
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
        _keep(asyncio.ensure_future(self._pump()))

    def _reattach(self) -> None:
        """After a new connection."""
        if not self._returning:  # else what it waits for is sent again
            self._returning = True
            _keep(asyncio.ensure_future(self._go_on()))

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


_TASKS: set[asyncio.Future] = set()


def _keep(task: asyncio.Future) -> None:
    """asyncio forgets tasks that nobody holds."""
    _TASKS.add(task)
    task.add_done_callback(_TASKS.discard)


def _handshake_error() -> type[Exception]:
    from websockets.exceptions import WebSocketException

    return WebSocketException
