"""The client against peers that are no servers, that break off and talk nonsense, and against arguments that are none."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from tokenturing.client import ServerError, connect, connect_async
from tokenturing.errors import OptionError
from tokenturing.serve import messages as say

X = np.zeros((1, 2), np.float32)
SECONDS = 1.0
"""that a client tries to come back"""
PATIENCE = 10.0
"""after which it hangs; far more than it may take, far less than for ever"""
Peer = Callable[[ServerConnection, int], None]


@contextmanager
def peer(handle: Peer) -> Iterator[str]:
    """A WebSocket that does as it is told with each connection, which are counted from 1 -> its address."""
    count = iter(range(1, 10_000))

    def one(connection: ServerConnection) -> None:
        try:
            handle(connection, next(count))
        except ConnectionClosed:
            return

    with serve(one, "127.0.0.1", 0, close_timeout=0.5) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"


def greet(connection: ServerConnection) -> None:
    """As the real one, and a session for whoever opens one."""
    model = say.Model("m", "f", ["inputs"], {"x": say.Input([1, 2], "float32")})
    connection.send(say.encode(say.Welcome(say.VERSION, [model], 16, "step", 2**20)))
    opening = say.decode(connection.recv())
    assert isinstance(opening, say.Open | say.Attach)
    connection.send(say.encode(say.Opened(opening.request, opening.session or "", "m", "f", "inputs", 0, 0)))


def answer(connection: ServerConnection) -> None:
    """Each step with nothing."""
    for data in connection:
        step = say.decode(data)
        if isinstance(step, say.Step):
            connection.send(say.encode(say.Stepped(step.session, step.seq, step.seq)))


def within(work: Callable[[], object]) -> object:
    """What comes of it, in time."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work).result(PATIENCE)
    finally:
        pool.shutdown(wait=False)


def code_of(work: Callable[[], object]) -> str:
    """The code with which it fails, in time."""
    with pytest.raises(ServerError) as caught:
        within(work)
    return caught.value.code


