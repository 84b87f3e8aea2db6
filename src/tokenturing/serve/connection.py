"""One WebSocket: messages in, turns taken, replies out, and nothing that it does can hold up another."""

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from tokenturing.errors import TokenTuringError
from tokenturing.serve import messages as say
from tokenturing.serve.engine import Engine
from tokenturing.serve.messages import Message, ProtocolError
from tokenturing.serve.replies import error_message, opened
from tokenturing.serve.seats import Job, Seat
from tokenturing.serve.socket import MORE
from tokenturing.serve.store import StoreError

log = logging.getLogger(__name__)
BAD_MESSAGES = 20
"""that a connection may send before it is closed"""
POLICY, TOO_BIG, TRY_LATER = 1008, 1009, 1013
BURST = 2.0
"""seconds' worth of messages that may come at once"""


class Connection:
    """A client that is connected.

    Args:
        engine: where sessions are.
        socket: accepted already.
    """

    def __init__(self, engine: Engine, socket: WebSocket):
        self.engine, self.socket = engine, socket
        self.text = False
        """whether it speaks JSON; until it has spoken it does not"""
        self._out: deque[bytes | str] = deque()
        self._out_wake = asyncio.Event()
        self._open = 0
        """messages that are not answered yet"""
        self._less = asyncio.Event()
        self._held: dict[str, Seat] = {}
        self._ended = False
        self._bad = 0
        self._allowed, self._counted = engine.limits.messages_per_second * BURST, time.monotonic()

    def send(self, message: Message, encoded: bytes | None = None) -> None:
        if isinstance(message, say.Error):
            self.engine.metrics.errors.labels(message.code).inc()
        if isinstance(message, say.Gone):
            self._held.pop(message.session, None)
        elif isinstance(message, say.Opened):
            self._hold(message.session)
        if not isinstance(message, say.Kept) and not (isinstance(message, say.Gone) and message.request is None):
            self._open -= 1
            self._less.set()
        self._put(say.encode(message, text=True).decode() if self.text else encoded or say.encode(message))

    def _put(self, frame: bytes | str) -> None:
        self._out.append(frame)
        self._out_wake.set()

    async def run(self) -> None:
        """Until the client goes, or must go."""
        limits = self.engine.limits
        models = [served.about() for served in self.engine.models.values()]
        welcome = say.Welcome(say.VERSION, models, limits.window, limits.durability, limits.message_bytes, self.engine.worker)
        self._put(say.encode(welcome, text=True).decode())
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read())
        try:
            done, _ = await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except WebSocketDisconnect:
            pass
        except _Close as close:
            log.info("a connection was closed: %s", close.reason)
            if self.socket.application_state is WebSocketState.CONNECTED:
                with suppress(Exception):
                    await asyncio.wait_for(self.socket.close(close.code, close.reason), 1.0)
        finally:
            for task in (writer, reader):
                task.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)
            self._ended = True
            self.engine.vanished(list(self._held.values()), self)

    async def _write(self) -> None:
        while True:
            await self._out_wake.wait()
            while self._out:
                frames, self._out = self._out, deque()
                try:
                    async with asyncio.timeout(self.engine.limits.stalled_seconds):
                        while frames:
                            frame = frames.popleft()
                            kind = "text" if isinstance(frame, str) else "bytes"
                            await self.socket.send({"type": "websocket.send", kind: frame, MORE: bool(frames)})
                except TimeoutError:
                    raise _Close(TRY_LATER, "replies were left unread for too long") from None
                except (RuntimeError, OSError):  # it went while this was written
                    return
            self._out_wake.clear()

    async def _read(self) -> None:
        while True:
            frame = await self.socket.receive()
            if frame["type"] == "websocket.disconnect":
                return
            text, data = frame.get("text"), frame.get("bytes")
            self.text = text is not None
            await self._within_rate()
            self._open += 1
            try:
                await self._handle(say.decode(text if text is not None else data or b""))
            except ProtocolError as error:
                self.send(error_message(error))
                self._bad += 1
                if self._bad >= BAD_MESSAGES:
                    raise _Close(POLICY, f"{self._bad} messages were none: see /schema.json") from None
            while self._open >= self.engine.limits.waiting:
                self._less.clear()
                await self._less.wait()

    async def _within_rate(self) -> None:
        """Read no faster than allowed; the client feels that its socket fills up."""
        rate, now = self.engine.limits.messages_per_second, time.monotonic()
        self._allowed = min(self._allowed + (now - self._counted) * rate, rate * BURST) - 1
        self._counted = now
        if self._allowed < 0:
            await asyncio.sleep(-self._allowed / rate)

    async def _handle(self, message: say.FromClient) -> None:
        try:
            match message:
                case say.Open():
                    record, secret = await self.engine.open(message, self)
                    self.send(opened(message.request, record, secret))
                case say.Import():
                    record, secret = await self.engine.take_in(message, self)
                    self.send(opened(message.request, record, secret))
                case say.Attach():
                    record = await self.engine.attach(message, self)
                    self.send(opened(message.request, record))
                case say.Detach():
                    await self.engine.detach(self._seat(message.session), self)
                    self.send(say.Gone(message.session, "detached", message.request))
                case say.Close():
                    self._seat(message.session)
                    await self.engine.delete(message.session, self)
                    self.send(say.Gone(message.session, "closed", message.request))
                case _:
                    self.engine.submit(self._seat(message.session), Job(message, self))
        except (TokenTuringError, StoreError) as error:
            self.send(error_message(error, message))
        except Exception:
            log.exception("a message failed")
            self.send(error_message(ProtocolError("internal", "the server failed at this, and its log says why"), message))

    def _hold(self, session: str) -> None:
        if (seat := self.engine.seats.get(session)) is None or seat.listener is not self:
            return
        if self._ended:  # a fork was finished after the client had gone
            self.engine.vanished([seat], self)
        else:
            self._held[session] = seat

    def _seat(self, session: str) -> Seat:
        seat = self._held.get(session) or self.engine.seats.get(session)
        if seat is None or seat.listener is not self or seat.gone:
            raise ProtocolError("not_attached", f"this connection does not hold the session {session[:64]!r}: attach to it first")
        return seat


class _Close(Exception):  # noqa: N818
    """The connection is to be closed."""

    def __init__(self, code: int, reason: str):
        super().__init__(reason)
        self.code, self.reason = code, reason
