"""What the change from `torch.nn.LSTM` costs in time: the table at the end of docs/from-lstm.md.

    python benchmarks/from_lstm.py [--rows 8] [--steps 100] [--rounds 15] [--threads 1] [--json FILE]

`torch.nn.LSTM(64, 64)`, two baselines and the machine of that page, one token a step: a step of one row and a whole call without
gradients, and the whole call forward and backward. All take turns in one run; a step gets twenty times as many turns. Prints the
page's table, medians and in brackets how they compare with `nn.LSTM`, and the quartiles below it.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from shared import markdown, milliseconds, place, positive, short, write
from torch import Tensor, nn

import tokenturing as tt
from tokenturing.bench.contestants import numbers
from tokenturing.bench.measure import Timing, take_turns

WIDTH = 64
STEP_TURNS = 20
BASE = "`nn.LSTM`"


def models() -> dict[str, nn.Module]:
    """By name."""
    torch.manual_seed(0)
    return {
        BASE: nn.LSTM(WIDTH, WIDTH, batch_first=True),
        "`tt.baselines.MinGRU`": tt.baselines.MinGRU(WIDTH),
        "`tt.baselines.LSTM`": tt.baselines.LSTM(WIDTH),
        "`tt.TokenTuringMachine`": tt.TokenTuringMachine(WIDTH, memory_tokens=16, read_tokens=1, layers=1, heads=4),
    }


def stepper(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """x [1, T, D]: a call makes one step from where the last one ended."""
    held, at = [None], [0]

    @torch.no_grad()
    def call() -> None:
        inputs = x[:, at[0] % x.shape[1]]
        at[0] += 1
        step: Any = model.step if hasattr(model, "step") else None
        held[0] = (step(inputs, held[0]) if step else model(inputs.unsqueeze(1), held[0]))[1]

    return call


@torch.no_grad()
def look(model: nn.Module, x: Tensor) -> None:
    """All steps, without gradients."""
    model(x)


def train(model: nn.Module, x: Tensor) -> None:
    """All steps, forward and backward."""
    model.zero_grad()
    model(x)[0].square().mean().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive, default=8)
    parser.add_argument("--steps", type=positive, default=100)
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    contestants = models()
    x = torch.randn(arguments.rows, arguments.steps, WIDTH)
    columns: dict[str, dict[str, Timing]] = {
        "a step of 1 row": take_turns(
            {name: stepper(model, x[:1]) for name, model in contestants.items()}, STEP_TURNS * arguments.rounds, warm_up=20
        ),
        f"{arguments.rows} rows of {arguments.steps} steps": take_turns(
            {name: partial(look, model, x) for name, model in contestants.items()}, arguments.rounds
        ),
        "the same with gradients": take_turns(
            {name: partial(train, model, x) for name, model in contestants.items()}, arguments.rounds
        ),
    }
    print(f"{place()}\nmilliseconds, medians of {arguments.rounds} turns (a step: {STEP_TURNS * arguments.rounds})\n")
    ratios, times = [["", *columns]], [["", *columns]]
    for name, model in contestants.items():
        cells = [(timings[name], timings[name].median / timings[BASE].median) for timings in columns.values()]
        ratios.append([name, *(f"{short(timing.median * 1e3, 2)} ({short(ratio, 2)})" for timing, ratio in cells)])
        times.append([f"{name}, {numbers(model):,} parameters", *(milliseconds(timing) for timing, _ in cells)])
    print(f"{markdown(ratios)}\n\n{markdown(times)}")
    found = {column: {name: asdict(timing) for name, timing in timings.items()} for column, timings in columns.items()}
    write(arguments.json, {"rows": arguments.rows, "steps": arguments.steps, "figures": found})


if __name__ == "__main__":
    main()
