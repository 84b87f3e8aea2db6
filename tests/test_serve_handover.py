"""Sessions that change hands: between servers that live, with writes now and then, and at the end of one that is closed."""

import asyncio
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Raw, inputs, outputs_alone, serving_here, small_engine, small_machine

from tokenturing.client import connect
from tokenturing.serve import messages as say
from tokenturing.serve.arrays import array
from tokenturing.serve.engine import Engine
from tokenturing.serve.seats import Job
from tokenturing.serve.sqlite import SqliteStore
from tokenturing.serve.store import StoreError

NAME, SECRET = "a-session-that-moves", "a secret of some length"
NEVER = 60.0
"""seconds between two writes, so that none happens by itself"""
PATIENCE = 30.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_machine(tmp_path_factory.mktemp("handover") / "machine")


class Heard(list[say.Message]):
    """A connection that writes down what it is told."""

    def send(self, message: say.Message, encoded: bytes | None = None) -> None:
        self.append(message)

    async def wait(self, kind: type[say.Message], count: int = 1) -> None:
        async with asyncio.timeout(PATIENCE):
            while sum(isinstance(one, kind) for one in self) < count:
                await asyncio.sleep(0.005)


def two(folder: Path, store: Path, interval: float, play: Callable[[Engine, Engine], Coroutine[Any, Any, None]]) -> None:
    """Two servers' hearts on one store."""

    async def run() -> None:
        engines = [small_engine(folder, store, interval=interval) for _ in range(2)]
        for engine in engines:
            await engine.start()
        try:
            await play(*engines)
        finally:
            for engine in engines:
                await engine.stop()

    asyncio.run(run())


def step(engine: Engine, seq: int, listener: Heard) -> None:
    engine.submit(engine.seats[NAME], Job(say.Step(NAME, seq, {"x": array(inputs(1)[0])}), listener))


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "control"])
def test_nothing_is_acknowledged_that_can_not_be_written(folder: Path, tmp_path: Path, taken: bool) -> None:
    """What waits for a write during which the session turns out to be another server's."""

    async def play(first: Engine, second: Engine) -> None:
        heard = Heard()
        await first.open(say.Open(0, session=NAME, secret=SECRET), heard)
        step(first, 1, heard)
        await heard.wait(say.Stepped)
        if taken:
            assert (await second.attach(say.Attach(0, NAME, SECRET), Heard())).seq == 0
        first._commits._room.clear()  # as it is while the write of each interval goes on
        step(first, 2, heard)
        while first._commits._computed or not first.seats[NAME].busy or first._turns._ready or second._turns._ready:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        await first._commits.flush()
        first._commits._room.set()
        if not taken:
            await heard.wait(say.Stepped, 2)
            return
        await heard.wait(say.Error)
        assert [type(one) for one in heard] == [say.Stepped, say.Gone, say.Error]
        assert isinstance(heard[-1], say.Error)
        assert (heard[-1].code, heard[-1].seq) == ("moved", 2)

    two(folder, tmp_path / "s.db", NEVER, play)


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "control"])
def test_what_was_acknowledged_to_nobody_is_not_forgotten(folder: Path, tmp_path: Path, gone: bool) -> None:
    """A rewind, which leaves no state in memory, of which the client is gone before the write of the interval."""

    async def play(first: Engine, second: Engine) -> None:
        heard = Heard()
        await first.open(say.Open(0, session=NAME, secret=SECRET), heard)
        seat = first.seats[NAME]
        first.submit(seat, Job(say.Mark(NAME, 1, "here"), heard))
        await heard.wait(say.Done)
        await first._commits.flush()
        first.submit(seat, Job(say.Rewind(NAME, 2, "here"), heard))
        if gone:
            first.vanished([seat], heard)
        await heard.wait(say.Done, 2)
        assert seat.dirty_since is not None
        assert (await first.lookup(NAME, SECRET)).seq == 2
        assert (NAME in first.seats) is not gone, "what is written and used by nobody takes no memory"

    two(folder, tmp_path / "s.db", NEVER, play)


def test_who_was_overtaken_notices_with_its_next_write(folder: Path, tmp_path: Path) -> None:
    async def play(first: Engine, second: Engine) -> None:
        heard = Heard()
        await first.open(say.Open(0, session=NAME, secret=SECRET), heard)
        await second.attach(say.Attach(0, NAME, SECRET), Heard())
        step(first, 1, heard)
        await heard.wait(say.Gone)
        assert NAME not in first.seats
        assert second.seats[NAME].record.seq == 0

    two(folder, tmp_path / "s.db", 0.02, play)


