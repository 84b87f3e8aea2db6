"""Servers that are killed: what was acknowledged is there afterwards, or was said within one interval."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from serving import Raw, Server, inputs, outputs_alone, serving, small_machine

from tokenturing.client import connect
from tokenturing.serve import messages as say
from tokenturing.serve.arrays import array
from tokenturing.serve.sqlite import SqliteStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_machine(tmp_path_factory.mktemp("kills") / "machine")


def test_sessions_survive_a_kill(folder: Path, tmp_path: Path) -> None:
    """The client notices nothing but a pause."""
    x = inputs(30)
    store = ("--store", f"sqlite:{tmp_path / 's.db'}", "--exact")
    server = Server(f"m={folder}", *store, log=tmp_path / "log")
    with connect(server.url) as client:
        session = client.open()
        found = [session.step(one) for one in x[:10]]
        sent: list = []
        thread = threading.Thread(target=lambda: sent.extend(session.send(one) for one in x[10:]))
        thread.start()
        server.kill()
        again = Server(f"m={folder}", *store, log=tmp_path / "log", port=server.port)
        thread.join(60)
        found += [future.result(60) for future in sent]
        assert session.seq == len(x)
    assert [one.seq for one in found] == list(range(1, len(x) + 1))
    assert all(np.array_equal(one.outputs["y"], y) for one, y in zip(found, outputs_alone(folder, x), strict=True))
    assert again.end() == 0


def test_a_bounded_loss_is_sent_again(folder: Path, tmp_path: Path) -> None:
    """With --durability interval the client keeps what the server may lose."""
    x = inputs(30)
    store = ("--store", f"sqlite:{tmp_path / 's.db'}", "--exact", "--durability")
    server = Server(f"m={folder}", *store, "interval=60s", log=tmp_path / "log")
    with connect(server.url) as client:
        session = client.open()
        found = [session.step(one) for one in x[:20]]
        server.kill()
        again = Server(f"m={folder}", *store, "interval=20ms", log=tmp_path / "log", port=server.port)
        found += [session.step(one) for one in x[20:]]
        assert session.seq == len(x)
        name, secret = session.id, session.secret
    assert all(np.array_equal(one.outputs["y"], y) for one, y in zip(found, outputs_alone(folder, x), strict=True))
    assert again.end() == 0
    with serving(f"m={folder}", *store, "interval=20ms", log=tmp_path / "log") as last, connect(last.url) as client:
        assert client.attach(name, secret).seq == len(x), "the end writes what is left"


@pytest.mark.parametrize(("interval", "kept"), [("100ms", True), ("60s", False)], ids=["kept", "control"])
def test_the_bound_of_a_loss_is_kept(folder: Path, tmp_path: Path, interval: str, kept: bool) -> None:
    """What a crash loses was acknowledged within one interval; that is half a second here, for a machine that is busy."""
    store, x = ("--store", f"sqlite:{tmp_path / 's.db'}", "--exact"), inputs(1)[0]
    server = Server(f"m={folder}", *store, "--durability", f"interval={interval}", log=tmp_path / "log")
    raw, said, acknowledged = Raw(server.url), 0, [time.monotonic()]
    raw.socket.send(say.encode(say.Open(1)))
    opened = say.decode_reply(raw.socket.recv(timeout=30))
    assert isinstance(opened, say.Opened)
    while time.monotonic() < acknowledged[0] + 1.5:
        raw.socket.send(say.encode(say.Step(opened.session, len(acknowledged), {"x": array(x)})))
        while not isinstance(reply := say.decode_reply(raw.socket.recv(timeout=30)), say.Stepped):
            assert isinstance(reply, say.Kept)
            said = reply.seq
        assert reply.seq == len(acknowledged)
        acknowledged.append(time.monotonic())
    server.kill()
    found = SqliteStore(tmp_path / "s.db", 16).get(opened.session)
    assert found is not None
    assert said <= found.seq < len(acknowledged)
    lost = acknowledged[found.seq + 1 :]
    assert (not lost or lost[-1] - lost[0] < 0.5) is kept
