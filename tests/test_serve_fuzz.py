"""Whatever comes over the socket, the server answers or hangs up, says nothing of faults of its own, and nobody else notices."""

import base64
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import TOKENS, WIDTH, Raw, Server, inputs, outputs_alone, serving, small_machine
from websockets.exceptions import ConnectionClosed

from tokenturing.client import connect
from tokenturing.serve import messages as say
from tokenturing.serve.arrays import TYPES

SECRET = "a secret of some length"
NAMES = ["fuzzed-session", "never-there-at-all", "", "x", "../../etc/passwd", "é" * 40, "a" * 100_000]
CLASSES = say.FromClient.__args__  # type: ignore[attr-defined]
NUMBERS = st.one_of(
    st.integers(-3, 30), st.sampled_from([2**31, 2**63 - 1, -(2**63), 2**64 - 1]), st.floats(), st.booleans(), st.none()
)
PLAIN = st.one_of(NUMBERS, st.text(max_size=20), st.binary(max_size=20))
TREES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4), max_leaves=12
)
GOOD = {"dtype": "float32", "shape": [TOKENS, WIDTH], "data": np.ones((TOKENS, WIDTH), np.float32).tobytes()}
DTYPES = [*TYPES, "complex128", "object", "<f4", "U10", "", "float32" * 100]
SHAPES = st.one_of(
    st.lists(st.integers(-2, 20), max_size=10),
    st.sampled_from([[TOKENS, WIDTH], [2**40, 2**40], [0, WIDTH], [TOKENS, 0], [1] * 70, [2**62], [0] * 9, [-1, -192]]),
)


