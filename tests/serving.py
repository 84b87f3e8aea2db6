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
from pathlib import Path
from typing import Any

import torch

import tokenturing as tt
from tokenturing.export import eager
from tokenturing.serve.app import app
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
