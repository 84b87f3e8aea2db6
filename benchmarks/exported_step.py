"""A step of an exported model against the same step of PyTorch, in turns.

    python benchmarks/exported_step.py [CHECKPOINT] [--width D] [--int8-from WEIGHTS] [--batches 1,8] [--rounds 300] [--threads 1]

PyTorch's is called on tensors that are there already; the export's goes from numpy to numpy. Medians with quartiles, and how they
compare with PyTorch's. --width takes an untrained machine of that width in place of a checkpoint (20 memory tokens, 12 read, one
layer, 4 inputs); --int8-from rounds smaller matrices too, to see whether that would pay. (`tokenturing bench step` does this for
untrained machines of two sizes, and their peers.)
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from shared import positive, several

import tokenturing as tt
from tokenturing.bench.measure import take_turns
from tokenturing.errors import OptionError
from tokenturing.export import export_onnx, quantize
from tokenturing.models.flat import FlatStep, example
from tokenturing.runtime.machine import MASK


def stepper(step: Callable[[Any], tuple[Any, Any]], state: Any) -> Callable[[], None]:
    """A call makes one step from where the last one ended."""
    held = [state]

    def call() -> None:
        held[0] = step(held[0])[1]

    return call


@torch.inference_mode()
def eager_step(graph: FlatStep, inputs: tuple[torch.Tensor, ...], leaves: tuple[torch.Tensor, ...]) -> tuple[Any, Any]:
    y, *others = graph(inputs, leaves)
    return y, tuple(others[: len(leaves)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="recall-ttm")
    parser.add_argument("--width", type=positive, help="D of an untrained machine, in place of the checkpoint")
    parser.add_argument(
        "--int8-from", type=positive, default=quantize.LEAST, help="weights of the smallest matrix that is rounded"
    )
    parser.add_argument("--batches", type=several, default=[1, 8])
    parser.add_argument("--rounds", type=positive, default=300)
    parser.add_argument("--threads", type=positive, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    quantize.LEAST = arguments.int8_from
    model = (
        tt.TokenTuringMachine(arguments.width, 20, 12, 1, 4, input_tokens=4) if arguments.width else tt.load(arguments.checkpoint)
    )
    graph, machines = FlatStep(model), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("float32", "int8"):
            try:
                path = export_onnx(model, Path(folder) / name, precision=name)
            except OptionError as error:
                print(f"{name}: {error}")
                continue
            machines[name] = tt.runtime.load(path, threads=arguments.threads)
    for rows in arguments.batches:
        inputs = example(graph.signature, rows)
        calls = {"eager": stepper(partial(eager_step, graph, tuple(inputs.values())), tuple(graph.initial_leaves(rows).values()))}
        arrays = {name: part.numpy() for name, part in inputs.items()}
        mask = arrays.pop(MASK, None)
        for name, machine in machines.items():
            calls[name] = stepper(partial(machine.step, arrays, token_mask=mask), machine.initial_state(rows))
        timings = take_turns(calls, arguments.rounds, warm_up=20)
        for name, one in timings.items():
            ratio = one.median / timings["eager"].median
            print(f"{rows} rows  {name:8} {one.median * 1e3:.3f} ms ({one.low * 1e3:.3f}-{one.high * 1e3:.3f})  {ratio:.2f}")


if __name__ == "__main__":
    main()
