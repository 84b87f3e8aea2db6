"""What may go wrong around a server: kills, a full disk, a locked store, its end under load, and clients that are rude."""

import resource
import signal
import socket
import sqlite3
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Raw, Server, inputs, outputs_alone, serving, small_machine

from tokenturing.client import Session, connect
from tokenturing.serve import messages as say
from tokenturing.serve.arrays import array

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
WINDOW = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_machine(tmp_path_factory.mktemp("faults") / "machine")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(f"m={folder}", "--exact", "--store", f"sqlite:{folder.parent / 's.db'}", log=folder.parent / "log") as one:
        yield one


def test_kills(tmp_path: Path) -> None:
    """A tenth of the campaign."""
    import asyncio

    from serve_faults import campaign

    found = asyncio.run(campaign(tmp_path, kills=20, clients=2, sessions=3))
    assert found["kills"] == 20
    assert found["inputs"] > 100


def test_a_campaign_notices_a_fault(tmp_path: Path) -> None:
    """The control: one reply that is not of these inputs, one that is missing, and one that is not on the disk."""
    from serve_faults import Campaign, Played

    from tokenturing.serve.sqlite import SqliteStore

    folder, x = small_machine(tmp_path / "m"), inputs(3)
    ys = outputs_alone(folder, x)
    session = type("Held", (), {"id": "a-session", "seq": 3})()
    found = Campaign(folder, 0)
    found.sessions = [played := Played(0, session, [("step", one) for one in x])]
    played.replies = {seq: (seq, y) for seq, y in enumerate(ys, 1)}
    assert found.compare() == 3
    played.replies[2] = 2, ys[0]
    with pytest.raises(AssertionError, match="another reply to input 2"):
        found.compare()
    played.replies[2] = 3, ys[1]
    with pytest.raises(AssertionError, match="3 steps after input 2, expected 2"):
        found.compare()
    del played.replies[2]
    with pytest.raises(AssertionError, match="not answered"):
        found.compare()
    SqliteStore(tmp_path / "s.db", WINDOW).close()
    with pytest.raises(AssertionError, match="a session is lost"):
        found.kept(tmp_path / "s.db")


def play(session: Session, x: np.ndarray) -> list[np.ndarray]:
    return [future.result(60).outputs["y"] for future in [session.send(one) for one in x]]


