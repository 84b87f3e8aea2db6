"""A real server process and what it promises: each input counts once, sessions outlive it, nobody notices the others."""

import asyncio
import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
import torch
from serving import TOKENS, WIDTH, Server, serving, small_machine

import tokenturing as tt
from tokenturing.client import ServerError, SessionLostError, connect
from tokenturing.serve import messages as say
from tokenturing.serve.arrays import Array, array
from tokenturing.serve.sqlite import SqliteStore

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_machine(tmp_path_factory.mktemp("serve") / "machine")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """Exact, so that replies can be compared to the bit; with room for two sessions in memory, so that most sleep."""
    store = f"sqlite:{folder.parent / 's.db'}"
    with serving(f"m={folder}", "--exact", "--resident", "2", "--store", store, log=folder.parent / "log") as one:
        yield one


def inputs(count: int, seed: int = 0) -> np.ndarray:
    """float32 [count, N, D]"""
    return np.random.default_rng(seed).standard_normal((count, TOKENS, WIDTH)).astype(np.float32)


def outputs_alone(folder: Path, x: np.ndarray) -> list[np.ndarray]:
    """What the model itself makes of a stream."""
    model, state, found = tt.load(folder).eval(), None, []
    with torch.no_grad():
        for one in torch.from_numpy(x):
            y, state = model.step(one[None], state)
            found.append(y[0].numpy())
    return found


class Raw:
    """A client that sends what it is told, in JSON or msgpack."""

    def __init__(self, url: str, text: bool = False, headers: dict[str, str] | None = None, **options: Any):
        from websockets.sync.client import connect as connect_raw

        self.text = text
        address = url.replace("http", "ws") + "/v1/connect"
        self.socket = connect_raw(address, additional_headers=headers or {}, max_size=None, **options).__enter__()
        self.welcome = say.decode_reply(self.socket.recv())

    def send(self, *messages: say.Message) -> list[say.FromServer]:
        for message in messages:
            data = say.encode(message, text=self.text)
            self.socket.send(data.decode() if self.text else data)
        return [say.decode_reply(self.socket.recv(timeout=30)) for _ in messages]

    def step(self, session: str, seq: int, x: np.ndarray) -> say.FromServer:
        return self.send(say.Step(session, seq, {"x": array(x)}))[0]


@pytest.fixture(params=[False, True], ids=["msgpack", "json"])
def raw(request: pytest.FixtureRequest, server: Server) -> Iterator[Raw]:
    client = Raw(server.url, request.param)
    yield client
    client.socket.close()


def test_outputs_are_the_model_s(server: Server, folder: Path) -> None:
    x = inputs(6)
    with connect(server.url) as client:
        session = client.open("m")
        found = [session.step(one).outputs["y"] for one in x]
    for ours, theirs in zip(found, outputs_alone(folder, x), strict=True):
        assert np.array_equal(ours, theirs)


def test_many_sessions_at_once_are_each_as_if_alone(server: Server, folder: Path) -> None:
    """More than fit in memory, all ready at the same time."""
    streams = {number: inputs(5, number) for number in range(8)}

    def play(number: int) -> list[np.ndarray]:
        with connect(server.url) as client:
            session = client.open("m")
            return [future.result().outputs["y"] for future in [session.send(one) for one in streams[number]]]

    with ThreadPoolExecutor(len(streams)) as pool:
        found = dict(zip(streams, pool.map(play, streams), strict=True))
    for number, x in streams.items():
        assert all(map(np.array_equal, found[number], outputs_alone(folder, x)))
    assert not np.array_equal(found[0][0], found[1][0])


def test_an_input_counts_once(raw: Raw) -> None:
    x = inputs(3)
    (opened,) = raw.send(say.Open(1))
    assert isinstance(opened, say.Opened)
    first = raw.step(opened.session, 1, x[0])
    second = raw.step(opened.session, 2, x[1])
    assert raw.step(opened.session, 1, x[2]) == first, "a repeated number gets the saved reply, whatever comes with it"
    assert raw.step(opened.session, 2, x[2]) == second
    gap = raw.step(opened.session, 4, x[2])
    assert isinstance(gap, say.Error)
    assert (gap.code, gap.expected) == ("gap", 3)
    third = raw.step(opened.session, 3, x[2])
    assert isinstance(third, say.Stepped)
    assert third.steps == 3


