"""A training step of the recall machine against a plain loop: the paper's equations written straight down.

    python benchmarks/training_step.py [--json FILE]

Both have the same parameters (the twin borrows them), the same inputs and the same gradients; they take turns in one
run, and the figure is the ratio of their medians.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

import tokenturing as tt
from tokenturing.memory.write import WRITTEN, GatedWrite
from tokenturing.models.cell import MachineState


def plain_step(model: tt.TokenTuringMachine, x: Tensor, state: MachineState) -> tuple[Tensor, MachineState]:
    """One step with nothing taken out of the loop: concatenate, summarise, process, attend, gate."""
    cell, write = model.cell, model.cell.write
    assert isinstance(write, GatedWrite)
    tokens = cell.positions.memory(state.memory) + cell.clock(state.memory, state.age)  # type: ignore[misc]
    everything = torch.cat([tokens, cell.positions.input(x)], dim=1)
    weights = cell.read.score(everything).softmax(dim=1)
    output = cell.processor(weights.transpose(1, 2) @ everything)
    sources = torch.cat([write.positions.input(x), write.positions.output(output)], dim=1)
    key, value = write.key_value(write.token_norm(sources)).chunk(2, dim=-1)
    slot = write.slot_norm(tokens)
    heads = write.attention_heads

    def split(part: Tensor) -> Tensor:
        return part.unflatten(-1, (heads, -1)).transpose(1, 2)

    query, key, value = split(write.query(slot)), split(key), split(value)
    scores = (query @ key.transpose(-1, -2)) / query.shape[-1] ** 0.5
    candidate = write.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(-2))
    oldest = (state.age >= state.age.amax(dim=1, keepdim=True)).unsqueeze(-1)
    gate = F.hardsigmoid(write.gate(torch.cat([slot, candidate], dim=-1)) + write.oldest * oldest)
    age = (state.age + 1).masked_fill(gate.squeeze(-1) >= WRITTEN, 0.0)
    return output, MachineState(state.memory + gate * (candidate - state.memory), age)


def plain(model: tt.TokenTuringMachine, x: Tensor) -> tuple[Tensor, MachineState]:
    """T steps, one after the other."""
    state = model.initial_state(x.shape[0])
    outputs = []
    for t in range(x.shape[1]):
        y, state = plain_step(model, x[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def seconds(model: tt.TokenTuringMachine, run: object, x: Tensor) -> float:
    """One forward and backward pass."""
    model.zero_grad()
    began = time.perf_counter()
    y, state = run(x)  # type: ignore[operator]
    (y.square().mean() + state.memory.square().mean()).backward()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = tt.TokenTuringMachine(64, 16, 8, 2, 4, input_tokens=5, hidden=128)
    x = torch.randn(32, 16, 5, 64)
    runs = {"plain loop": lambda x: plain(model, x), "tokenturing": model}
    torch.testing.assert_close(runs["plain loop"](x)[0], model(x)[0], rtol=1e-4, atol=1e-5)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            times[name].append(seconds(model, run, x))
    medians = {name: statistics.median(found) for name, found in times.items()}
    ratio = medians["tokenturing"] / medians["plain loop"]
    for name, median in medians.items():
        print(f"{name:12} {median * 1e3:8.1f} ms a training step of 32 rows x 16 steps")
    print(f"ratio {ratio:.2f}, torch {torch.__version__}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"seconds": times, "ratio": ratio, "torch": torch.__version__}, file)


if __name__ == "__main__":
    main()
