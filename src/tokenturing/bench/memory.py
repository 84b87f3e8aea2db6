"""Peak memory of training by the length of the stream, with and without `recompute`: each in a process of its own."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tokenturing.bench.measure import Report

LENGTHS = (100, 300, 1000)
PROGRAM = """
import json, sys, time
import torch
import tokenturing as tt
steps, recompute, width, threads = (int(word) for word in sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = tt.TokenTuringMachine(width, 96, 16, 4, 8, input_tokens=16)
def peak_kib():
    # not ru_maxrss, which begins at that of the process that started this one
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
def run(steps):
    model.zero_grad()
    y, state = model(torch.randn(1, steps, 16, width), recompute=recompute or None)
    (y.square().mean() + state.memory.square().mean()).backward()
run(4)
before = peak_kib()
began = time.perf_counter()
run(steps)
seconds = time.perf_counter() - began
peak = peak_kib()
print(json.dumps({"seconds": seconds, "peak_mib": peak / 1024, "grown_mib": (peak - before) / 1024}))
"""


def recompute_memory(
    lengths: Sequence[int] = LENGTHS, width: int = 256, threads: int = 1, report: Report | None = None
) -> list[dict[str, Any]]:
    """One row a length T and K of none, 16 and the root of T: peak memory of the process in MiB, and seconds."""
    plan = [(steps, k) for steps in lengths for k in (0, 16, round(math.sqrt(steps)))]
    rows = []
    for index, (steps, every) in enumerate(plan):
        command = [sys.executable, "-c", PROGRAM, *map(str, (steps, every, width, threads))]
        came = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({"steps": steps, "recompute": every, "width": width, **json.loads(came.stdout)})
        if report:
            report(index + 1, len(plan))
    return rows
