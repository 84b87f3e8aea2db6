"""A load of sessions on a server, from a process of its own: `python -m tokenturing.bench.serve_load < ORDER`.

Open-loop: each session's steps are due at a fixed rate whatever the server does, and a step's latency counts from the moment
when it was due, not from when it could be sent. So a server that stalls pays for all that would have come meanwhile.

What is sent is made beforehand, down to the WebSocket frames, and of what comes only the numbers are read: the generator is to
take little of the machine that it shares with the server.
"""

import asyncio
import base64
import gc
import json
import os
import secrets
import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from tokenturing.serve import messages as say
from tokenturing.serve.arrays import array

RATE = 12.5
"""steps of a session in a second"""
PERIOD = 1 / RATE
TOGETHER = 0.002
"""seconds; what is due within so much is sent at once"""
GRACE = 2.0
"""seconds that are waited for replies after the last step was due"""
A_CONNECTION = 8
"""sessions on it"""
WAIT = 60.0
"""seconds for sessions to open"""
PLACE = 2**31
"""stands for the sequence number in messages that are made beforehand"""
NONE_KEY = bytes(4)
"""to mask with; it changes nothing"""
TEMPLATES = 16
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


class Order(msgspec.Struct):
    """What to do."""

    url: str
    sessions: int
    seconds: float
    warm_up: float = 1.0
    kind: str = "inputs"
    share: float = 0.5
    """of the sessions whose "media" steps bring all that they may; the others bring the first only"""
    seed: int = 0


class Said(msgspec.Struct):
    """As much of a server's message as matters here."""

    type: str
    session: str = ""
    seq: int = 0
    request: int | None = None
    code: str = ""
    message: str = ""


_SAID = msgspec.msgpack.Decoder(Said)


