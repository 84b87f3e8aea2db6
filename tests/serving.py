"""Real servers for tests, as processes and in a thread of this one, and a small model for them to serve."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tokenturing as tt
from tokenturing.export import eager
from tokenturing.serve import messages as say
from tokenturing.serve.app import app
from tokenturing.serve.arrays import array
from tokenturing.serve.engine import Engine
from tokenturing.serve.limits import Limits
from tokenturing.serve.run import bind
from tokenturing.serve.served import Served
from tokenturing.serve.socket import Socket
from tokenturing.serve.store import open_store

WIDTH, TOKENS = 16, 3
START_SECONDS = 120
"""for a server to come up on a busy machine"""


def small_machine(folder: Path, seed: int = 0) -> Path:
    """A saved machine whose memory matters."""
    torch.manual_seed(seed)
    tt.save(tt.TokenTuringMachine(width=WIDTH, memory_tokens=8, read_tokens=4, layers=1, heads=2), folder)
    return folder


class Server:
    """A process of `tokenturing serve`."""

    def __init__(self, *arguments: str, log: Path, port: int = 0):
        self.log = log
        command = [sys.executable, "-m", "tokenturing", "serve", *arguments, "--port", str(port)]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"})
        self.url = self._wait()

    def _wait(self) -> str:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if found := re.search(r"^serving .* at (http://\S+?)/, sessions", self.text(), re.MULTILINE):
                return found[1]
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(f"the server did not come up:\n{self.text()}")

    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(encoding="utf-8")

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """As when the power goes."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """SIGTERM -> the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextmanager
def serving(*arguments: str, log: Path, port: int = 0) -> Iterator[Server]:
    """A server while the block runs; it must not have failed meanwhile."""
    server = Server(*arguments, log=log, port=port)
    try:
        yield server
    finally:
        server.end()
    assert "Traceback" not in server.text(), server.text()


def small_engine(folder: Path, store: Path, **limits: Any) -> Engine:
    """The heart of a server of the model in `folder`, which is called "m"."""
    allowed = Limits(**limits)
    return Engine({"m": Served("m", eager(tt.load(folder)))}, open_store(f"sqlite:{store}", allowed.window), allowed)


@contextmanager
def serving_here(engine: Engine) -> Iterator[str]:
    """A server in a thread while the block runs -> its address. It begins within milliseconds, and cannot be killed."""
    import uvicorn

    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app(engine), ws=Socket, log_config=None, lifespan="on", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


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


def http(server: Server, method: str, path: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, data, named)
    reply = connection.getresponse()
    found = reply.status, reply.read(), dict(reply.getheaders())
    connection.close()
    return found
