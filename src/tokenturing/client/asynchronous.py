"""The client for asyncio; the synchronous one is this one in a thread."""

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Self

import msgspec

from tokenturing.client.options import address, headers, seconds
from tokenturing.client.results import ServerError, closed, frame, server_error
from tokenturing.client.session import AGAIN_SECONDS, AsyncSession, keep
from tokenturing.errors import in_words
from tokenturing.extras import require
from tokenturing.serve import messages as say

RECONNECT_SECONDS = 60.0
"""in which to reach a server again that is away"""
WAITS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)
"""seconds before each try; the last one ever after"""
WELCOME_SECONDS = 10.0
"""for a peer to accept a connection and to say who it is"""
FINAL = ("refused", "version")
"""codes of a peer that will not say anything else when it is asked again"""


async def connect_async(url: str, *, token: str | None = None, reconnect: float = RECONNECT_SECONDS) -> "AsyncClient":
    """`connect` for asyncio: the same arguments, and the same errors."""
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
        self.url, self._headers, self._reconnect = address(url), headers(token), seconds("reconnect", reconnect)
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
        self._fail(closed())
        if self._socket is not None:
            await self._socket.close()

    def _check(self, lost: Exception | None = None) -> None:
        """Raise what is in the way of asking anything; `lost` is what became of the session."""
        if self._closed:
            raise closed()
        if error := lost or self._failure:
            raise error

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
        self._check()
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

    async def _connect(self, within: float = WELCOME_SECONDS) -> None:
        """A new connection.

        Raises:
            OSError: nobody is there, or nobody says anything for so many seconds.
            ServerError: somebody is, but it refuses, or is no server of ours.
        """
        try:
            async with asyncio.timeout(within):
                socket, welcome = await self._greeted()
        except TimeoutError:
            raise TimeoutError(f"{self.url} did not answer within {within:.3g} s") from None
        self.models, self.window, self.worker = welcome.models, welcome.window, welcome.worker
        self.durable, self._largest = welcome.durability == "step", welcome.largest
        self._socket = socket
        self._connected.set()
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())

    async def _greeted(self) -> tuple[Any, say.Welcome]:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidStatus, WebSocketException

        socket: Any = None
        try:
            socket = await connect(self.url, additional_headers=self._headers, max_size=None, compression=None, open_timeout=None)
            return socket, self._welcome(say.decode_reply(await socket.recv()))
        except BaseException as error:
            if socket is not None:
                socket.transport.abort()
            if isinstance(error, InvalidStatus):
                body = (error.response.body or b"").decode(errors="replace")[:300]
                code = "refused" if error.response.status_code < 500 else "full"
                raise ServerError(code, f"{self.url} refuses ({error.response.status_code}): {body}") from None
            if isinstance(error, WebSocketException | EOFError | msgspec.MsgspecError | UnicodeError):
                raise self._foreign(error) from None
            raise

    def _welcome(self, reply: Any) -> say.Welcome:
        if isinstance(reply, say.Error):
            raise server_error(reply)
        if not isinstance(reply, say.Welcome) or reply.version != say.VERSION:
            raise ServerError("version", f"{self.url} speaks another version: expected {say.VERSION}")
        return reply

    def _foreign(self, error: BaseException) -> ServerError:
        return ServerError(
            "foreign", f"{self.url} is no server of sessions ({in_words(error)}): expected one of `tokenturing serve`"
        )

    async def _read(self) -> None:
        """Take what comes, over as many connections as it takes; whoever waits for a reply must not wait for ever."""
        from websockets.exceptions import ConnectionClosed

        try:
            tries, end = 0, 0.0
            while not self._closed:
                good, since = False, time.monotonic()
                with suppress(ConnectionClosed, OSError):
                    async for data in self._socket:
                        await self._handle(say.decode_reply(data))
                        good = True
                self._connected.clear()
                now = time.monotonic()
                if good or not tries or now - since >= min(self._reconnect, WELCOME_SECONDS):
                    tries, end = 0, now + self._reconnect  # else it greets and breaks off at once: the same loss goes on
                if not self._closed:
                    tries = await self._connect_again(tries, end)
        except Exception as error:
            self._connected.clear()
            self._socket.transport.abort()
            self._fail(error if isinstance(error, ServerError) else self._foreign(error))

    async def _connect_again(self, tries: int, end: float) -> int:
        """After so many tries, until then by time.monotonic -> how many it took."""
        last = ""
        while True:
            wait = WAITS[min(tries, len(WAITS) - 1)]
            tries += 1
            if (left := end - time.monotonic() - wait) <= 0:
                raise ServerError("away", f"{self.url} could not be reached again for {self._reconnect:g} s{last}")
            await asyncio.sleep(wait)
            try:
                await self._connect(min(left, WELCOME_SECONDS))
                break
            except (OSError, ServerError) as error:
                if isinstance(error, ServerError) and error.code in FINAL:
                    raise
                last = f" ({in_words(error)})"
        for session in list(self._sessions.values()):
            session._reattach()
        for message in [one.message for one in self._requests.values()]:
            if getattr(message, "session", None) not in self._sessions or isinstance(message, say.Attach):
                await self._send(message)
        return tries

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
