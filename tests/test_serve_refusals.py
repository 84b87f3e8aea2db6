"""What a server does not take: it says why, changes nothing, and goes on for everyone else."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from serving import WIDTH, Raw, Server, http, inputs, outputs_alone, serving, small_machine

from tokenturing.client import ServerError, connect
from tokenturing.serve import messages as say
from tokenturing.serve.arrays import Array, array


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_machine(tmp_path_factory.mktemp("refusals") / "machine")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(f"m={folder}", "--exact", "--store", f"sqlite:{folder.parent / 's.db'}", log=folder.parent / "log") as one:
        yield one


@pytest.mark.parametrize("text", [False, True], ids=["msgpack", "json"])
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
def test_bad_inputs_change_nothing(server: Server, bad: dict, match: str, text: bool) -> None:
    raw = Raw(server.url, text)
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
    text = http(server, "GET", "/metrics")[1].decode()
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