def test_replies_are_kept_for_a_window(raw: Raw) -> None:
    (opened,) = raw.send(say.Open(1))
    assert isinstance(opened, say.Opened)
    assert isinstance(raw.welcome, say.Welcome)
    x = inputs(raw.welcome.window + 2)
    replies = [raw.step(opened.session, seq, one) for seq, one in enumerate(x, 1)]
    old = raw.step(opened.session, 2, x[1])
    assert isinstance(old, say.Error)
    assert (old.code, old.expected) == ("too_old", len(x) + 1)
    assert raw.step(opened.session, 3, x[2]) == replies[2]


def test_opening_again_is_the_same_session(raw: Raw, request: pytest.FixtureRequest) -> None:
    name, secret = f"session-{raw.text}", "a secret of some length"
    message = say.Open(1, session=name, secret=secret)
    (first,) = raw.send(message)
    raw.step(name, 1, inputs(1)[0])
    (again,) = raw.send(message)
    assert isinstance(first, say.Opened)
    assert isinstance(again, say.Opened)
    assert (again.session, again.seq) == (name, 1)
    (other,) = raw.send(say.Open(2, session=name, secret="another secret of some length"))
    assert isinstance(other, say.Error)
    assert other.code == "wrong_secret"


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"y": [[0.0]]}, "takes x, token_mask: got y"),
        ({}, "got nothing"),
        ({"x": [[0.0] * WIDTH, [0.0]]}, "same lengths"),
        ({"x": [[0.0] * (WIDTH + 1)]}, r"shape \[1, 17\]"),
        ({"x": [["a"] * WIDTH]}, "holds"),
        ({"x": Array("float32", [1, WIDTH], b"\0")}, "has 1 bytes: expected 64"),
        ({"x": Array("float32", [-1, WIDTH], b"")}, "sizes from 0 on"),
        ({"x": Array("float32", [0, 2**62], b"")}, "sizes from 0 on"),
        ({"x": Array("object", [1], b"12345678")}, "is object: expected float32"),
        ({"x": Array("int64", [1], b"12345678")}, "shape"),
        ({"x": Array("float64", [1, 1], np.float64(1e300).tobytes())}, "too large"),
        ({"x": Array("float32", [2**40, 2**40], b"")}, "expected"),
        ({"x": array(np.full((1, WIDTH), np.nan, np.float32))}, "NaN"),
        ({"x": array(np.full((1, WIDTH), 3e38, np.float32))}, "overflow"),
        ({"x": array(np.zeros((2, WIDTH), np.float32)), "token_mask": [True]}, "one for each token"),
    ],
)
def test_bad_inputs_change_nothing(raw: Raw, bad: dict, match: str) -> None:
    (opened,) = raw.send(say.Open(1))
    assert isinstance(opened, say.Opened)
    (error,) = raw.send(say.Step(opened.session, 1, bad))
    assert isinstance(error, say.Error)
    assert error.code == "bad_input"
    assert re.search(match, error.message)
    assert isinstance(raw.step(opened.session, 1, inputs(1)[0]), say.Stepped)


def test_what_is_no_message(server: Server) -> None:
    raw = Raw(server.url, text=True)
    for frame in (
        "{",
        "[]",
        '{"type":"open"}',
        '{"type":"none","request":1}',
        "[" * 10_000,
        b"\xc1",
        '{"type":"step","seq":"x"}',
    ):
        raw.socket.send(frame)
        reply = say.decode_reply(raw.socket.recv())
        assert isinstance(reply, say.Error)
        assert reply.code == "bad_message"
    raw.text = True
    assert isinstance(raw.send(say.Open(1))[0], say.Opened)


def test_who_sends_nothing_but_noise_is_cut_off(server: Server) -> None:
    from websockets.exceptions import ConnectionClosed

    raw = Raw(server.url)
    for _ in range(20):
        raw.socket.send(b"noise")
        raw.socket.recv()
    with pytest.raises(ConnectionClosed):
        raw.socket.recv(timeout=30)


def test_too_large_a_message_closes_the_connection(server: Server) -> None:
    from websockets.exceptions import ConnectionClosed

    raw = Raw(server.url)
    raw.socket.send(bytes(2**20 + 1))
    with pytest.raises(ConnectionClosed) as closed:
        raw.socket.recv(timeout=30)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


