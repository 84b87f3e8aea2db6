"""Kill a server again and again while clients talk to it, and look whether anything was lost, repeated or changed.

    python benchmarks/serve_faults.py [--kills 200] [--seed 0] [--clients 4] [--sessions 3]

A real server process is killed with SIGKILL at random moments: under load, while clients come back, and while it starts. It is
started again on the same store and port. Meanwhile clients send steps, set marks and rewind to them. Then:

- after each kill, what is on the disk has every input that a client was told of;
- each input was answered once, with the numbers that come after the ones before;
- each reply is equal to the bit to that of the same inputs on the same model without any interruption;
- at the end each session has as many inputs as were sent, and the server ends on SIGTERM with exit code 0.

New server processes are forked from one that has imported everything, so that hundreds of them take minutes.
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tokenturing as tt
from tokenturing.client import AsyncClient, AsyncSession, asynchronous, connect_async
from tokenturing.serve.sqlite import SqliteStore

WIDTH, TOKENS = 16, 3
START_SECONDS = 120.0
WINDOW = 16
AHEAD = 8
"""inputs of a session on their way at once"""
LONGEST = 0.3
"""seconds of load before a kill"""
EARLY = 0.15
"""share of the kills that come while the server starts"""
MARKS = ("one", "two", "three")
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(
    [
        *(f"tokenturing.{name}" for name in ("cli.main", "cli.serve", "serve.run", "export", "serve.watched", "train.recipe")),
        *("tyro", "uvicorn.lifespan.on", "uvicorn.protocols.http.h11_impl"),
        "uvicorn.protocols.websockets.websockets_sansio_impl",
        __name__,
    ]
)


def small_machine(folder: Path, seed: int = 0) -> Path:
    """A saved machine whose memory matters."""
    torch.manual_seed(seed)
    tt.save(tt.TokenTuringMachine(width=WIDTH, memory_tokens=8, read_tokens=4, layers=1, heads=2), folder)
    return folder


class Server:
    """A server process that can be killed and started again."""

    def __init__(self, folder: Path, store: Path, *arguments: str):
        self.log, self.port = store.with_suffix(".log"), 0
        self.arguments = [f"m={folder}", "--exact", "--store", f"sqlite:{store}", "--window", str(WINDOW), *arguments]
        self.texts: list[str] = []
        """what those before have printed"""
        self.start()

    def start(self) -> None:
        """Begin to start; `wait` until it has."""
        self.log.write_bytes(b"")
        self.process = FORKING.Process(target=_serve, args=(str(self.log), [*self.arguments, "--port", str(self.port)]))
        self.process.start()

    def wait(self) -> str:
        """Until clients can come -> where."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.is_alive():
            if found := re.search(r"^serving .* at (http://\S+?)/, sessions", self.text(), re.MULTILINE):
                self.port = int(found[1].rpartition(":")[2])
                return found[1]
            time.sleep(0.01)
        raise AssertionError(f"the server did not come up:\n{self.text()}")

    @property
    def up(self) -> bool:
        """Whether clients can come."""
        return "serving " in self.text()

    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(encoding="utf-8")

    def kill(self) -> None:
        """As when the power goes."""
        self.process.kill()
        self.process.join()
        self.texts.append(self.text())

    def end(self) -> int | None:
        """SIGTERM -> the exit code."""
        self.process.terminate()
        self.process.join(60)
        self.texts.append(self.text())
        return self.process.exitcode