@pytest.mark.parametrize("how", ["detached", "gone", "held"])
def test_who_lets_go_leaves_all_behind(folder: Path, tmp_path: Path, how: str) -> None:
    """So that the next server has all that was acknowledged; of a session that is held it has not, which is the control."""
    with serving_here(small_engine(folder, tmp_path / "s.db", interval=NEVER)) as url:
        raw = Raw(url)
        raw.send(say.Open(1, session=NAME, secret=SECRET))
        for seq, one in enumerate(inputs(6), 1):
            assert isinstance(raw.step(NAME, seq, one), say.Stepped)
        store = SqliteStore(tmp_path / "s.db", 16)
        if how == "held":
            assert seq_of(store) == 0
        elif how == "detached":
            while not isinstance(raw.send(say.Detach(2, NAME))[0], say.Gone):  # what was written comes first
                pass
            assert seq_of(store) == 6
        else:
            raw.socket.close()
            end = time.monotonic() + PATIENCE
            while seq_of(store) < 6 and time.monotonic() < end:
                time.sleep(0.01)
            assert seq_of(store) == 6
        store.close()


def seq_of(store: SqliteStore) -> int:
    record = store.get(NAME)
    assert record is not None
    return record.seq


class Balancer:
    """What stands before servers: it leads each connection to whichever server it is told to."""

    def __init__(self, target: str):
        self.target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._clients: list[socket.socket] = []
        self._servers: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", int(self.target.rpartition(":")[2])))
                self._clients.append(client)
                self._servers.append(server)
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                sink.sendall(data)
            if source in self._servers:
                sink.shutdown(socket.SHUT_RDWR)

    def lose_clients(self) -> None:
        """They notice, and the servers do not."""
        for client in self._clients:
            client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listening.close()
        for one in (*self._clients, *self._servers):
            one.close()


@contextmanager
def balancer(target: str) -> Iterator[Balancer]:
    one = Balancer(target)
    try:
        yield one
    finally:
        one.close()


def test_a_client_that_comes_to_another_server_sends_again_what_the_first_lost(folder: Path, tmp_path: Path) -> None:
    x, path = inputs(9), tmp_path / "s.db"
    first, second = (small_engine(folder, path, interval=NEVER) for _ in range(2))
    with serving_here(first) as here, serving_here(second) as there, balancer(here) as middle, connect(middle.url) as client:
        session = client.open()
        found = [session.step(one) for one in x[:6]]
        record = first.store.get(session.id)
        assert record is not None
        assert record.seq == 0, "nothing of it was written"
        middle.target = there
        middle.lose_clients()
        found += [session.step(one) for one in x[6:]]
        assert client.worker == second.worker
        assert second.seats[session.id].record.seq == len(x)
    assert [one.seq for one in found] == list(range(1, len(x) + 1))
    assert all(np.array_equal(one.outputs["y"], y) for one, y in zip(found, outputs_alone(folder, x), strict=True))


def test_who_closes_a_session_is_told_once(folder: Path, tmp_path: Path) -> None:
    """And who holds one that another has closed is told, unasked."""
    with serving_here(small_engine(folder, tmp_path / "s.db")) as url:
        raw = Raw(url)
        for number, name in enumerate(("closed-by-hand", "closed-over-http"), 1):
            raw.send(say.Open(number, session=name, secret=SECRET))
        answers = raw.send(say.Close(3, "closed-by-hand"), say.Ask(4, "closed-by-hand", []))
        assert answers[0] == say.Gone("closed-by-hand", "closed", 3)
        assert isinstance(answers[1], say.Error)
        assert answers[1].code == "not_attached"
        headers = {"X-Session-Secret": SECRET}
        urllib.request.urlopen(urllib.request.Request(f"{url}/v1/sessions/closed-over-http", headers=headers, method="DELETE"))
        assert say.decode_reply(raw.socket.recv(timeout=PATIENCE)) == say.Gone("closed-over-http", "it was closed")
        raw.socket.close()


def test_a_session_that_could_not_be_closed_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = small_engine(folder, tmp_path / "s.db")

    def full(session: str) -> bool:
        raise StoreError("there is no room: send the same again")

    with serving_here(engine) as url:
        raw = Raw(url)
        raw.send(say.Open(1, session=NAME, secret=SECRET))
        with monkeypatch.context() as patch:
            patch.setattr(engine.store, "delete", full)
            (error,) = raw.send(say.Close(2, NAME))
            assert isinstance(error, say.Error)
            assert (error.code, error.retry) == ("store", True)
        assert isinstance(raw.step(NAME, 1, inputs(1)[0]), say.Stepped)
        assert raw.send(say.Close(3, NAME)) == [say.Gone(NAME, "closed", 3)]
        raw.socket.close()


def test_who_attaches_again_is_not_told_that_it_lost_the_session(folder: Path, tmp_path: Path) -> None:
    """While another server had it meanwhile."""

    async def play(first: Engine, second: Engine) -> None:
        heard, other = Heard(), Heard()
        await first.open(say.Open(0, session=NAME, secret=SECRET), heard)
        await second.attach(say.Attach(0, NAME, SECRET), other)
        await first.attach(say.Attach(1, NAME, SECRET), heard)
        assert heard == []
        assert first.seats[NAME].listener is heard

    two(folder, tmp_path / "s.db", NEVER, play)
