"""What is done beside the event loop's own work: calls in threads, and tasks that end with the server."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

log = logging.getLogger(__name__)
READERS = 2


class Background:
    """One thread for the models, one that writes to the store, some that read from it, and tasks of the event loop."""

    def __init__(self) -> None:
        self._compute = ThreadPoolExecutor(1, "model")
        self._write = ThreadPoolExecutor(1, "commit")
        self._read = ThreadPoolExecutor(READERS, "store")
        self._tasks: set[asyncio.Task] = set()

    async def compute(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Call something of the models."""
        return await asyncio.get_running_loop().run_in_executor(self._compute, call, *arguments)

    async def write(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Call what changes the store; calls follow one another."""
        return await asyncio.get_running_loop().run_in_executor(self._write, call, *arguments)

    async def read(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Call what looks into the store."""
        return await asyncio.get_running_loop().run_in_executor(self._read, call, *arguments)

    def spawn(self, work: Awaitable[None]) -> None:
        """Do something once."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def keep(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Do something until the end: a fault of ours in one round must not end the server's work for good."""
        self.spawn(self._kept(loop))

    async def _kept(self, loop: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await loop()
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("%s failed and begins anew", loop.__qualname__)

    async def close(self) -> None:
        """Cancel the tasks, and wait for the threads."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pool in (self._compute, self._write, self._read):
            pool.shutdown()
