"""One server process: bind, serve, drain."""

import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from tokenturing.errors import OptionError
from tokenturing.serve.access import Access
from tokenturing.serve.app import app
from tokenturing.serve.engine import Engine
from tokenturing.serve.socket import Socket

BACKLOG = 2048
PING_SECONDS = 20.0
SWITCH_SECONDS = 0.0005
OF_STRANGERS = ("Invalid HTTP request received.", "Unsupported upgrade request.", "Invalid UTF-8 sequence received from client.")
"""what uvicorn has to say of what strangers send; they are told, and our log is not theirs to fill"""


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Raises:
        OptionError: the address is taken, or is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise OptionError(f"--host {host} --port {port} cannot be used ({error}): name another port, or 0 for any") from error
    listening.listen(BACKLOG)
    return listening


def run(engine: Engine, listening: socket.socket, access: Access, page: Path | None, ready: Callable[[], object]) -> None:
    """Serve until SIGTERM or Ctrl-C; then what waits is finished first.

    Args:
        engine: not started yet.
        listening: from `bind`.
        access: who may come in.
        page: a folder that is served at /.
        ready: called when clients can come.
    """
    # Python's 5 ms are as long as a step: the thread of the models, back from one, would wait so long for the loop to let go.
    sys.setswitchinterval(SWITCH_SECONDS)
    config = uvicorn.Config(
        app(engine, access, page),
        log_level="warning",
        access_log=False,
        ws=Socket,
        ws_max_size=engine.limits.message_bytes,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=int(engine.limits.drain_seconds) + 1,
        server_header=False,
    )
    said = logging.getLogger("uvicorn.error")
    said.addFilter(_ours)
    try:
        _Server(config, engine, ready).run(sockets=[listening])
    finally:
        said.removeFilter(_ours)


def _ours(record: logging.LogRecord) -> bool:
    return record.msg not in OF_STRANGERS


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, engine: Engine, ready: Callable[[], object]):
        super().__init__(config)
        self._engine, self._ready = engine, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's own, which lets the signal kill the process once all is done, with an exit code as of a failure."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: object) -> None:
        self._engine.draining = True
        super().handle_exit(sig, frame)  # type: ignore[arg-type]
