"""A training step of the machine against a plain loop: the paper's equations written straight down (tokenturing.bench.plain).

    python benchmarks/training_step.py [--size recall|small|one|paper] [--threads 1] [--rounds 9] [--json FILE]

"recall" is the machine of recipes/recall.toml without its look back (64 rows, 24 steps), "small" one of two layers
(width 64, M 16, R 8; 32 rows, 16 steps), "one" one row of 100 steps (width 64, M 16, R 4, one layer), "paper" width 512,
M 96, R 16, 4 layers (8 rows, 24 steps). All have the same parameters and inputs, the gradients of the plain loop and of the
machine are compared first, and all take turns in one run: the figure is the ratio of medians. "step by step" is the machine
with `fast = False`, each step of which is autograd's; "compiled" and bfloat16 go step by step too.
"""

import argparse
import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import tokenturing as tt
from tokenturing.bench.contestants import loss_of
from tokenturing.bench.measure import take_turns
from tokenturing.bench.plain import plain

SIZES = {
    "recall": (dict(width=64, memory_tokens=20, read_tokens=12, layers=1, heads=4, input_tokens=4, hidden=128), 64, 24),
    "small": (dict(width=64, memory_tokens=16, read_tokens=8, layers=2, heads=4, input_tokens=5, hidden=128), 32, 16),
    "one": (dict(width=64, memory_tokens=16, read_tokens=4, layers=1, heads=8, input_tokens=1), 1, 100),
    "paper": (dict(width=512, memory_tokens=96, read_tokens=16, layers=4, heads=8, input_tokens=16), 8, 24),
}


def train(model: tt.TokenTuringMachine, x: Tensor, *, plainly: bool = False, half: bool = False, fast: bool = True) -> None:
    """One forward and backward pass."""
    model.zero_grad()
    model.fast = fast
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        y, state = plain(model, x) if plainly else model(x)
        loss = loss_of(y, state.memory)
    loss.backward()


def gradients(model: tt.TokenTuringMachine) -> list[Tensor]:
    """Of all parameters."""
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="recall")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options, rows, steps = SIZES[arguments.size]
    torch.manual_seed(0)
    model = tt.TokenTuringMachine(**options)
    began = time.perf_counter()
    compiled = tt.TokenTuringMachine(**options)
    compiled.load_state_dict(model.state_dict())
    compiled.cell.compile(dynamic=False)
    x = torch.randn(rows, steps, options["input_tokens"], options["width"])
    train(compiled, x)
    print(f"compiled: the first update after {time.perf_counter() - began:.1f} s")
    train(model, x, plainly=True)
    wanted = gradients(model)
    train(model, x)
    for ours, theirs in zip(gradients(model), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()) + 1e-7)
    calls = {
        "plain loop": partial(train, model, x, plainly=True),
        "step by step": partial(train, model, x, fast=False),
        "tokenturing": partial(train, model, x),
        "bfloat16": partial(train, model, x, half=True),
        "compiled": partial(train, compiled, x),
        "compiled, bfloat16": partial(train, compiled, x, half=True),
    }
    timings = take_turns(calls, arguments.rounds, warm_up=2)
    bases = [(name, timings[name].median) for name in ("plain loop", "step by step")]
    for name, timing in timings.items():
        shares = ", ".join(f"{timing.median / base:.2f} of {other}" for other, base in bases)
        print(f"{name:20} {timing.median * 1e3:8.1f} ms for {rows} rows x {steps} steps: {shares}")
    if arguments.json:
        found = {name: asdict(timing) for name, timing in timings.items()}
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
