"""A million steps of one stream: step time and memory of the process by position.

    python benchmarks/long_stream.py [CHECKPOINT] [--steps 1000000] [--eager] [--json FILE]

The steps are those of the exported memory, run by tokenturing.runtime; with --eager those of the PyTorch module. The rows for
recall-ttm stand in its notes as "long_stream" and are shown in the demo's report.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tokenturing as tt
from tokenturing.export import export_onnx
from tokenturing.models.contract import RecurrentModel
from tokenturing.tasks.recall.model import INPUT_TOKENS


def resident_bytes() -> int:
    """Memory of this process in RAM."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def stepper(model: RecurrentModel, eager: bool) -> tuple[Callable[[np.ndarray, Any], Any], Any]:
    """(x [1, N, D], state) -> the next state, and the first state."""
    if eager:
        return lambda x, state: model.step(torch.from_numpy(x), state)[1], model.initial_state(1)
    with tempfile.TemporaryDirectory() as folder:
        exported = tt.runtime.load(export_onnx(model, Path(folder) / "memory"), threads=1)
    return lambda x, state: exported.step([x], state)[1], exported.initial_state(1)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="recall-ttm")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--eager", action="store_true", help="without ONNX Runtime")
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = tt.load(arguments.checkpoint).memory
    assert isinstance(model, RecurrentModel)
    inputs = torch.randn(1000, 1, INPUT_TOKENS, model.width).numpy()
    step_on, state = stepper(model, arguments.eager)
    rows, times = [], []
    every = max(1, arguments.steps // 10)
    for step in range(1, arguments.steps + 1):
        began = time.perf_counter()
        state = step_on(inputs[step % 1000], state)
        times.append(time.perf_counter() - began)
        if step % every == 0:
            row = {
                "steps": step,
                "median_ms": statistics.median(times) * 1e3,
                "resident_mib": resident_bytes() / 2**20,
                "state_bytes": sum(leaf.nbytes for leaf in state),
            }
            print(
                f"{step:>9} steps  {row['median_ms']:.3f} ms a step  {row['resident_mib']:.1f} MiB  state {row['state_bytes']} B"
            )
            rows.append(row)
            times.clear()
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