NONSENSE: dict[str, Peer] = {
    "hello": lambda connection, _: connection.send("hello"),
    "another message": lambda connection, _: connection.send('{"type": "hello"}'),
    "closes": lambda connection, _: connection.close(),
    "silence": lambda connection, _: time.sleep(PATIENCE / 4),
    "error": lambda connection, _: connection.send('{"type": "error", "code": "full", "message": "no"}'),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_who_waits_while_a_peer_comes_back_as_another_is_told(nonsense: str) -> None:
    def handle(connection: ServerConnection, number: int) -> None:
        if number > 1:
            NONSENSE[nonsense](connection, number)
            return
        greet(connection)
        connection.recv()

    with peer(handle) as url, connect(url, reconnect=SECONDS) as client:
        session = client.open()
        began = time.monotonic()
        assert code_of(lambda: session.step(X)) == "away"
        assert time.monotonic() - began < SECONDS + 1.5
        assert code_of(client.open) == "away"


def test_a_peer_that_talks_nonsense_for_a_while_is_reached_again() -> None:
    """The control: the same faults, and then a server."""

    def handle(connection: ServerConnection, number: int) -> None:
        if 1 < number < 4:
            NONSENSE["hello"](connection, number)
            return
        greet(connection)
        if number == 1:
            connection.recv()
        else:
            answer(connection)

    with peer(handle) as url, connect(url, reconnect=8.0) as client:
        session = client.open()
        assert within(lambda: session.step(X).seq) == 1


def test_a_peer_that_greets_and_breaks_off_is_not_tried_for_ever() -> None:
    def handle(connection: ServerConnection, number: int) -> None:
        if number == 1:
            greet(connection)
            connection.recv()
        else:
            connection.send(say.encode(say.Welcome(say.VERSION, [], 16, "step", 2**20)))

    with peer(handle) as url, connect(url, reconnect=SECONDS) as client:
        session = client.open()
        assert code_of(lambda: session.step(X)) == "away"


def test_nonsense_in_the_middle_is_told_to_who_waits() -> None:
    def handle(connection: ServerConnection, number: int) -> None:
        greet(connection)
        connection.recv()
        connection.send("hello")

    with peer(handle) as url, connect(url, reconnect=SECONDS) as client:
        session = client.open()
        assert code_of(lambda: session.step(X)) == "foreign"


@pytest.mark.parametrize(
    ("nonsense", "code"), [("hello", "foreign"), ("another message", "foreign"), ("closes", "foreign"), ("error", "full")]
)
def test_a_first_connection_to_another(nonsense: str, code: str) -> None:
    with peer(NONSENSE[nonsense]) as url:
        assert code_of(lambda: connect(url)) == code


def test_what_a_peer_says_before_the_welcome_is_handed_on() -> None:
    with peer(NONSENSE["error"]) as url, pytest.raises(ServerError, match=r"^no$"):
        connect(url)


@pytest.mark.parametrize("said", [b"", b"-ERR unknown command 'GET'\r\n"])
def test_a_port_of_something_else(said: bytes) -> None:
    def handle() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=handle, daemon=True).start()
        assert code_of(lambda: connect(f"http://127.0.0.1:{listener.getsockname()[1]}")) == "foreign"


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(OSError, match=r"refused|failed"):
        connect(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "url",
    [
        3,
        None,
        b"http://h",
        "",
        "h:80",
        "ftp://h",
        "http://",
        "http://h:99999",
        "http://h:abc",
        "http://h:0",
        "http://[::1",
        "http://a..b",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(OptionError, match="expected one such as http"):
        connect(url)


@pytest.mark.parametrize("seconds", ["5", None, float("nan"), -1, True, [5]])
def test_what_is_no_number_of_seconds(seconds: float) -> None:
    with pytest.raises(OptionError, match=r"reconnect=.* is no number of seconds"):
        connect("http://127.0.0.1:1", reconnect=seconds)


@pytest.mark.parametrize("token", ["word\nb", "word\r", "w\0ord", "wörd", b"word", 3])
def test_a_token_that_cannot_be_sent_is_not_printed(token: str) -> None:
    with pytest.raises(OptionError, match="token") as caught:
        connect("http://127.0.0.1:1", token=token)
    assert "ord" not in str(caught.value)
    assert caught.value.__cause__ is None


def ready(connection: ServerConnection, number: int) -> None:
    greet(connection)
    answer(connection)


def test_an_input_that_comes_twice() -> None:
    with peer(ready) as url, connect(url) as client:
        session = client.open()
        for first in (X, {"x": X}):
            with pytest.raises(TypeError, match="'x' came twice"):
                session.step(first, x=X)
        assert [session.step(X).seq, session.step(x=X).seq, session.step({}, x=X).seq] == [1, 2, 3]


def test_after_the_end_both_clients_say_the_same() -> None:
    async def both(url: str) -> list[str]:
        client = await connect_async(url)
        session = await client.open()
        await client.close()
        await client.close()
        found = []
        for work in (session.step(X), session.step({}, x="none"), session.ask("q"), client.open(), client.attach("a", "b")):
            with pytest.raises(ServerError) as caught:
                await work
            found.append(f"{caught.value.code} {caught.value}")
        return found

    with peer(ready) as url:
        told = asyncio.run(both(url))
        client = connect(url)
        session = client.open()
        client.close()
        client.close()
        works: list[Callable[[], object]] = [
            lambda: session.step(X),
            lambda: session.step({}, x="none"),
            lambda: session.ask("q"),
            client.open,
            lambda: client.attach("a", "b"),
        ]
        for work in works:
            with pytest.raises(ServerError) as caught:
                work()
            assert f"{caught.value.code} {caught.value}" in told
        assert len(set(told)) == 1
        assert told[0].startswith("closed ")


def test_who_waits_while_another_thread_closes_is_told() -> None:
    def handle(connection: ServerConnection, number: int) -> None:
        greet(connection)
        for _ in connection:
            pass

    with peer(handle) as url:
        client = connect(url)
        session = client.open()
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(session.step, X), pool.submit(session.ask, "q")]
            time.sleep(0.2)
            client.close()
            assert [type(one.exception(PATIENCE)) for one in waiting] == [ServerError, ServerError]
