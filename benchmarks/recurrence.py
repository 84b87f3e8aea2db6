"""The LSTM and the GRU among the baselines against PyTorch's own layers: forward and backward, one token a step.

    python benchmarks/recurrence.py [--layers LSTM,GRU] [--rows 16,1] [--steps 100] [--width 64] [--rounds 15] [--threads 1]
                                    [--json FILE]

"bare" is `torch.nn.LSTM(D, D)` or `torch.nn.GRU(D, D)` and nothing else. "around torch.nn" is what one would write with that
layer to have what the baseline has: the embedding of a step, a norm, the layer, a residual and a head, with the same weights; its
outputs and gradients are compared with the baseline's first. "a reset every 10 steps" resets all rows together. "step by step" is
the baseline's readable twin, one step after the other. "any tokens" is the baseline with `input_tokens=None`, whose embedding
takes any number of tokens. All of a line take turns in one run; medians with quartiles, and how they compare with the bare layer.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from shared import chosen, markdown, milliseconds, place, positive, several, write
from torch import Tensor, nn

import tokenturing as tt
from tokenturing.baselines.base import OutputHead
from tokenturing.baselines.embedding import StepEmbedding
from tokenturing.bench.measure import take_turns
from tokenturing.models.scan import step_by_step

LAYERS = ("LSTM", "GRU")
RESET_EVERY = 10


class Around(nn.Module):
    """What one would write around a recurrent layer of PyTorch's: [B, T, D] -> [B, T, D]."""

    def __init__(self, layer: str, width: int):
        super().__init__()
        self.embedding = StepEmbedding(width, 1)
        self.norm = nn.LayerNorm(width)
        self.recurrent = getattr(nn, layer)(width, width, batch_first=True)
        self.out = nn.Linear(width, width)
        self.head = OutputHead(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x.unsqueeze(-2))
        hidden, _ = self.recurrent(self.norm(x))
        return self.head(x + self.out(hidden)).squeeze(-2)

    def take(self, baseline: Any) -> None:
        """The weights of a baseline of one layer."""
        self.embedding.load_state_dict(baseline.embedding.state_dict())
        self.head.load_state_dict(baseline.head.state_dict())
        layer = baseline.layers[0]
        self.norm.load_state_dict(layer.norm.state_dict())
        self.out.load_state_dict(layer.out.state_dict())
        own = {f"{kind}_{short}_l0": getattr(part, kind) for short, part in parts(layer) for kind in ("weight", "bias")}
        self.recurrent.load_state_dict(own)


def parts(layer: Any) -> list[tuple[str, Any]]:
    """The projections of a layer by the names that PyTorch gives them."""
    return [("ih", layer.input), ("hh", layer.recurrent)]


def train(model: nn.Module, call: Callable[[], Any]) -> None:
    """Forward and backward."""
    model.zero_grad()
    call()[0].square().mean().backward()


def check(baseline: Any, around: Around, x: Tensor) -> None:
    """Both have the same outputs, and gradients of what is recurrent."""
    train(around, lambda: (around(x),))
    train(baseline, lambda: baseline(x))
    torch.testing.assert_close(around(x), baseline(x)[0], rtol=1e-3, atol=1e-4)
    for short, part in parts(baseline.layers[0]):
        theirs = getattr(around.recurrent, f"weight_{short}_l0").grad
        torch.testing.assert_close(part.weight.grad, theirs, rtol=1e-2, atol=1e-3 * float(theirs.abs().max()))


def contestants(layer: str, rows: int, steps: int, width: int) -> dict[str, Callable[[], None]]:
    """What trains each by one call, by name."""
    torch.manual_seed(0)
    x = torch.randn(rows, steps, width)
    bare = getattr(nn, layer)(width, width, batch_first=True)
    around = Around(layer, width)
    baseline = getattr(tt.baselines, layer)(width, input_tokens=1)
    any_tokens = getattr(tt.baselines, layer)(width)
    around.take(baseline)
    check(baseline, around, x)
    reset = torch.zeros(rows, steps, dtype=torch.bool)
    reset[:, RESET_EVERY::RESET_EVERY] = True

    def slowly() -> tuple[Tensor, Any]:
        return step_by_step(baseline, baseline.initial_state(rows), x.unsqueeze(-2), None, None, None)

    return {
        "bare": partial(train, bare, lambda: bare(x)),
        "around torch.nn": partial(train, around, lambda: (around(x),)),
        "baseline": partial(train, baseline, lambda: baseline(x)),
        "a reset every 10 steps": partial(train, baseline, lambda: baseline(x, reset=reset)),
        "step by step": partial(train, baseline, slowly),
        "any tokens": partial(train, any_tokens, lambda: any_tokens(x)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default=",".join(LAYERS))
    parser.add_argument("--rows", type=several, default=[16, 1])
    parser.add_argument("--steps", type=positive, default=100)
    parser.add_argument("--width", type=positive, default=64)
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    layers = chosen(parser, "--layers", arguments.layers, LAYERS)
    torch.set_num_threads(arguments.threads)
    print(f"{place()}\nwidth {arguments.width}, {arguments.steps} steps, medians of {arguments.rounds} turns\n")
    ratios: list[list[str]] = []
    times: list[list[str]] = []
    found = []
    for layer in layers:
        for rows in arguments.rows:
            timings = take_turns(contestants(layer, rows, arguments.steps, arguments.width), arguments.rounds)
            base = timings["bare"].median
            for table, cells in (
                (ratios, [f"{timing.median / base:.2f}" for timing in timings.values()]),
                (times, [milliseconds(timing) for timing in timings.values()]),
            ):
                if not table:
                    table.append(["", "rows", *timings])
                table.append([layer, str(rows), *cells])
            found.append({"layer": layer, "rows": rows, **{name: asdict(timing) for name, timing in timings.items()}})
    print(f"{markdown(ratios)}\n\n{markdown(times)}")
    write(arguments.json, {"width": arguments.width, "steps": arguments.steps, "figures": found})


if __name__ == "__main__":
    main()
