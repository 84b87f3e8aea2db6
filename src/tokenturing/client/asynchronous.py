"""The client for asyncio; the synchronous one is this one in a thread."""

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from tokenturing.client.results import ServerError, frame, server_error
from tokenturing.client.session import AGAIN_SECONDS, AsyncSession, keep
from tokenturing.errors import OptionError
from tokenturing.extras import require
from tokenturing.serve import messages as say

RECONNECT_SECONDS = 60.0
"""in which to reach a server again that is away"""
WAITS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)
"""seconds before each try; the last one ever after"""


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
    ) -> AsyncSession:
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

    async def attach(self, session: str, secret: str) -> AsyncSession:
        """Go on with a session that was begun before."""
        return self._held(await self._request(lambda number: say.Attach(number, session, secret)), secret)

    async def import_session(self, data: bytes, model: str = "") -> AsyncSession:
        """Begin a session with what `AsyncSession.export` returned."""
        name, word = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
        return self._held(await self._request(lambda number: say.Import(number, data, model, name, word)), word)

    def _held(self, opened: say.Opened, secret: str) -> AsyncSession:
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
        keep(asyncio.ensure_future(self._send(message)))

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


def _handshake_error() -> type[Exception]:
    from websockets.exceptions import WebSocketException

    return WebSocketException
