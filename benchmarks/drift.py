"""How far exported models drift from the float32 model of PyTorch on long streams of the recall task.

    python benchmarks/drift.py [CHECKPOINT] [--steps 100000] [--json FILE]

Two rows, digits seen and heard among background as in the task, in some streams nothing heard or nothing seen; the first row is
never reset, the second every few hundred steps. Precisions that are not offered for the model are left out. At each power of
ten: the largest difference of the logits since the last one, in parts of the largest logit, and how often the answers to all
questions, asked at every hundredth step, were the same.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tokenturing as tt
from tokenturing.errors import MissingExtraError, OptionError
from tokenturing.export import eager, export_onnx
from tokenturing.tasks.recall.voices.bank import cached_bank
from tokenturing.tasks.recall.world.plans import RecallConfig
from tokenturing.tasks.recall.world.questions import QUESTIONS
from tokenturing.tasks.recall.world.streams import RecallStreams

PRECISIONS = ("float32", "int8", "bf16")
ROWS = 2
RESETS = 0.004
"""of the second row, a step"""
ASK_EVERY = 100
CHUNK = 250


def steps_of_the_task() -> Iterator[dict[str, np.ndarray]]:
    """Inputs [B, ...], step after step; streams follow one another without a reset."""
    streams = RecallStreams(range(ROWS), CHUNK, cached_bank("test"), RecallConfig(split="test", without_modality=0.3), seed=7)
    for batch in streams:
        for t in range(CHUNK):
            yield {name: part[:, t].numpy() for name, part in batch.inputs._asdict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="recall-ttm")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = tt.load(arguments.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        machines = {"eager": eager(model)}
        for name in PRECISIONS:
            try:
                machines[name] = tt.runtime.load(export_onnx(model, Path(folder) / name, precision=name), threads=1)
            except (OptionError, MissingExtraError) as error:
                print(f"{name}: {error}")
    offered = [name for name in machines if name != "eager"]
    states = {name: machine.initial_state(ROWS) for name, machine in machines.items()}
    resets = np.random.default_rng(0)
    worst, same, asked = dict.fromkeys(offered, 0.0), dict.fromkeys(offered, 0), 0
    rows: list[dict[str, Any]] = []
    for step, inputs in zip(range(1, arguments.steps + 1), steps_of_the_task(), strict=False):
        y = {}
        if resets.random() < RESETS:
            states = {name: machine.reset(states[name], [1]) for name, machine in machines.items()}
        for name, machine in machines.items():
            y[name], states[name] = machine.step(inputs, states[name])
        if step % ASK_EVERY == 0:
            logits = {name: machine.ask(y[name], [range(len(QUESTIONS))] * ROWS) for name, machine in machines.items()}
            wanted = logits["eager"]
            asked += ROWS * len(QUESTIONS)
            for name in offered:
                worst[name] = max(worst[name], float(np.abs(logits[name] - wanted).max() / np.abs(wanted).max()))
                same[name] += int((logits[name].argmax(-1) == wanted.argmax(-1)).sum())
        if step == arguments.steps or (step >= ASK_EVERY and np.log10(step).is_integer()):
            for name in offered:
                row = {"precision": name, "steps": step, "largest": worst[name], "same": same[name] / asked}
                rows.append(row | {"asked": asked})
                print("{steps:7} steps  {precision:8} largest difference {largest:.1e}, same answers {same:.4f}".format(**row))
            worst, same, asked = dict.fromkeys(offered, 0.0), dict.fromkeys(offered, 0), 0
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