def equal(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


class Unwell:
    """A server whose disk takes no more, or whose store another process holds, until it is well."""

    def __init__(self, server: Server, store: Path, how: str):
        self.server, self.store, self.how = server, store, how

    def __enter__(self) -> None:
        if self.how == "full":
            resource.prlimit(self.server.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        else:
            self.other = sqlite3.connect(self.store, isolation_level=None)
            self.other.execute("BEGIN EXCLUSIVE")

    def __exit__(self, *_: Any) -> None:
        if self.how == "full":
            resource.prlimit(self.server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        else:
            self.other.execute("ROLLBACK")
            self.other.close()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
@pytest.mark.parametrize("how", ["full", "locked"])
def test_a_store_that_is_full_or_locked(folder: Path, tmp_path: Path, how: str) -> None:
    """Nothing is acknowledged meanwhile, who asks is told why, and when it is well again all go on as if nothing had been."""
    x, store = inputs(30), tmp_path / "s.db"
    alone = outputs_alone(folder, x)
    with (
        serving(f"m={folder}", "--exact", "--store", f"sqlite:{store}", log=tmp_path / "log") as server,
        connect(server.url) as client,
    ):
        session = client.open()
        found = play(session, x[:10])
        raw = Raw(server.url)
        (opened,) = raw.send(say.Open(1))
        assert isinstance(opened, say.Opened)
        with Unwell(server, store, how):
            error = raw.step(opened.session, 1, x[0])
            assert isinstance(error, say.Error)
            assert (error.code, error.retry) == ("store", True)
            assert "send the same again" in error.message
            sent = [session.send(one) for one in x[10:20]]
            assert raw.step(opened.session, 1, x[0]) == error, "and it stays so"
            assert not any(future.done() for future in sent)
            assert session.seq == 10
        found += [future.result(60).outputs["y"] for future in sent]
        assert isinstance(raw.step(opened.session, 1, x[0]), say.Stepped)
        found += play(session, x[20:])
        assert equal(found, alone)
        name, secret = session.id, session.secret
    with serving(f"m={folder}", "--exact", "--store", f"sqlite:{store}", log=tmp_path / "log") as server:
        assert Raw(server.url).send(say.Attach(1, name, secret))[0].seq == len(x)  # type: ignore[union-attr]


def test_the_end_under_load_keeps_what_is_acknowledged(folder: Path, tmp_path: Path) -> None:
    """SIGTERM: what was taken is answered, and each answer is on the disk; then the server ends with 0."""
    from websockets.exceptions import ConnectionClosed

    store, x = f"sqlite:{tmp_path / 's.db'}", array(inputs(1)[0])
    server = Server(f"m={folder}", "--exact", "--store", store, log=tmp_path / "log")
    told: dict[str, tuple[str, int]] = {}
    one = threading.Barrier(5)

    def load(number: int) -> None:
        raw, secret = Raw(server.url), f"a secret of some length {number}"
        (opened,) = raw.send(say.Open(1, session=f"session-{number}", secret=secret))
        assert isinstance(opened, say.Opened)
        one.wait()
        seq = 0
        try:
            while True:
                messages = [say.Step(opened.session, seq + ahead, {"x": x}) for ahead in range(1, 9)]
                for reply in raw.send(*messages):
                    if isinstance(reply, say.Stepped):
                        seq = reply.seq
                        told[opened.session] = secret, seq
        except ConnectionClosed:
            return

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    one.wait()
    while len(told) < 4:
        threading.Event().wait(0.01)
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    assert server.end() == 0
    assert "Traceback" not in server.text()
    with serving(f"m={folder}", "--exact", "--store", store, log=tmp_path / "log") as again:
        for session, (secret, seq) in told.items():
            (opened,) = Raw(again.url).send(say.Attach(1, session, secret))
            assert isinstance(opened, say.Opened)
            assert opened.seq >= seq
            assert opened.steps == opened.seq


def vanish(server: Server, x: np.ndarray) -> None:
    """Send, and be gone without a word: the connection is reset."""
    for _ in range(5):
        raw = Raw(server.url)
        (opened,) = raw.send(say.Open(1))
        for seq in range(1, 9):
            raw.socket.send(say.encode(say.Step(opened.session, seq, {"x": array(x)})))  # type: ignore[union-attr]
        raw.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.socket.socket.close()


def stall(server: Server, x: np.ndarray) -> Any:
    """Ask for much and read nothing of it."""
    place = server.url.rpartition("/")[2].split(":")
    quiet = socket.create_connection((place[0], int(place[1])))
    quiet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lines = ["GET /v1/connect HTTP/1.1", f"Host: {':'.join(place)}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13", "", ""]
    quiet.sendall("\r\n".join(lines).encode())
    name = "stalls-and-stalls"
    messages = [say.Open(1, session=name, secret="a secret of some length")]
    messages += [say.Export(number, name) for number in range(2, 1500)]
    quiet.setblocking(False)
    for message in messages:
        content = say.encode(message)
        try:
            quiet.send(bytes([0x82, 0x80 | len(content)]) + bytes(4) + content)
        except BlockingIOError:
            break
    return quiet


def flood(server: Server, x: np.ndarray) -> Any:
    """Send much more than may be sent, in every way."""
    raw = Raw(server.url)
    (opened,) = raw.send(say.Open(1))
    assert isinstance(opened, say.Opened)
    step = say.Step(opened.session, 1, {"x": array(x)})
    reader = threading.Thread(target=lambda: [raw.socket.recv(timeout=60) for _ in range(900)])
    reader.start()
    for number in range(300):
        for message in (step, say.Ask(number, opened.session, [0]), say.Step(opened.session, number, {"x": array(x)})):
            raw.socket.send(say.encode(message))
    reader.join(60)
    assert not reader.is_alive(), "each message has its answer"
    return raw


@pytest.mark.parametrize("rude", [vanish, stall, flood])
def test_a_neighbour_does_not_notice(server: Server, folder: Path, rude: Any) -> None:
    x = inputs(60)
    with connect(server.url) as client:
        session = client.open()
        found = play(session, x[:10])
        held: list[Any] = []
        thread = threading.Thread(target=lambda: held.append(rude(server, x[0])))
        thread.start()
        found += play(session, x[10:40])
        thread.join(60)
        found += play(session, x[40:])
        assert session.seq == len(x)
    assert equal(found, outputs_alone(folder, x))
    assert server.process.poll() is None


def test_who_vanished_can_come_back(server: Server, folder: Path) -> None:
    x, secret = inputs(8), "a secret of some length"
    raw = Raw(server.url)
    raw.send(say.Open(1, session="vanishes-and-returns", secret=secret))
    for seq, one in enumerate(x[:4], 1):
        raw.socket.send(say.encode(say.Step("vanishes-and-returns", seq, {"x": array(one)})))
    raw.socket.socket.close()
    with connect(server.url) as client:
        session = client.attach("vanishes-and-returns", secret)
        assert session.seq <= 4
        seq = session.seq
        rest = play(session, x[seq:])
    assert equal(rest, outputs_alone(folder, x)[seq:])
