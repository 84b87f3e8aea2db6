"""A training step of the machine against a plain loop: the paper's equations written straight down (tokenturing.bench.plain).

    python benchmarks/training_step.py [--size recall|small|one|paper] [--rows N] [--steps T] [--models NAME,...]
                                       [--threads 1] [--rounds 9] [--json FILE]

"recall" is the machine of recipes/recall.toml without its look back (64 rows, 24 steps), "small" one of two layers
(width 64, M 16, R 8; 32 rows, 16 steps), "one" one row of 100 steps (width 64, M 16, R 4, one layer), "paper" width 512,
M 96, R 16, 4 layers (8 rows, 24 steps). All have the same parameters and inputs, the gradients of those in float32 are compared
first, and all take turns in one run: the figure is the ratio of medians; in brackets are quartiles. "step by step" is the machine
with `fast = False`, each step of which is autograd's; "compiled" and bfloat16 go step by step too.

The first update of each is timed too, of a model that has made none. What the process has to do once is done before, by a machine
of another size. What torch.compile left on the disk in earlier runs counts: to have it compile anew, give it an empty folder
(`TORCHINDUCTOR_CACHE_DIR=$(mktemp -d)`).
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import torch
from shared import chosen, markdown, milliseconds, place, positive, write
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
MODELS = ("plain loop", "step by step", "tokenturing", "bfloat16", "compiled", "compiled bfloat16")
BASES = MODELS[:2]


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


def contestant(name: str, base: tt.TokenTuringMachine, x: Tensor) -> tuple[tt.TokenTuringMachine, Callable[[], None]]:
    """A machine of its own with the base's weights, and what trains it by one step."""
    model = tt.TokenTuringMachine(**base.config)
    model.load_state_dict(base.state_dict())
    if "compiled" in name:
        model.cell.compile(dynamic=False)
    how = {"plainly": name == "plain loop", "half": "bfloat16" in name, "fast": name != "step by step"}
    return model, partial(train, model, x, **how)


def warm_up() -> None:
    """What the first call of a process pays, whoever makes it."""
    other = tt.TokenTuringMachine(width=16, memory_tokens=3, read_tokens=2, layers=1, heads=2, input_tokens=2)
    for plainly, half in ((True, False), (False, False), (False, True)):
        train(other, torch.randn(2, 3, 2, 16), plainly=plainly, half=half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="recall")
    parser.add_argument("--rows", type=positive, help="B, in place of the size's own")
    parser.add_argument("--steps", type=positive, help="T, in place of the size's own")
    parser.add_argument("--models", default=",".join(MODELS), help=f"some of these: {', '.join(MODELS)}")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    names = chosen(parser, "--models", arguments.models, MODELS)
    torch.set_num_threads(arguments.threads)
    options, rows, steps = SIZES[arguments.size]
    rows, steps = arguments.rows or rows, arguments.steps or steps
    torch.manual_seed(0)
    base = tt.TokenTuringMachine(**options)
    x = torch.randn(rows, steps, options["input_tokens"], options["width"])
    warm_up()
    calls, first, wanted = {}, {}, None
    for name in names:
        model, calls[name] = contestant(name, base, x)
        began = time.perf_counter()
        calls[name]()
        first[name] = time.perf_counter() - began
        if "bfloat16" in name:
            continue
        wanted = wanted or gradients(model)
        for ours, theirs in zip(gradients(model), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()) + 1e-7)
    timings = take_turns(calls, arguments.rounds, warm_up=2)
    bases = [name for name in BASES if name in names]
    print(f"{place()}\n{arguments.size}: {rows} rows x {steps} steps, medians of {arguments.rounds} turns\n")
    table = [["", "ms", *(f"of {base}" for base in bases), "first update, s"]]
    for name, timing in timings.items():
        shares = [f"{timing.median / timings[other].median:.2f}" for other in bases]
        table.append([name, milliseconds(timing), *shares, f"{first[name]:.2f}"])
    print(markdown(table))
    found = {name: {**asdict(timing), "first": first[name]} for name, timing in timings.items()}
    write(arguments.json, {"size": arguments.size, "rows": rows, "steps": steps, "models": found})


if __name__ == "__main__":
    main()
