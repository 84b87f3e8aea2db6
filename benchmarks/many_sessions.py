"""A hundred thousand sessions in one server process: what they take of memory and disk, asleep and woken.

    python benchmarks/many_sessions.py [--sessions 100000] [--resident 1000] [--checkpoint recall-ttm] [--json FILE]

Each session is begun, takes a step, and sleeps when `resident` others have come after it; then some are woken at random, each of
which must go on from where it was.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tokenturing.cli.serve import load_served
from tokenturing.serve import messages as say
from tokenturing.serve.arrays import array
from tokenturing.serve.engine import Engine
from tokenturing.serve.limits import Limits
from tokenturing.serve.seats import Job
from tokenturing.serve.store import open_store

AT_ONCE = 256
WOKEN = 2000


class Waiting:
    """A connection that waits for one reply."""

    def __init__(self) -> None:
        self.reply: asyncio.Future = asyncio.get_running_loop().create_future()

    def send(self, message: say.Message, encoded: bytes | None = None) -> None:
        if not self.reply.done():
            self.reply.set_result(message)


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def step(engine: Engine, session: str, inputs: dict[str, Any]) -> int:
    """One step of a session -> the number of steps that it has seen."""
    listener = Waiting()
    seat = engine.seats[session]
    engine.submit(seat, Job(say.Step(session, seat.record.seq + 1, inputs), listener))
    reply = await listener.reply
    assert isinstance(reply, say.Stepped), reply
    return reply.steps


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Begin them all, then wake some."""
    served = load_served("machine", arguments.checkpoint)
    limits = Limits(resident=arguments.resident, sessions=arguments.sessions)
    engine = Engine({"machine": served}, open_store(f"sqlite:{folder / 's.db'}", limits.window), limits)
    await engine.start()
    inputs = {
        name: array(np.zeros(shape[1:], dtype)) for name, (shape, dtype) in served.runtime.inputs.items() if name != "token_mask"
    }
    secrets = {}

    async def begin(number: int) -> None:
        listener = Waiting()
        record, secrets[number] = await engine.open(say.Open(0, session=f"session-{number:06}"), listener)
        await step(engine, record.session, inputs)
        await engine.detach(engine.seats[record.session], listener)

    async def wake(number: int) -> None:
        listener = Waiting()
        record = await engine.attach(say.Attach(0, f"session-{number:06}", secrets[number]), listener)
        assert await step(engine, record.session, inputs) == 2
        await engine.detach(engine.seats[record.session], listener)

    memory, began = {0: resident_bytes()}, time.perf_counter()
    for first in range(0, arguments.sessions, AT_ONCE):
        await asyncio.gather(*(begin(number) for number in range(first, min(first + AT_ONCE, arguments.sessions))))
        if first // AT_ONCE % 40 == 39:
            memory[first + AT_ONCE] = resident_bytes()
            print(f"{first + AT_ONCE} sessions, {memory[first + AT_ONCE] / 2**20:.0f} MiB", flush=True)
    opened = time.perf_counter() - began
    chosen = random.Random(0).sample(range(arguments.sessions), min(WOKEN, arguments.sessions))
    began = time.perf_counter()
    for first in range(0, len(chosen), AT_ONCE):
        await asyncio.gather(*(wake(number) for number in chosen[first : first + AT_ONCE]))
    woken = time.perf_counter() - began
    memory[arguments.sessions] = resident_bytes()
    await engine.stop()
    return {
        "sessions": arguments.sessions,
        "resident": arguments.resident,
        "state_bytes": sum(leaf.nbytes for leaf in served.runtime.initial_state(1)),
        "memory_mib": {str(count): round(size / 2**20) for count, size in memory.items()},
        "disk_mib": round(sum(file.stat().st_size for file in folder.iterdir()) / 2**20),
        "begun_and_stepped_per_second": round(arguments.sessions / opened),
        "woken_and_stepped_per_second": round(len(chosen) / woken),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--resident", type=int, default=1000)
    parser.add_argument("--checkpoint", default="recall-ttm")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(arguments, Path(folder)))
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
