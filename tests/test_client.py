"""The client against a server that plays a script: what was refused when a connection broke off is sent again."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from tokenturing.client import ServerError, connect
from tokenturing.serve import messages as say
from tokenturing.serve.arrays import array

X = np.zeros((1, 2), np.float32)
Script = Callable[["Scripted", Any], None]


class Scripted:
    """A connection of a server that keeps one session and does as it is told."""

    def __init__(self, socket: ServerConnection, kept: list[float], number: int):
        self.socket, self.kept, self.number = socket, kept, number

    def reply(self, message: say.Message) -> None:
        self.socket.send(say.encode(message))

    def refuse(self, step: say.Step, code: Any, *, retry: bool = True) -> None:
        self.reply(say.Error(code, "as the script says", session=step.session, seq=step.seq, retry=retry))

    def take(self, step: say.Step) -> None:
        """As the real one: each number counts once."""
        expected = len(self.kept) + 1
        if step.seq > expected:
            self.refuse(step, "gap", retry=False)
            return
        if step.seq == expected:
            self.kept.append(float(np.frombuffer(step.inputs["x"].data, np.float32)[0]))  # type: ignore[union-attr]
        y = array(np.array(self.kept[step.seq - 1]))
        self.reply(say.Stepped(step.session, step.seq, step.seq, outputs={"y": y}))


@contextmanager
def scripted(script: Script) -> Iterator[tuple[str, list[float]]]:
    """A server that greets and attaches, and leaves the steps to a script -> its address, and what it keeps."""
    kept: list[float] = []
    count = [0]

    def handle(socket: ServerConnection) -> None:
        count[0] += 1
        here = Scripted(socket, kept, count[0])
        model = say.Model("m", "f", ["inputs"], {"x": say.Input([1, 2], "float32")})
        here.reply(say.Welcome(say.VERSION, [model], 16, "step", 2**20))
        try:
            for frame in socket:
                message = say.decode(frame)
                if isinstance(message, say.Open | say.Attach):
                    name = message.session or ""
                    here.reply(say.Opened(message.request, name, "m", "f", "inputs", len(kept), len(kept)))
                else:
                    script(here, message)
        except ConnectionClosed:
            return

    server: Server
    with serve(handle, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}", kept


def played(url: str, count: int) -> list[float | str]:
    """What comes of so many steps that are sent at once: 0, 1, 2 ..."""
    found: list[float | str] = []
    with connect(url) as client:
        session = client.open()
        for future in [session.send(x=X + number) for number in range(count)]:
            try:
                found.append(float(future.result(20).outputs["y"]))
            except ServerError as error:
                found.append(error.code)
    return found


@pytest.mark.parametrize("taken", [0, 2])
def test_what_was_refused_when_the_connection_broke_off(taken: int) -> None:
    """Some are taken, one is refused for now, and those behind it are not answered any more."""

    def script(here: Scripted, step: say.Step) -> None:
        if here.number > 1 or step.seq <= taken:
            here.take(step)
        elif step.seq == taken + 1:
            here.refuse(step, "too_fast")
        else:
            here.socket.close()

    with scripted(script) as (url, kept):
        assert played(url, 6) == [0, 1, 2, 3, 4, 5]
        assert kept == [0, 1, 2, 3, 4, 5]


def test_a_second_copy_that_is_refused_was_taken_nevertheless() -> None:
    """The first connection takes an input and breaks off before it says so; the copy of it is refused at first."""
    refused = []

    def script(here: Scripted, step: say.Step) -> None:
        if here.number == 1 and step.seq == 3:
            here.kept.append(2.0)
            here.socket.close()
        elif here.number == 2 and step.seq in (3, 5) and step.seq not in refused:
            refused.append(step.seq)
            here.refuse(step, "too_fast")
        elif here.number == 2 and step.seq == 6 and len(refused) == 2:
            here.socket.close()
        else:
            here.take(step)

    with scripted(script) as (url, kept):
        assert played(url, 8) == list(range(8))
        assert kept == list(range(8))


def test_numbers_behind_one_that_is_refused_for_good_are_given_anew() -> None:
    def script(here: Scripted, step: say.Step) -> None:
        first = np.frombuffer(step.inputs["x"].data, np.float32)[0]  # type: ignore[union-attr]
        if first == 2:
            here.refuse(step, "bad_input", retry=False)
        elif here.number == 1 and first == 4:
            here.socket.close()
        else:
            here.take(step)

    with scripted(script) as (url, kept):
        assert played(url, 7) == [0, 1, "bad_input", 3, 4, 5, 6]
        assert kept == [0, 1, 3, 4, 5, 6]
