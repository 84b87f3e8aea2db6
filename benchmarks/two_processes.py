"""Training on two processes against one: rows of a batch a second, from the runs' own logs.

    python benchmarks/two_processes.py [--recipe recipes/last-digits.toml] [--rows 64] [--updates 110] [--skip 10] [--rounds 3]
                                       [--ways NAME,...] [--set KEY=VALUE ...] [--json FILE]

Four ways of training the recipe, one after the other in each round, another one first each time; each process has one thread:
"one process" has all rows; "two together" are started by torchrun and share them; "two apart" are two runs at once with half the
rows each that know nothing of each other, what the cores themselves allow; "half the rows" is one process with half of them: how
much faster its updates are is the bound of two processes that lose nothing. The first updates are left out, and so are validating
and saving, which the log does not count. Medians of the rounds, and how they compare with one process (of the bound: updates a
second in place of rows).

One and two processes draw the same rows, so their losses are compared too, where both were run: at the first logged update they
have to be within 1e-5; later they part slowly, as rounding differs.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from shared import chosen, markdown, place, positive, write

from tokenturing.train.loop import LOG_EVERY

ONE, TOGETHER, APART, HALF = WAYS = ("one process", "two together", "two apart", "half the rows")
THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
NEVER = 10**9
CLOSE = 1e-5
Log = list[dict[str, Any]]


class Runs:
    """Runs of a recipe in folders of their own.

    Args:
        arguments: of the command line.
        folder: for the runs.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path):
        self.arguments, self.folder = arguments, folder

    def begin(self, out: str, rows: int, *, processes: int = 1, seed: int = 0) -> subprocess.Popen:
        """Start one run, fresh."""
        arguments = self.arguments
        settings = {
            "updates": arguments.updates,
            "rows": rows,
            "seed": seed,
            "threads": 1,
            "save_every": NEVER,
            "evaluate_every": NEVER,
        }
        shutil.rmtree(self.folder / out, ignore_errors=True)
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
        command = [sys.executable, *torchrun, "-m", "tokenturing", "train", arguments.recipe, "--out", str(self.folder / out)]
        command += ["--set", *arguments.set, *(f"train.{key}={value}" for key, value in settings.items())]
        return subprocess.Popen(command, env=os.environ | THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def end(self, running: Sequence[subprocess.Popen], outs: Sequence[str]) -> list[Log]:
        """Wait for them -> their logs."""
        for process in running:
            _, errors = process.communicate()
            if process.returncode:
                sys.exit(f"a run ended with {process.returncode}:\n{errors}")
        texts = [(self.folder / out / "metrics.jsonl").read_text(encoding="utf-8") for out in outs]
        return [[json.loads(line) for line in text.splitlines()] for text in texts]

    def go(self, way: str) -> tuple[float, Log]:
        """One of the ways -> rows a second (of the bound: updates a second times all rows), and the log of its first run."""
        rows, half = self.arguments.rows, self.arguments.rows // 2
        if way == APART:
            started = [self.begin(f"apart-{seed}", half, seed=seed) for seed in (0, 1)]
            logs = self.end(started, ["apart-0", "apart-1"])
            return sum(half * self.updates_a_second(log) for log in logs), logs[0]
        process = self.begin("run", half if way == HALF else rows, processes=2 if way == TOGETHER else 1)
        (log,) = self.end([process], ["run"])
        return rows * self.updates_a_second(log), log

    def updates_a_second(self, log: Log) -> float:
        """Of the updates after the first ones."""
        first = next(line for line in log if line["update"] >= self.arguments.skip)
        return (log[-1]["update"] - first["update"]) / max(log[-1]["seconds"] - first["seconds"], 0.05)  # logged in tenths


def losses(one: Log, two: Log) -> dict[str, float]:
    """How far two logs are apart at the first and at the last update that both have."""
    apart = {here["update"]: abs(here["loss"] - there["loss"]) for here, there in zip(one, two, strict=True)}
    first, last = min(apart), max(apart)
    later = f", {apart[last]:.1e} after {last}" if last > first else ""
    print(f"\nlosses of one process and of two together differ by {apart[first]:.1e} after {first} updates{later}")
    return {"first_update": first, "first": apart[first], "last_update": last, "last": apart[last]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/last-digits.toml")
    parser.add_argument("--rows", type=positive, default=64, help="of the whole batch")
    parser.add_argument("--updates", type=positive, default=110)
    parser.add_argument("--skip", type=positive, default=LOG_EVERY, help="first updates that are left out")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the recipe")
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    ways = chosen(parser, "--ways", arguments.ways, WAYS)
    if arguments.rows % 2:
        parser.error(f"--rows {arguments.rows}: expected an even number, of which each process has a half")
    arguments.skip = math.ceil(arguments.skip / LOG_EVERY) * LOG_EVERY
    if arguments.updates <= arguments.skip:
        parser.error(f"--updates {arguments.updates}: expected more than the {arguments.skip} that are left out")
    torch.set_num_threads(1)
    rates: dict[str, list[float]] = {way: [] for way in ways}
    logs: dict[str, Log] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(arguments, Path(folder))
        for number in range(arguments.rounds):
            for index in range(len(ways)):
                way = ways[(number + index) % len(ways)]
                rate, logs[way] = runs.go(way)
                rates[way].append(rate)
                print(f"round {number + 1}: {way}, {rate:.0f} rows a second", file=sys.stderr, flush=True)
    print(f"{place()}, in each process\n{arguments.recipe}, {arguments.rows} rows, {arguments.updates} updates")
    print(f"medians of {arguments.rounds} rounds, and in brackets the least and the most\n")
    table = [["", "rows a second", "ms an update", "of one process"]]
    for way, found in rates.items():
        middle = statistics.median(found)
        ratios = [mine / base for mine, base in zip(found, rates.get(ONE, []), strict=False)]
        compared = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else ""
        rate = f"{middle:.0f} ({min(found):.0f}-{max(found):.0f})"
        table.append([way, rate, f"{1e3 * arguments.rows / middle:.0f}", compared])
    print(markdown(table))
    apart = losses(logs[ONE], logs[TOGETHER]) if ONE in logs and TOGETHER in logs else None
    settings = {name: vars(arguments)[name] for name in ("recipe", "rows", "updates", "skip", "set")}
    write(arguments.json, {**settings, "rows_a_second": rates, "losses": apart})
    if apart and apart["first"] > CLOSE:
        sys.exit(f"losses differ by more than {CLOSE:g} after {apart['first_update']} updates")


if __name__ == "__main__":
    main()
