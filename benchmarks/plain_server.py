"""A server of sessions as one writes it without much ado: WebSockets, a dict of sessions, one lock, each step saved after it.

    python benchmarks/plain_server.py CHECKPOINT [--port 0] [--store PATH]

It is what `tokenturing bench serve` compares with. It speaks as much of the same protocol as the load needs, has the same
model on the same runtime, and saves to the same kind of file with the same durability: a step is on the disk before its reply
goes out. It has no sequence numbers, secrets, limits, or sessions that sleep.
"""

import argparse
import asyncio
import sqlite3

from websockets.asyncio.server import ServerConnection, serve

from tokenturing.cli.serve import load_served
from tokenturing.serve import messages as say
from tokenturing.serve.served import Served, Stream


class Plain:
    """All sessions of the process."""

    def __init__(self, served: Served, store: str):
        self.served = served
        self.sessions: dict[str, Stream] = {}
        self.lock = asyncio.Lock()
        self.store = sqlite3.connect(store, isolation_level=None)
        self.store.execute("PRAGMA journal_mode = WAL")
        self.store.execute("PRAGMA synchronous = FULL")
        self.store.execute("CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, seq INTEGER, state BLOB)")

    async def connected(self, socket: ServerConnection) -> None:
        """One client."""
        await socket.send(say.encode(say.Welcome(say.VERSION, [self.served.about()], 16, "step", 2**20), text=True).decode())
        async for frame in socket:
            message = say.decode(frame)
            async with self.lock:
                reply = self.handle(message)
            await socket.send(say.encode(reply))

    def handle(self, message: say.FromClient) -> say.Message:
        """A message -> its reply."""
        match message:
            case say.Open(request=request, session=str(name), kind=kind):
                self.sessions[name] = self.served.begin(kind)
                return say.Opened(request, name, self.served.name, self.served.fingerprint, kind, 0, 0)
            case say.Step(session=name, seq=seq, inputs=inputs):
                events, outputs, state, error = self.served.step([self.sessions[name]], [inputs])[0]
                if error:
                    return say.Error("bad_input", str(error), session=name, seq=seq)
                self.store.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)", (name, seq, state))
                return say.Stepped(name, seq, seq, events, outputs)
            case say.Close(request=request, session=name):
                self.sessions.pop(name, None)
                self.store.execute("DELETE FROM sessions WHERE id = ?", (name,))
                return say.Gone(name, "closed", request)
        return say.Error("bad_message", "this server opens, steps and closes only")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--store", default="sessions.db")
    arguments = parser.parse_args()
    plain = Plain(load_served("model", arguments.checkpoint), arguments.store)
    async with serve(plain.connected, "127.0.0.1", arguments.port, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        print(f"serving model at http://127.0.0.1:{port}/, sessions in {arguments.store}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
