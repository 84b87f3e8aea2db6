"""A connection lets go of all that it holds."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tokenturing.cli.serve import load_served
from tokenturing.serve.connection import Connection
from tokenturing.serve.engine import Engine
from tokenturing.serve.limits import Limits
from tokenturing.serve.store import open_store


class Socket:
    """What a client sends by a queue; what it gets, in order."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.got: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive(self) -> dict[str, Any]:
        return await self.sent.get()

    async def send(self, message: dict[str, Any]) -> None:
        await self.got.put(json.loads(message["text"]))

    async def say(self, **message: Any) -> dict[str, Any]:
        await self.sent.put({"type": "websocket.receive", "text": json.dumps(message)})
        return await asyncio.wait_for(self.got.get(), 30)


def test_forks_are_let_go_of_too(tmp_path: Path) -> None:
    async def run() -> None:
        engine = Engine(
            {"recall": load_served("recall", "recall-ttm")}, open_store(f"sqlite:{tmp_path / 'store.db'}", 16), Limits()
        )
        await engine.start()
        socket = Socket()
        running = asyncio.create_task(Connection(engine, socket).run())  # type: ignore[arg-type]
        await asyncio.wait_for(socket.got.get(), 30)
        opened = await socket.say(type="open", request=1, kind="media")
        forked = await socket.say(type="fork", request=2, session=opened["session"])
        held = [engine.seats[one["session"]] for one in (opened, forked)]
        assert all(seat.listener for seat in held)
        await socket.sent.put({"type": "websocket.disconnect"})
        await running
        assert not any(seat.listener for seat in held)
        await engine.stop()

    asyncio.run(run())