def message(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """A message of that class with fields that are right, absurd or of another type."""
    cls = next(one for one in CLASSES if one.__name__.lower() == name)
    values = {field.name: VALUES.get(field.name, PLAIN) for field in msgspec.structs.fields(cls)}
    right = st.fixed_dictionaries({}, optional=values) if name == "import" else st.fixed_dictionaries(values)
    wrong = st.dictionaries(st.sampled_from([*values, "type", "more"]), TREES, max_size=3)
    return st.builds(
        lambda a, b: {"type": name} | a | b,
        right,
        st.sampled_from([False] * 3 + [True]).flatmap(lambda bad: wrong if bad else st.just({})),
    )


def arrays() -> st.SearchStrategy[Any]:
    absurd = st.builds(
        lambda dtype, shape, data: {"dtype": dtype, "shape": shape, "data": data},
        st.sampled_from(DTYPES),
        SHAPES,
        st.one_of(st.binary(max_size=40), st.just(bytes(4 * TOKENS * WIDTH)), st.just(b"\xff" * (4 * TOKENS * WIDTH))),
    )
    nested = st.lists(st.lists(NUMBERS, min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=3)
    return st.one_of(st.just(GOOD), st.just(GOOD), absurd, nested, TREES)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "request": st.one_of(*[st.integers(0, 9)] * 5, NUMBERS),
    "session": st.one_of(st.just(NAMES[0]), st.just(NAMES[0]), st.sampled_from([*NAMES, None])),
    "secret": st.one_of(st.just(SECRET), st.sampled_from([None, "", "short", "\ud7ff" * 300, "\x00" * 20])),
    "seq": st.one_of(*[st.integers(0, 60)] * 3, NUMBERS),
    "model": st.sampled_from(["", "m", "n", "m" * 100_000]),
    "kind": st.sampled_from(["inputs", "media", "", "none" * 1000]),
    "inputs": st.one_of(
        st.fixed_dictionaries({"x": arrays()}),
        st.fixed_dictionaries({"x": st.just(GOOD), "token_mask": arrays()}),
        st.dictionaries(st.text(max_size=30), arrays(), max_size=3),
    ),
    "name": st.sampled_from(["a", "b", "", "c" * 64, "c" * 65, "\x00"]),
    "queries": st.lists(st.one_of(st.integers(-2, 9), st.text(max_size=9), NUMBERS), max_size=40),
    "fork": st.sampled_from([None, "fork", "fork-of-it", NAMES[0]]),
    "data": st.one_of(st.binary(max_size=60), st.just(bytes(200_000))),
}
MESSAGES = st.one_of(*(message(one.__name__.lower()) for one in CLASSES if one.__name__ != "Close"))
NEXT = -4242
"""stands for the number that the next input should have"""
STEPS = st.fixed_dictionaries(
    {"type": st.just("step"), "session": st.just(NAMES[0]), "seq": st.just(NEXT), "inputs": VALUES["inputs"]}
)
MARKS = st.builds(
    lambda what, name: {"type": what, "session": NAMES[0], "seq": NEXT, "name": name},
    st.sampled_from(["mark", "rewind"]),
    VALUES["name"],
)


@st.composite
def frames(draw: Any) -> Any:
    """JSON or msgpack: whole messages (content, whether as text), damaged ones, noise, and nests that are very deep."""
    kind, text = draw(st.sampled_from(["message"] * 6 + ["next"] * 4 + ["damaged", "noise", "deep", "tree"])), draw(st.booleans())
    if kind == "noise":
        return draw(st.text(max_size=300)) if text else draw(st.binary(max_size=300))
    if kind == "deep":
        depth = draw(st.sampled_from([30, 1000, 100_000]))
        if text:
            before = draw(st.sampled_from(["", '{"type":"ask","queries":', '{"type":"step","inputs":{"x":']))
            return before + "[" * depth
        return draw(st.sampled_from([b"", b"\x82\xa4type\xa4step\xa6inputs\x81\xa1x"])) + b"\x91" * depth
    if kind != "damaged":
        return draw({"message": MESSAGES, "next": STEPS | MARKS, "tree": TREES}[kind]), text
    data = bytearray(encoded(draw(MESSAGES), text))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return data.decode(errors="replace") if text else bytes(data)


def encoded(content: Any, text: bool) -> bytes:
    if not text:
        return msgspec.msgpack.encode(content)
    return msgspec.json.encode(without_bytes(content))


def without_bytes(content: Any) -> Any:
    """For JSON, which has none."""
    if isinstance(content, bytes):
        return base64.b64encode(content).decode()
    if isinstance(content, dict):
        return {key: without_bytes(value) for key, value in content.items()}
    return [without_bytes(one) for one in content] if isinstance(content, list) else content


class Neighbour:
    """A session whose replies are the model's own, whatever others send."""

    def __init__(self, server: Server, folder: Path):
        self.client = connect(server.url)
        self.session = self.client.open("m")
        x = inputs(1000, seed=3)
        self.steps = zip(x, outputs_alone(folder, x), strict=True)

    def steps_as_alone(self) -> None:
        x, y = next(self.steps)
        assert np.array_equal(self.session.step(x).outputs["y"], y), "a neighbour's reply is another one"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_machine(tmp_path_factory.mktemp("fuzz") / "machine")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A traceback in its log fails the tests at the end."""
    with serving(f"m={folder}", "--exact", "--store", f"sqlite:{folder.parent / 's.db'}", log=folder.parent / "log") as one:
        yield one


@pytest.fixture(scope="module")
def neighbour(server: Server, folder: Path) -> Iterator[Neighbour]:
    one = Neighbour(server, folder)
    yield one
    one.client.close()


LAST = itertools.count(10**6)


def said_to(server: Server, sent: list[Any]) -> list[Any]:
    """What the server replies to these frames, until it has answered them all or hung up."""
    raw = Raw(server.url)
    replies, last = raw.send(say.Open(1, session=NAMES[0], secret=SECRET)), next(LAST)
    assert isinstance(replies[0], say.Opened)
    seq = replies[0].seq
    try:
        for frame in sent:
            if isinstance(frame, tuple):
                content, text = frame
                if isinstance(content, dict) and content.get("seq") == NEXT:
                    seq += 1
                    content = content | {"seq": seq}
                data = encoded(content, text)
                frame = data.decode() if text else data
            raw.socket.send(frame)
        raw.socket.send(say.encode(say.Ask(last, NAMES[0], [])))
        while getattr(reply := say.decode_reply(raw.socket.recv(timeout=60)), "request", None) != last:
            replies.append(reply)
    except ConnectionClosed:
        pass
    raw.socket.close()
    return replies


@settings(max_examples=120)
@given(sent=st.lists(frames(), min_size=1, max_size=12))
def test_whatever_comes(server: Server, neighbour: Neighbour, sent: list[Any]) -> None:
    replies = said_to(server, sent)
    assert replies, "the session was opened at least"
    codes = {reply.code for reply in replies if isinstance(reply, say.Error)}
    assert "internal" not in codes, [reply for reply in replies if isinstance(reply, say.Error)]
    assert all(len(reply.message) < 1000 for reply in replies if isinstance(reply, say.Error)), "errors repeat no long inputs"
    neighbour.steps_as_alone()
    assert server.process.poll() is None
    assert "Traceback" not in server.text(), server.text()


def test_right_messages_succeed(server: Server) -> None:
    """The control: what it is made of succeeds where it is right."""
    step = {"type": "step", "session": NAMES[0], "seq": NEXT, "inputs": {"x": GOOD}}
    good = [
        step,
        {"type": "mark", "session": NAMES[0], "seq": NEXT, "name": "a"},
        {"type": "rewind", "session": NAMES[0], "seq": NEXT, "name": "a"},
        {"type": "ask", "request": 5, "session": NAMES[0], "queries": [0]},
        {"type": "export", "request": 7, "session": NAMES[0]},
        step | {"seq": 10**6},
    ]
    for text in (False, True):
        replies = said_to(server, [(one, text) for one in good])
        codes = {getattr(reply, "code", type(reply).__name__) for reply in replies}
        assert codes >= {"Opened", "Stepped", "Done", "Exported", "gap", "bad_input"}, codes


HEADS = st.builds(
    lambda first, size, mask: bytes([first]) + bytes([size | mask]),
    st.integers(0, 255),
    st.integers(0, 127),
    st.sampled_from([0, 128]),
)


@settings(max_examples=40)
@given(data=st.lists(st.one_of(HEADS, st.binary(max_size=200), st.just(struct.pack(">BBQ", 0x82, 0xFF, 2**62))), max_size=5))
def test_bytes_that_are_no_websocket(server: Server, neighbour: Neighbour, data: list[bytes]) -> None:
    raw = Raw(server.url)
    raw.socket.socket.sendall(b"".join(data))
    neighbour.steps_as_alone()
    raw.socket.socket.close()
    assert server.process.poll() is None
    assert "Traceback" not in server.text(), server.text()


@settings(max_examples=40)
@given(body=st.one_of(st.binary(max_size=300), TREES.map(lambda tree: encoded(tree, True))), data=st.data())
def test_whatever_comes_over_http(server: Server, neighbour: Neighbour, body: bytes, data: Any) -> None:
    import http.client

    paths = ["/v1/sessions", "/v1/sessions/fuzzed-session/ask", "/v1/sessions?model=none", "/v1/sessions/%00/file", "/v1/connect"]
    method = data.draw(st.sampled_from(["GET", "POST", "DELETE", "PUT"]))
    connection = http.client.HTTPConnection(server.url.rpartition("/")[2], timeout=60)
    headers = {"X-Session-Secret": data.draw(st.sampled_from(["", SECRET, "x" * 5000]))}
    connection.request(method, data.draw(st.sampled_from(paths)), body, headers)
    assert connection.getresponse().status < 500
    connection.close()
    neighbour.steps_as_alone()
    assert "Traceback" not in server.text(), server.text()