def _serve(log: str, arguments: list[str]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    from tokenturing.cli import main as command

    command.COMMANDS = ("serve", "bench")  # reading the options of all takes longer than the rest of a start
    command.main(["serve", *arguments])


@dataclass
class Played:
    """A session: what was sent, and what came back."""

    number: int
    session: AsyncSession
    inputs: list[tuple[str, Any]] = field(default_factory=list)
    """("step", x) or ("mark" or "rewind", a name)"""
    replies: dict[int, tuple[int, np.ndarray | None]] = field(default_factory=dict)
    """by sequence number: the steps that the state has seen, and y"""


class Campaign:
    """Clients, their sessions, and what became of them."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        self.sessions: list[Played] = []
        self.stopping = False

    async def play(self, client: AsyncClient, number: int) -> None:
        """Send inputs to a new session until it is to stop, and take the replies."""
        rng = np.random.default_rng([self.seed, number])
        played = Played(number, await client.open("m"))
        self.sessions.append(played)
        waiting: asyncio.Queue = asyncio.Queue(AHEAD)
        taking = asyncio.create_task(self._take(played, waiting))
        marks: list[str] = []
        while not self.stopping and not taking.done():
            chance = rng.random()
            if chance < 0.03 or (chance < 0.05 and marks):
                what, name = ("mark" if chance < 0.03 else "rewind"), str(rng.choice(MARKS if chance < 0.03 else marks))
                await waiting.join()
                played.inputs.append((what, name))
                await (played.session.mark(name) if what == "mark" else played.session.rewind(name))
                played.replies[len(played.inputs)] = played.session.steps, None
                marks = sorted({*marks, name})
            else:
                x = rng.standard_normal((TOKENS, WIDTH)).astype(np.float32)
                played.inputs.append(("step", x))
                await waiting.put(await played.session.send(x))
            await asyncio.sleep(float(rng.random()) * 0.01)
        if not taking.done():
            await waiting.join()
        taking.cancel()
        if not taking.cancelled() and taking.done():
            taking.result()

    async def _take(self, played: Played, waiting: asyncio.Queue) -> None:
        while True:
            result = await (await waiting.get())
            assert result.seq not in played.replies, f"input {result.seq} of session {played.number} was answered twice"
            played.replies[result.seq] = result.steps, result.outputs["y"]
            waiting.task_done()

    @property
    def answered(self) -> int:
        """Inputs that clients were told of."""
        return sum(len(played.replies) for played in self.sessions)

    def stuck(self) -> list[str]:
        """Of each session that waits for replies, how far it is and what its client has."""
        waiting = [played for played in self.sessions if len(played.replies) < len(played.inputs)]
        return [f"{len(one.replies)} of {len(one.inputs)} answered, {vars(one.session)}" for one in waiting]

    def kept(self, store: Path) -> None:
        """What is on the disk has every input that a client was told of. It is looked at in a copy."""
        told = {played.session.id: played.session.seq for played in self.sessions}
        with tempfile.TemporaryDirectory() as folder:
            for suffix in ("", "-wal"):
                if Path(f"{store}{suffix}").exists():
                    shutil.copy(f"{store}{suffix}", Path(folder) / f"copy{suffix}")
            copy = SqliteStore(Path(folder) / "copy", WINDOW)
            for session, seq in told.items():
                record = copy.get(session)
                assert record is not None, f"a session is lost of which input {seq} was acknowledged"
                assert record.seq >= seq, f"input {seq} was acknowledged and {record.seq} is on the disk"
                for one in range(max(1, seq - WINDOW // 2), seq + 1):
                    assert copy.reply(session, one) is not None, f"the reply to input {one} is lost"
            copy.close()

    @torch.no_grad()
    def compare(self) -> int:
        """Each reply equals that of the same inputs without interruption -> how many there are."""
        model = tt.load(self.folder).eval()
        for played in self.sessions:
            assert sorted(played.replies) == list(range(1, len(played.inputs) + 1)), "an input was not answered, or has no number"
            state, steps, marks = model.initial_state(1), 0, {}
            for seq, (what, value) in enumerate(played.inputs, 1):
                found_steps, found = played.replies[seq]
                if what == "step":
                    y, state = model.step(torch.from_numpy(value)[None], state)
                    steps += 1
                    assert np.array_equal(found, y[0].numpy()), f"session {played.number}: another reply to input {seq}"
                elif what == "mark":
                    marks[value] = state, steps
                else:
                    state, steps = marks[value]
                assert found_steps == steps, f"session {played.number}: {found_steps} steps after input {seq}, expected {steps}"
        return self.answered


async def campaign(
    place: Path, kills: int, seed: int = 0, clients: int = 4, sessions: int = 3, report: Any = None
) -> dict[str, Any]:
    """Kill a server so many times under load -> what was checked.

    Raises:
        AssertionError: something was lost, repeated or changed.
    """
    asynchronous.WAITS = (0.0, 0.05, 0.1)
    chance, began = random.Random(seed), time.monotonic()
    folder, store = small_machine(place / "machine"), place / "sessions.db"
    found, server = Campaign(folder, seed), Server(folder, store)
    url = await asyncio.to_thread(server.wait)
    held = [await connect_async(url, reconnect=START_SECONDS) for _ in range(clients)]
    playing = [
        asyncio.create_task(found.play(client, place * sessions + one))
        for place, client in enumerate(held)
        for one in range(sessions)
    ]
    early = 0
    try:
        for number in range(kills):
            is_early = number > 0 and chance.random() < EARLY
            if is_early:
                await asyncio.sleep(chance.random() * LONGEST)
                early += not server.up
            else:
                await asyncio.to_thread(server.wait)
                before = found.answered
                while found.answered < before + 1 + chance.randrange(3 * clients):
                    await _sleep(0.005, playing)
                await _sleep(chance.random() * LONGEST, playing)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.02)  # what it had sent is still to be read
            found.kept(store)
            server.start()
            if report:
                report(number + 1, kills)
        await asyncio.to_thread(server.wait)
        found.stopping = True
        _, stuck = await asyncio.wait(playing, timeout=START_SECONDS)
        assert not stuck, f"replies of {len(stuck)} sessions never came: {found.stuck()}"
        await asyncio.gather(*playing)
        for played in found.sessions:
            assert played.session.seq == len(played.inputs), "the server has another number of inputs than were sent"
    finally:
        for task in playing:
            task.cancel()
        await asyncio.gather(*playing, *(client.close() for client in held), return_exceptions=True)
        code = await asyncio.to_thread(server.end)
    assert code == 0, f"SIGTERM ends the server with {code}"
    for text in server.texts:
        assert "Traceback" not in text, text
    compared = found.compare()
    return {
        "kills": kills,
        "early": early,
        "sessions": len(found.sessions),
        "inputs": compared,
        "rewinds": sum(what == "rewind" for played in found.sessions for what, _ in played.inputs),
        "seconds": time.monotonic() - began,
    }


async def _sleep(seconds: float, playing: list[asyncio.Task]) -> None:
    """A failed client ends the campaign."""
    await asyncio.sleep(seconds)
    for task in playing:
        if task.done():
            task.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--sessions", type=int, default=3, help="of each client")
    arguments = parser.parse_args()
    from tokenturing.cli.common import Progress

    with tempfile.TemporaryDirectory() as place, Progress("kills") as bar:
        run = campaign(Path(place), arguments.kills, arguments.seed, arguments.clients, arguments.sessions, bar.update)
        found = asyncio.run(run)
    print(
        f"{found['kills']} kills in {found['seconds']:.0f} s ({found['early']} of them before the server was up) with "
        f"{arguments.clients} clients and {found['sessions']} sessions:\n"
        f"every acknowledged input was on the disk after each kill; {found['inputs']} inputs were each answered once, in order, "
        f"among them {found['rewinds']} rewinds;\nall replies equal those without interruption to the bit; "
        "SIGTERM ends the server with exit code 0"
    )


if __name__ == "__main__":
    main()
