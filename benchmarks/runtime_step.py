"""A step of the eager model against the same step exported, and how far they drift apart.

    python benchmarks/runtime_step.py [--size paper|recall] [--threads 1] [--drift 10000] [--json FILE]

Both take turns in one run; the figure is the ratio of their medians. "paper" is a machine of width 512, M 96, R 16, 4 layers of 8
heads, N 16; "recall" the shipped machine of the recall task without its eyes and ears.
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

BATCHES = (1, 8)


def machine(size: str) -> RecurrentModel:
    """The model to measure, in evaluation mode."""
    torch.manual_seed(0)
    if size == "paper":
        return tt.TokenTuringMachine(512, 96, 16, 4, 8, input_tokens=16).eval()
    return tt.load("recall-ttm").memory


def tokens(model: RecurrentModel, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Inputs of chance [B, N, D]."""
    assert model.input_tokens is not None
    return rng.standard_normal((rows, model.input_tokens, model.width), np.float32)


@torch.inference_mode()
def latency(
    model: RecurrentModel, runtimes: dict[str, Any], rows: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each round's step, taking turns."""
    x = tokens(model, rows, np.random.default_rng(0))
    state = model.initial_state(rows)
    calls: dict[str, Callable[[], Any]] = {"eager": lambda: model.step(torch.from_numpy(x), state)}
    for name, runtime in runtimes.items():
        first = runtime.initial_state(rows)
        calls[name] = lambda runtime=runtime, first=first: runtime.step(x, first)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return times


@torch.inference_mode()
def drift(model: RecurrentModel, runtimes: dict[str, Any], steps: int) -> dict[str, dict[int, float]]:
    """Largest difference of the outputs, relative to the largest output, up to steps 10, 100, ..."""
    rng = np.random.default_rng(1)
    state = model.initial_state(1)
    states = {name: runtime.initial_state(1) for name, runtime in runtimes.items()}
    worst = dict.fromkeys(runtimes, 0.0)
    found: dict[str, dict[int, float]] = {name: {} for name in runtimes}
    for step in range(1, steps + 1):
        x = tokens(model, 1, rng)
        if rng.random() < 0.001:
            state = model.initial_state(1)
            states = {name: runtime.reset(states[name], [0]) for name, runtime in runtimes.items()}
        y, state = model.step(torch.from_numpy(x), state)
        for name, runtime in runtimes.items():
            ours, states[name] = runtime.step(x, states[name])
            worst[name] = max(worst[name], float(np.abs(ours - y.numpy()).max() / y.abs().max()))
            if step == steps or np.log10(step).is_integer():
                found[name][step] = worst[name]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("paper", "recall"), default="paper")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--drift", type=int, default=1000, help="steps; 0: not measured")
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = machine(arguments.size)
    with tempfile.TemporaryDirectory() as folder:
        runtimes = {
            precision: tt.runtime.load(
                export_onnx(model, Path(folder) / precision, precision=precision), threads=arguments.threads
            )
            for precision in ("float32", "int8")
        }
        results: dict[str, Any] = {"torch": torch.__version__, "threads": arguments.threads, "latency": {}}
        for rows in BATCHES:
            times = latency(model, runtimes, rows, arguments.rounds)
            medians = {name: statistics.median(found) for name, found in times.items()}
            results["latency"][rows] = times
            for name, median in medians.items():
                share = median / medians["eager"]
                print(f"batch {rows}  {name:8} {median * 1e3:7.2f} ms  {share:.2f} of eager")
        if arguments.drift:
            results["drift"] = drift(model, runtimes, arguments.drift)
            for name, by_step in results["drift"].items():
                for step, error in by_step.items():
                    print(f"{name:8} largest error up to step {step:6}: {error:.1e}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