class Socket(asyncio.Protocol):
    """A WebSocket that sends frames as they are and passes on what comes."""

    def __init__(self, load: "Load", host: str):
        self.load, self.host = load, host
        self.welcome: asyncio.Future = asyncio.get_running_loop().create_future()
        self.out: list[bytes] = []
        self._in = bytearray()
        self._upgraded = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["GET /v1/connect HTTP/1.1", f"Host: {self.host}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        transport.write("\r\n".join(lines).encode())

    def connection_lost(self, error: Exception | None) -> None:
        self.load.lost(self)

    def data_received(self, data: bytes) -> None:
        self._in += data
        if not self._upgraded:
            head, end, rest = self._in.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head.split(b"\r\n")[0]:
                self.welcome.set_exception(ConnectionError(f"the server refuses: {bytes(head[:200])!r}"))
                return
            self._in, self._upgraded = rest, True
        at = 0
        while (found := _frame(self._in, at)) is not None:
            opcode, content, at = found
            if opcode == PING:
                self.out.append(framed(content, PONG))
                self.flush()
            elif not self.welcome.done():
                self.welcome.set_result(say.decode_reply(content.decode() if opcode != BINARY else content))
            elif opcode == BINARY:
                self.load.heard(_SAID.decode(content))
        del self._in[:at]

    def flush(self) -> None:
        """Send what was put in line."""
        if self.out:
            self.transport.write(b"".join(self.out))
            self.out.clear()


def _frame(data: bytearray, at: int) -> tuple[int, bytes, int] | None:
    """The next whole frame: its opcode, content, and where the one after it begins."""
    if len(data) < at + 2:
        return None
    opcode, size, start = data[at] & 15, data[at + 1] & 127, at + 2
    if size >= 126:
        wide = 2 if size == 126 else 8
        if len(data) < start + wide:
            return None
        size, start = int.from_bytes(data[start : start + wide], "big"), start + wide
    if len(data) < start + size:
        return None
    return opcode, bytes(data[start : start + size]), start + size


def framed(content: bytes, opcode: int = BINARY) -> bytes:
    """A client's frame."""
    size = len(content)
    if size < 126:
        head = bytes([size | 128])
    elif size < 2**16:
        head = bytes([126 | 128]) + size.to_bytes(2, "big")
    else:
        head = bytes([127 | 128]) + size.to_bytes(8, "big")
    return bytes([opcode | 128]) + head + NONE_KEY + content


class Player:
    """A session, and how far it is."""

    def __init__(self, socket: Socket, phase: float, templates: Sequence[dict[str, Any]]):
        self.socket, self.phase = socket, phase
        self.name = secrets.token_urlsafe(16)
        frames = [framed(say.encode(say.Step(self.name, PLACE, inputs))) for inputs in templates]
        mark = b"\xce" + PLACE.to_bytes(4, "big")
        parts = [frame.partition(mark) for frame in frames]
        self.frames = [(before + b"\xce", after) for before, _, after in parts]
        self.due = self.sent = self.answered = 0
        self.dead = False


class Load:
    """All sessions of an order."""

    def __init__(self, order: Order):
        self.order = order
        self.players: list[Player] = []
        self.sockets: list[Socket] = []
        self._by_name: dict[str, Player] = {}
        self._opening: dict[int, asyncio.Future] = {}
        self._window = 16
        self._begin = 0.0
        self.latencies: list[float] = []
        self.lags: list[float] = []
        self.errors: dict[str, int] = {}
        self._leaving = False

    async def run(self) -> dict[str, Any]:
        """Open, send, and hear; then say how it went."""
        await self._connect()
        gc.collect()
        gc.freeze()
        gc.disable()
        count = int(self.order.warm_up * RATE) + max(1, round(self.order.seconds * RATE))
        self._first = int(self.order.warm_up * RATE)  # steps before it are not counted
        self._begin = time.perf_counter() + 0.1
        began_cpu, began = time.process_time(), time.perf_counter()
        await self._send_all(count)
        end = time.perf_counter() + GRACE
        while time.perf_counter() < end and any(player.answered < count for player in self.players if not player.dead):
            await asyncio.sleep(0.01)
        cpu = (time.process_time() - began_cpu) / (time.perf_counter() - began)
        missing = self._missing(count)
        await self._leave()
        return self._result(count, missing, cpu)

    async def _connect(self) -> None:
        order, loop = self.order, asyncio.get_running_loop()
        place = urlsplit(order.url)
        host, port = place.hostname or "", place.port or 80
        for _ in range(-(-order.sessions // A_CONNECTION)):
            _, socket = await loop.create_connection(lambda: Socket(self, place.netloc), host, port)
            self.sockets.append(socket)
            welcome = await socket.welcome
        self._window = welcome.window
        rng = np.random.default_rng(order.seed)
        few, full = templates(welcome.models[0], order.kind, rng)
        phases = (np.arange(order.sessions) + rng.random(order.sessions)) / order.sessions * PERIOD
        for number, phase in enumerate(phases):
            whole = int((number + 1) * order.share) > int(number * order.share)
            player = Player(self.sockets[number % len(self.sockets)], float(phase), full if whole else few)
            self.players.append(player)
            self._by_name[player.name] = player
            self._opening[number] = loop.create_future()
            opening = say.Open(number, kind=order.kind, session=player.name, secret=secrets.token_urlsafe(32))
            player.socket.transport.write(framed(say.encode(opening)))
        await asyncio.wait_for(asyncio.gather(*self._opening.values()), WAIT)

    async def _send_all(self, count: int) -> None:
        for step in range(count):
            for player in self.players:
                wait = self._begin + step * PERIOD + player.phase - time.perf_counter()
                if wait > 0:
                    self._flush()
                    await asyncio.sleep(max(wait, TOGETHER))
                player.due = step + 1
                self._pump(player)
            self._flush()
            await asyncio.sleep(0)

    def _flush(self) -> None:
        for socket in self.sockets:
            socket.flush()

    def _pump(self, player: Player) -> None:
        """Send what is due and may be sent."""
        while player.sent < player.due and player.sent - player.answered < self._window and not player.dead:
            before, after = player.frames[player.sent % len(player.frames)]
            player.sent += 1
            player.socket.out += (before, player.sent.to_bytes(4, "big"), after)
            if player.sent > self._first:
                self.lags.append(time.perf_counter() - self._due(player, player.sent))

    def _due(self, player: Player, seq: int) -> float:
        return self._begin + (seq - 1) * PERIOD + player.phase

    def heard(self, said: Said) -> None:
        """A message of the server."""
        if said.type == "stepped":
            player = self._by_name[said.session]
            player.answered = said.seq
            if said.seq > self._first:
                self.latencies.append(time.perf_counter() - self._due(player, said.seq))
            if player.sent < player.due:
                self._pump(player)
                player.socket.flush()
        elif said.type == "opened" and said.request in self._opening:
            self._opening[said.request].set_result(None)
        elif said.type == "error":
            self._failed(said)

    def _failed(self, said: Said) -> None:
        if self._leaving:  # what still waited is refused with the sessions that are closed
            return
        self.errors[said.code] = self.errors.get(said.code, 0) + 1
        future = self._opening.get(-1 if said.request is None else said.request)
        if future and not future.done():
            future.set_exception(ConnectionError(f"{said.code}: {said.message}"))
        if said.session in self._by_name:
            self._by_name[said.session].dead = True

    def lost(self, socket: Socket) -> None:
        """A connection is gone."""
        for player in self.players:
            if player.socket is socket and not player.dead and not self._leaving:
                player.dead = True
                self.errors["lost"] = self.errors.get("lost", 0) + 1

    def _missing(self, count: int) -> list[float]:
        """How long steps that were never answered have been due."""
        now = time.perf_counter()
        return [
            now - self._due(player, seq)
            for player in self.players
            for seq in range(max(player.answered, self._first) + 1, count + 1)
        ]

    async def _leave(self) -> None:
        self._leaving = True
        for number, player in enumerate(self.players):
            if not player.dead:
                player.dead = True
                player.socket.out.append(framed(say.encode(say.Close(number, player.name))))
        self._flush()
        await asyncio.sleep(0.1)
        for socket in self.sockets:
            socket.transport.write(framed(b"\x03\xe8", CLOSE))
            socket.transport.close()

    def _result(self, count: int, missing: list[float], cpu: float) -> dict[str, Any]:
        found = np.array([*self.latencies, *missing])
        median, high, highest = (float(value) for value in np.percentile(found, (50, 99, 99.9)))
        return {
            "sessions": self.order.sessions,
            "steps": len(found),
            "rate": len(self.latencies) / ((count - self._first) * PERIOD),
            "unanswered": len(missing),
            "errors": self.errors,
            "median": median,
            "p99": high,
            "p999": highest,
            "in_time": float((found <= PERIOD).mean()),
            "lag_p99": float(np.percentile(self.lags, 99)) if self.lags else None,
            "generator_cpu": cpu,
        }


def templates(model: say.Model, kind: str, rng: np.random.Generator) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Inputs of steps that bring only the first of "media", and of those that bring all."""
    parts = model.media if kind == "media" else {name: part for name, part in model.inputs.items() if name != "token_mask"}
    full = [{name: array(_random(part, rng)) for name, part in parts.items()} for _ in range(TEMPLATES)]
    if kind != "media":
        return full, full
    first = next(iter(parts))
    return [{first: one[first]} for one in full], full


def _random(part: say.Input, rng: np.random.Generator) -> np.ndarray:
    shape = [size if isinstance(size, int) else 1 for size in part.shape]
    if part.dtype == "bool":
        return np.ones(shape, bool)
    if part.dtype.startswith("float"):
        return (rng.random(shape) * 0.5).astype(part.dtype)
    return np.zeros(shape, part.dtype)


def main() -> None:
    """An order on standard input, the outcome on standard output."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    print(json.dumps(asyncio.run(Load(order).run())), flush=True)


if __name__ == "__main__":
    main()
