"""A real server process and what it promises: each input counts once, sessions outlive it, nobody notices the others."""

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Raw, Server, http, inputs, outputs_alone, serving, small_machine

import tokenturing as tt
from tokenturing.client import ServerError, SessionLostError, connect
from tokenturing.serve import messages as say
from tokenturing.serve.arrays import array

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


def test_http(server: Server, folder: Path) -> None:
    x = inputs(3)
    with connect(server.url) as client:
        session = client.open()
        session.step(x[0])
        session.mark("here")
        name, secret = session.id, {"X_Session_Secret": session.secret}
    assert http(server, "GET", "/health")[0] == http(server, "GET", "/ready")[0] == 200
    status, about, _ = http(server, "GET", f"/v1/sessions/{name}", **secret)
    found = json.loads(about)
    assert (status, found["seq"], found["steps"], found["marks"]) == (200, 2, 1, ["here"])
    assert found["bytes"] > 800
    assert session.secret.encode() not in about
    status, listing, _ = http(server, "GET", "/v1/sessions")
    assert name in {one["session"] for one in json.loads(listing)["sessions"]}
    assert b"secret" not in listing
    assert http(server, "GET", f"/v1/sessions/{name}", X_Session_Secret="wrong")[0] == 403
    assert http(server, "GET", f"/v1/sessions/{name}")[0] == 403
    assert http(server, "GET", "/v1/sessions/none", **secret)[0] == 404
    status, data, _ = http(server, "GET", f"/v1/sessions/{name}/file", **secret)
    status, opened, _ = http(server, "POST", "/v1/sessions", data)
    assert status == 201
    with connect(server.url) as client:
        copy = client.attach(json.loads(opened)["session"], json.loads(opened)["secret"])
        assert np.array_equal(copy.step(x[1]).outputs["y"], outputs_alone(folder, x)[1])
    assert http(server, "POST", "/v1/sessions", b"noise")[0] == 400
    assert http(server, "POST", f"/v1/sessions/{name}/ask", b'{"queries":[0]}', **secret)[0] == 400
    assert http(server, "DELETE", f"/v1/sessions/{name}", **secret)[0] == 200
    assert http(server, "DELETE", f"/v1/sessions/{name}", **secret)[0] == 404
    text = http(server, "GET", "/metrics")[1].decode()
    assert float(text.partition('tokenturing_steps_total{model="m"} ')[2].split()[0]) > 10


def test_descriptions(server: Server) -> None:
    described = json.loads(http(server, "GET", "/openapi.json")[1])
    for path, methods in described["paths"].items():
        for method in methods:
            status, _, _ = http(server, method.upper(), path.replace("{session}", "none"))
            assert status != 405, f"{method} {path} is described and not there"
    schema = json.loads(http(server, "GET", "/schema.json")[1])
    names = {part["$ref"].rpartition("/")[2] for part in schema["fromClient"]["anyOf"] + schema["fromServer"]["anyOf"]}
    assert names == {one.__name__ for one in (*say.FromClient.__args__, *say.FromServer.__args__)}


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403), ({"Host": "evil.example:80"}, 421)],
)
def test_pages_from_elsewhere_are_kept_out(server: Server, headers: dict[str, str], status: int) -> None:
    from websockets.exceptions import InvalidStatus

    assert http(server, "GET", "/v1/sessions", **headers)[0] == status
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
        with pytest.raises(ServerError, match="the token that came is none"):
            connect(server.url, token="a-token-that-is-none")
        assert http(server, "GET", "/v1/sessions")[0] == 401
        assert http(server, "GET", "/v1/sessions", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert http(server, "GET", "/health")[0] == 200
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


def test_attaching_twice_from_one_client(server: Server) -> None:
    with connect(server.url) as client:
        first = client.open()
        second = client.attach(first.id, first.secret)
        with pytest.raises(SessionLostError, match="attached to it again"):
            first.step(inputs(1)[0])
        assert second.step(inputs(1)[0]).seq == 1