def test_nobody_needs_to_wait_for_a_line_that_is_full(server: Server) -> None:
    raw = Raw(server.url)
    (opened,) = raw.send(say.Open(1))
    assert isinstance(opened, say.Opened)
    one = array(inputs(1)[0])
    replies = raw.send(*(say.Step(opened.session, seq, {"x": one}) for seq in range(1, 200)))
    codes = {reply.code for reply in replies if isinstance(reply, say.Error)}
    assert codes <= {"too_fast", "gap"}
    assert any(isinstance(reply, say.Stepped) for reply in replies)


def test_marks_rewind_and_fork(server: Server, folder: Path) -> None:
    x = inputs(6)
    alone = outputs_alone(folder, x)
    with connect(server.url) as client:
        session = client.open()
        for one in x[:3]:
            session.step(one)
        session.mark("here")
        fork = session.fork()
        session.step(x[5])
        session.rewind("here")
        assert session.steps == 3
        assert session.seq == 6
        assert np.array_equal(session.step(x[3]).outputs["y"], alone[3])
        assert (fork.seq, fork.steps) == (0, 3)
        assert np.array_equal(fork.step(x[3]).outputs["y"], alone[3])
        assert not np.array_equal(session.step(x[5]).outputs["y"], alone[4])
        assert np.array_equal(fork.step(x[4]).outputs["y"], alone[4]), "a fork goes its own way"
        with pytest.raises(ServerError, match=r"no mark 'there': expected one of \['here'\]"):
            session.rewind("there")
        for number in range(15):
            session.mark(f"mark {number}")
        with pytest.raises(ServerError, match="16 marks"):
            session.mark("one more")
        session.mark("here")


def test_a_file_goes_on_elsewhere(server: Server, folder: Path, tmp_path: Path) -> None:
    x = inputs(4)
    with connect(server.url) as client:
        session = client.open()
        for one in x[:3]:
            session.step(one)
        data = session.export()
        again = client.import_session(data)
        assert again.steps == 3
        assert np.array_equal(again.step(x[3]).outputs["y"], outputs_alone(folder, x)[3])
        for damaged in (b"", data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b"x" * 100):
            with pytest.raises(ServerError):
                client.import_session(damaged)


def test_the_newest_connection_holds_a_session(server: Server) -> None:
    with connect(server.url) as first, connect(server.url) as second:
        session = first.open()
        session.step(inputs(1)[0])
        taken = second.attach(session.id, session.secret)
        taken.step(inputs(1)[0])
        with pytest.raises(SessionLostError, match="another connection"):
            session.step(inputs(1)[0])
        assert taken.step(inputs(1)[0]).steps == 3


def test_what_was_closed_is_gone(server: Server) -> None:
    with connect(server.url) as client:
        session = client.open()
        name, secret = session.id, session.secret
        with pytest.raises(ServerError, match="secret is not"):
            client.attach(name, "not the secret of it")
        session.delete()
        with pytest.raises(ServerError, match="there is no session"):
            client.attach(name, secret)


