"""The client for programs without asyncio: the asynchronous one, on an event loop in a thread of its own."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Self, TypeVar

from tokenturing.client.asynchronous import RECONNECT_SECONDS, AsyncClient, AsyncSession, connect_async
from tokenturing.client.results import ServerError, StepResult, closed
from tokenturing.serve import messages as say

Result = TypeVar("Result")


def connect(url: str, *, token: str | None = None, reconnect: float = RECONNECT_SECONDS) -> "Client":
    """Connect to a server.

    Args:
        url: such as "http://127.0.0.1:8080".
        token: one of the server's --token-file.
        reconnect: seconds in which to reach the server again after the connection was lost; 0: not at all.

    Raises:
        OSError: it cannot be reached.
        ServerError: it refuses, or what is there is no server of sessions.
        OptionError: an argument is no address, token or number of seconds.
    """
    loop = _Loop()
    try:
        return Client(loop, loop.run(connect_async(url, token=token, reconnect=reconnect)))
    except BaseException:
        loop.stop()
        raise


class _Loop:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tokenturing client", daemon=True)
        self._lock = threading.Lock()
        self.stopped = False
        self._thread.start()

    def begin(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        with self._lock:
            if not self.stopped:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise closed()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.begin(work).result()

    def stop(self) -> None:
        with self._lock:
            if self.stopped:
                return
            self.stopped = True
            rest = asyncio.run_coroutine_threadsafe(_finish(), self._loop)
        rest.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Client:
    """A connection, and the sessions that it holds; a context manager. Use `connect`."""

    def __init__(self, loop: _Loop, client: AsyncClient):
        self._loop, self._client = loop, client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def models(self) -> list[say.Model]:
        """What the server has."""
        return self._client.models

    @property
    def worker(self) -> str:
        """The name of the server process."""
        return self._client.worker

    def close(self) -> None:
        """Let go of the connection; sessions stay on the server."""
        if not self._loop.stopped:
            with suppress(ServerError):  # another thread was faster
                self._loop.run(self._client.close())
            self._loop.stop()

    def open(self, model: str = "", *, kind: str = "inputs", session: str | None = None, secret: str | None = None) -> "Session":
        """Begin a session; see `AsyncClient.open`."""
        return Session(self._loop, self._loop.run(self._client.open(model, kind=kind, session=session, secret=secret)))

    def attach(self, session: str, secret: str) -> "Session":
        """Go on with a session that was begun before."""
        return Session(self._loop, self._loop.run(self._client.attach(session, secret)))

    def import_session(self, data: bytes, model: str = "") -> "Session":
        """Begin a session with what `Session.export` returned."""
        return Session(self._loop, self._loop.run(self._client.import_session(data, model)))


class Session:
    """A session that this client holds; its methods are those of `AsyncSession`."""

    def __init__(self, loop: _Loop, session: AsyncSession):
        self._loop, self._session = loop, session

    @property
    def id(self) -> str:
        """What it is called on the server."""
        return self._session.id

    @property
    def secret(self) -> str:
        """What it takes to attach to it again."""
        return self._session.secret

    @property
    def seq(self) -> int:
        """Number of the last input that was acknowledged."""
        return self._session.seq

    @property
    def steps(self) -> int:
        """That the state has seen."""
        return self._session.steps

    def step(self, inputs: Any = None, /, **named: Any) -> StepResult:
        """One step -> what it brought."""
        return self._loop.run(self._session.step(inputs, **named))

    def send(self, inputs: Any = None, /, **named: Any) -> "Future[StepResult]":
        """The same without waiting for the reply. It waits while too many are on their way."""
        reply = self._loop.run(self._session.send(inputs, **named))
        return self._loop.begin(_result(reply))

    def ask(self, *queries: str | int) -> list[say.Reply]:
        """Ask about the last input, any number of queries; nothing changes."""
        return self._loop.run(self._session.ask(*queries))

    def mark(self, name: str) -> None:
        """Give the state as it is now a name to come back to."""
        self._loop.run(self._session.mark(name))

    def rewind(self, name: str) -> None:
        """Go back to a mark."""
        self._loop.run(self._session.rewind(name))

    def fork(self) -> "Session":
        """Another session that begins with this one's state."""
        return Session(self._loop, self._loop.run(self._session.fork()))

    def export(self) -> bytes:
        """The session as the bytes of a file, which `tokenturing stream --state` reads too."""
        return self._loop.run(self._session.export())

    def detach(self) -> None:
        """Hold the session no more; it stays on the server."""
        self._loop.run(self._session.detach())

    def delete(self) -> None:
        """End the session for good."""
        self._loop.run(self._session.delete())


async def _result(future: "asyncio.Future[Result]") -> Result:
    return await future


async def _finish() -> None:
    """Let other threads have what they wait for: a loop that stands still answers nobody."""
    if rest := asyncio.all_tasks() - {asyncio.current_task()}:
        _, late = await asyncio.wait(rest, timeout=1.0)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
