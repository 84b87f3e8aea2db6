"""How many sessions a server holds: real server processes under a load from another process, in turns.

A number of sessions is held when 99 of 100 steps are answered before the next one of their session is due, and no step is
refused or lost. The largest such number is looked for between the last that was held and the first that was not.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tokenturing.bench.serve_load import PERIOD, Order
from tokenturing.errors import OptionError

BATCHED, SINGLE, PLAIN = "batches", "--batch 1", "one lock"
START_SECONDS = 180.0
END_SECONDS = 30.0
CLOSE_ENOUGH = 0.06
"""share by which the number that is looked for is uncertain at the end"""
TRIES = 2
"""of a number before it counts as not held: the machine may have been busy with something else"""
Report = Callable[[int, int], None]
Row = dict[str, Any]


@dataclass
class Process:
    """A server that runs."""

    name: str
    url: str
    pid: int

    def resident(self) -> float:
        """MiB of memory in use."""
        return _resident(self.pid)

    def load(self, order: Order) -> Row:
        """What a load finds, with the processor time that the server took, in cores."""
        before, began = _cpu(self.pid), time.monotonic()
        generator = subprocess.run(
            [sys.executable, "-m", "tokenturing.bench.serve_load"],
            input=msgspec.json.encode(msgspec.structs.replace(order, url=self.url)),
            capture_output=True,
            check=False,
        )
        if generator.returncode:
            raise OptionError(f"the load on {self.name} failed: {generator.stderr.decode()[-800:].strip()}")
        took = time.monotonic() - began
        return {"name": self.name, **json.loads(generator.stdout), "server_cpu": (_cpu(self.pid) - before) / took}


def commands(checkpoint: str, plain: Path | None, batch: int = 64) -> dict[str, list[str]]:
    """The servers that are compared, by name; each still lacks where to keep its sessions.

    Args:
        checkpoint: a model, as for `tokenturing serve`.
        plain: the script of a server of the usual kind; None: it is left out.
        batch: of the server with batches.
    """
    serve = [sys.executable, "-m", "tokenturing", "serve", checkpoint, "--port", "0", "--durability", "step", "--batch"]
    found = {BATCHED: [*serve, str(batch)], SINGLE: [*serve, "1"]}
    return found | ({PLAIN: [sys.executable, str(plain), checkpoint]} if plain else {})


@contextmanager
def running(name: str, command: Sequence[str], folder: Path) -> Iterator[Process]:
    """A server process while the block runs, its sessions in a file in `folder`."""
    number = len(list(folder.glob("*.log")))
    store = folder / f"{number}.db"
    log = folder / f"{number}.log"
    with log.open("wb") as file:
        where = str(store) if "serve" not in command else f"sqlite:{store}"
        process = subprocess.Popen([*command, "--store", where], stdout=file, stderr=file)
    try:
        yield Process(name, _url(process, log), process.pid)
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _url(process: subprocess.Popen, log: Path) -> str:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r"^serving .* at (http://\S+?)/, sessions", log.read_text(encoding="utf-8"), re.MULTILINE):
            return found[1]
        time.sleep(0.05)
    raise OptionError(f"the server did not come up: {log.read_text(encoding='utf-8')[-800:].strip()}")


def held(row: Row) -> bool:
    """Whether so many sessions were held."""
    return row["p99"] <= PERIOD and not row["errors"] and not row["unanswered"]


@dataclass
class Search:
    """What is known of one server, and what to try next.

    Args:
        ladder: numbers of sessions in order; all are tried until one is not held, and then those between.
    """

    ladder: Sequence[int]
    low: int = 0
    high: int | None = None
    tries: int = 0
    rows: list[Row] = field(default_factory=list)

    def next(self) -> int | None:
        """The number of sessions to try; None: it is known well enough."""
        if self.high is None:
            return next((number for number in self.ladder if number > self.low), 2 * self.low)
        if self.high - self.low <= max(1, CLOSE_ENOUGH * self.low):
            return None
        return (self.low + self.high) // 2

    def note(self, row: Row) -> None:
        """What came of the last number."""
        self.rows.append(row)
        self.tries += 1
        if held(row):
            self.low, self.tries = row["sessions"], 0
        elif self.tries >= TRIES or row["p99"] > 10 * PERIOD:
            self.high, self.tries = row["sessions"], 0


def compare(
    checkpoint: str,
    plain: Path | None,
    ladder: Sequence[int],
    order: Order,
    report: Report | None = None,
) -> dict[str, Any]:
    """Rows of all that was measured, and how many sessions each server holds. All servers run at once and take turns."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        searches = {name: Search(sorted(ladder)) for name in commands(checkpoint, plain)}
        servers = {
            name: stack.enter_context(running(name, command, Path(folder)))
            for name, command in commands(checkpoint, plain).items()
        }
        done = 0
        while waiting := {name: number for name, search in searches.items() if (number := search.next())}:
            for name, number in waiting.items():
                searches[name].note(servers[name].load(msgspec.structs.replace(order, sessions=number)))
                done += 1
                if report:
                    report(done, done + sum(_left(search) for search in searches.values()))
    rows = sorted((row for search in searches.values() for row in search.rows), key=lambda row: (row["name"], row["sessions"]))
    return {"rows": rows, "held": {name: search.low for name, search in searches.items()}}


def _left(search: Search) -> int:
    """About how many more numbers a search will try."""
    if search.high is None:
        return len([number for number in search.ladder if number > search.low]) + 5
    left, low, high = 0, search.low, search.high
    while high - low > max(1, CLOSE_ENOUGH * low):
        low, left = (low + high) // 2, left + 1
    return left


def soak(checkpoint: str, sessions: int, minutes: float, order: Order, report: Report | None = None) -> dict[str, Any]:
    """A steady load for long: the server's memory by the minute, and how all steps went."""
    command = commands(checkpoint, None)[BATCHED]
    with tempfile.TemporaryDirectory() as folder, running(BATCHED, command, Path(folder)) as server:
        request = msgspec.structs.replace(order, url=server.url, sessions=sessions, seconds=60 * minutes)
        generator = subprocess.Popen(
            [sys.executable, "-m", "tokenturing.bench.serve_load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert generator.stdin is not None
        assert generator.stdout is not None
        generator.stdin.write(msgspec.json.encode(request))
        generator.stdin.close()
        memory: list[dict[str, float]] = []
        began, looks = time.monotonic(), max(2, round(minutes) + 1)
        every = 0.98 * 60 * minutes / (looks - 1)  # the last look comes before the end
        while generator.poll() is None:
            now = time.monotonic() - began
            if len(memory) < looks and now >= order.warm_up + len(memory) * every:
                memory.append({"minute": round(now / 60, 2), "mib": round(server.resident(), 1)})
            if report:
                report(min(round(now), round(60 * minutes)), round(60 * minutes))
            time.sleep(0.2)
        if generator.returncode:
            raise OptionError("the load failed")
        return {"minutes": minutes, "memory": memory, **json.loads(generator.stdout.read())}


def _cpu(pid: int) -> float:
    """Seconds of processor time that a process has taken; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100


def _resident(pid: int) -> float:
    try:
        found = re.search(r"VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def best_other(found: Mapping[str, int]) -> int:
    """What the better of the others holds."""
    return max(number for name, number in found.items() if name != BATCHED)