def http(server: Server, path: str, method: str = "GET", data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server.url + path, data, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except HTTPError as error:
        return error.code, error.read()


def test_http(server: Server, folder: Path) -> None:
    x = inputs(3)
    with connect(server.url) as client:
        session = client.open()
        session.step(x[0])
        session.mark("here")
        name, secret = session.id, {"X_Session_Secret": session.secret}
    assert http(server, "/health")[0] == http(server, "/ready")[0] == 200
    status, about = http(server, f"/v1/sessions/{name}", **secret)
    found = json.loads(about)
    assert (status, found["seq"], found["steps"], found["marks"]) == (200, 2, 1, ["here"])
    assert found["bytes"] > 800
    assert session.secret.encode() not in about
    status, listing = http(server, "/v1/sessions")
    assert name in {one["session"] for one in json.loads(listing)["sessions"]}
    assert b"secret" not in listing
    assert http(server, f"/v1/sessions/{name}", X_Session_Secret="wrong")[0] == 403
    assert http(server, f"/v1/sessions/{name}")[0] == 403
    assert http(server, "/v1/sessions/none", **secret)[0] == 404
    status, data = http(server, f"/v1/sessions/{name}/file", **secret)
    status, opened = http(server, "/v1/sessions", "POST", data)
    assert status == 201
    with connect(server.url) as client:
        copy = client.attach(json.loads(opened)["session"], json.loads(opened)["secret"])
        assert np.array_equal(copy.step(x[1]).outputs["y"], outputs_alone(folder, x)[1])
    assert http(server, "/v1/sessions", "POST", b"noise")[0] == 400
    assert http(server, f"/v1/sessions/{name}/ask", "POST", b'{"queries":[0]}', **secret)[0] == 400
    assert http(server, f"/v1/sessions/{name}", "DELETE", **secret)[0] == 200
    assert http(server, f"/v1/sessions/{name}", "DELETE", **secret)[0] == 404
    text = http(server, "/metrics")[1].decode()
    assert float(text.partition('tokenturing_steps_total{model="m"} ')[2].split()[0]) > 10


def test_descriptions(server: Server) -> None:
    described = json.loads(http(server, "/openapi.json")[1])
    for path, methods in described["paths"].items():
        for method in methods:
            status, _ = http(server, path.replace("{session}", "none"), method.upper())
            assert status != 405, f"{method} {path} is described and not there"
    schema = json.loads(http(server, "/schema.json")[1])
    names = {part["$ref"].rpartition("/")[2] for part in schema["fromClient"]["anyOf"] + schema["fromServer"]["anyOf"]}
    assert names == {one.__name__ for one in (*say.FromClient.__args__, *say.FromServer.__args__)}


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403), ({"Host": "evil.example:80"}, 421)],
)
def test_pages_from_elsewhere_are_kept_out(server: Server, headers: dict[str, str], status: int) -> None:
    from websockets.exceptions import InvalidStatus

    assert http(server, "/v1/sessions", **headers)[0] == status
    if "Origin" in headers:
        with pytest.raises(InvalidStatus) as refused:
            Raw(server.url, headers=headers)
        assert refused.value.response.status_code == status
    Raw(server.url, headers={"Origin": server.url}).socket.close()


def test_async_client(server: Server, folder: Path) -> None:
    from tokenturing.client import connect_async

    x = inputs(40)

    async def play() -> list[np.ndarray]:
        async with await connect_async(server.url) as client:
            session = await client.open()
            futures = [await session.send(one) for one in x]
            return [(await future).outputs["y"] for future in futures]

    assert all(map(np.array_equal, asyncio.run(play()), outputs_alone(folder, x)))


def test_a_bad_input_among_many_fails_alone(server: Server, folder: Path) -> None:
    """Those behind it, which are on their way already, get its number."""
    x = inputs(12)
    with connect(server.url) as client:
        session = client.open()
        sent = [session.send(one if place != 5 else one[:, :1]) for place, one in enumerate(x)]
        with pytest.raises(ServerError, match="shape"):
            sent[5].result(60)
        found = [future.result(60).outputs["y"] for place, future in enumerate(sent) if place != 5]
        assert session.seq == 11
    assert all(map(np.array_equal, found, outputs_alone(folder, np.delete(x, 5, axis=0))))


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


def test_another_model_is_refused_with_both_fingerprints(folder: Path, tmp_path: Path) -> None:
    other = small_machine(tmp_path / "other", seed=1)
    token_file = tmp_path / "tokens"
    token_file.write_text(f"# for tests\n{TOKEN}\n")
    token_file.chmod(0o600)
    store = f"sqlite:{tmp_path / 's.db'}"
    with serving(f"m={folder}", "--exact", "--store", store, log=tmp_path / "log") as server, connect(server.url) as client:
        session = client.open()
    arguments = (f"m={other}", "--exact", "--store", store, "--token-file", str(token_file))
    with serving(*arguments, log=tmp_path / "log") as server:
        with connect(server.url, token=TOKEN) as client, pytest.raises(ServerError) as refused:
            client.attach(session.id, session.secret)
        for model in (folder, other):
            assert tt.checkpoint.fingerprint(tt.load(model)) in str(refused.value)
        with pytest.raises(ServerError, match="none of this server"):
            connect(server.url, token="a-token-that-is-none")
        assert http(server, "/v1/sessions")[0] == 401
        assert http(server, "/v1/sessions", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert http(server, "/health")[0] == 200
        assert Raw(server.url, subprotocols=["tokenturing", f"bearer.{TOKEN}"]).send(say.Open(1))


def test_the_client_of_the_docs_runs(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "docs" / "serve.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert code.count("\n") <= 20 + 1
    names: dict[str, Any] = {"stream": inputs(20)}
    exec(code.replace("http://127.0.0.1:8080", server.url).replace('"machine"', '"m"'), names)
    assert capsys.readouterr().out.splitlines()[-1] == "40"
    with connect(server.url) as client:
        assert client.attach(*names["kept"]).seq == 42


def test_who_takes_over_is_alone(server: Server) -> None:
    """What the last holder has in line is not taken any more, and what was at work is finished before the next one begins."""
    x, before = inputs(20), Raw(server.url)
    (opened,) = before.send(say.Open(1))
    assert isinstance(opened, say.Opened)
    for seq in range(1, 17):
        before.socket.send(say.encode(say.Step(opened.session, seq, {"x": array(x[seq])})))
    after = Raw(server.url)
    (attached,) = after.send(say.Attach(1, opened.session, opened.secret))
    assert isinstance(attached, say.Opened)
    reply = after.step(opened.session, attached.seq + 1, x[0])
    assert isinstance(reply, say.Stepped)
    assert reply.steps == attached.steps + 1
    (asked,) = after.send(say.Ask(2, opened.session, []))
    assert isinstance(asked, say.Answered)
    assert asked.seq == attached.seq + 1
    heard = [say.decode_reply(before.socket.recv(timeout=30)) for _ in range(17)]
    assert sum(isinstance(one, say.Stepped) for one in heard) == attached.seq
    assert any(isinstance(one, say.Gone) for one in heard)


@pytest.mark.parametrize("number", ["1000000000000000000000000000000", "-1", "9007199254740993", "1.5"])
def test_numbers_that_not_everyone_can_write_are_refused(server: Server, folder: Path, number: str) -> None:
    """A reply that cannot be written in the other encoding holds up nobody."""
    x = inputs(3)
    with connect(server.url) as client:
        neighbour = client.open()
        raw = Raw(server.url, text=True)
        (opened,) = raw.send(say.Open(1))
        assert isinstance(opened, say.Opened)
        raw.socket.send(f'{{"type":"ask","request":{number},"session":"{opened.session}","queries":[]}}')
        raw.socket.send(b"\xc0")
        found = [neighbour.step(one).outputs["y"] for one in x]
        for _ in range(2):
            reply = say.decode_reply(raw.socket.recv(timeout=30))
            assert isinstance(reply, say.Error)
            assert reply.code == "bad_message"
    assert all(map(np.array_equal, found, outputs_alone(folder, x)))


def test_errors_say_what_they_answer(server: Server) -> None:
    raw = Raw(server.url, text=True)
    for frame, expected in (
        ('{"type":"ask","request":7,"session":"s","queries":[true]}', (7, "s", None)),
        ('{"type":"mark","seq":3,"session":"s","name":4}', (None, "s", 3)),
    ):
        raw.socket.send(frame)
        reply = say.decode_reply(raw.socket.recv(timeout=30))
        assert isinstance(reply, say.Error)
        assert (reply.request, reply.session, reply.seq) == expected
    text = http(server, "/metrics")[1].decode()
    assert float(text.partition('tokenturing_errors_total{code="bad_message"} ')[2].split()[0]) >= 2


@pytest.mark.parametrize(
    "call",
    [
        lambda session: session.step(np.zeros((1000, 1000), np.float32)),
        lambda session: session.step([[1.0], [1.0, 2.0]]),
        lambda session: session.step(torch.ones(1, WIDTH, requires_grad=True)),
        lambda session: session.step({"\ud800": inputs(1)[0]}),
        lambda session: session.ask(True),
        lambda session: session.ask(1.5),
        lambda session: session.ask(10**30),
        lambda session: session.mark(3),
        lambda session: session.mark("\ud800"),
    ],
)
def test_what_cannot_be_sent_is_said_at_once(server: Server, call: Any) -> None:
    with connect(server.url) as client:
        session = client.open()
        with pytest.raises(ServerError):
            call(session)
        for other in (lambda: client.import_session(bytes(2**21)), lambda: client.attach(5, "x"), lambda: client.open(kind=None)):  # type: ignore[arg-type]
            with pytest.raises(ServerError):
                other()
        assert session.step(inputs(1)[0]).seq == 1


def test_attaching_twice_from_one_client(server: Server) -> None:
    with connect(server.url) as client:
        first = client.open()
        second = client.attach(first.id, first.secret)
        with pytest.raises(SessionLostError, match="attached to it again"):
            first.step(inputs(1)[0])
        assert second.step(inputs(1)[0]).seq == 1
