"""Every exported graph against the model in PyTorch, before anyone uses it."""

from pathlib import Path

import numpy as np
import torch

from tokenturing.errors import CheckpointError
from tokenturing.models.flat import FlatAsk, FlatStep, example
from tokenturing.runtime.engines import Array
from tokenturing.runtime.machine import MASK, load

TOLERANCE = {"float32": 1e-4, "bf16": 0.5, "int8": 0.5}
"""of the largest value, in a small type of the mean size; that is near on what a model was trained for, and these inputs are
random"""
REASON = {
    "float32": "A step must give the same whenever it gets the same",
    "bf16": "This model loses too much in bfloat16: export it in float32",
    "int8": "This model loses too much in 8 bits: export it in float32",
}
SMALLEST = 1e-3
"""of a largest value: what is smaller may be the rest of larger ones that cancelled"""
STEPS = 3
BATCHES = (1, 3)
"""rows: not as many as the graph was traced with, which it must not have kept"""


@torch.no_grad()
def compare(graph: FlatStep, folder: Path, precision: str) -> float:
    """A few steps of both -> how far y of the graph is off, as a share of its largest value.

    In float32 all outputs and the state are compared; in a small type y and what is perceived, both going on with the graph's
    state: whether a slot is written can be a close call, after which two states have little in common.

    Raises:
        CheckpointError: it is another function.
    """
    return max(_compare_rows(graph, folder, precision, rows) for rows in BATCHES)


def _compare_rows(graph: FlatStep, folder: Path, precision: str, rows: int) -> float:
    runtime, worst = load(folder, threads=1), 0.0
    leaves, state = tuple(graph.initial_leaves(rows).values()), runtime.initial_state(rows)
    for step in range(STEPS):
        inputs = {name: part.roll(step, -1) for name, part in example(graph.signature, rows).items()}
        outputs = graph(tuple(inputs.values()), leaves)
        wanted_y, leaves = outputs[0], outputs[1 : len(leaves) + 1]
        arrays = {name: part.numpy() for name, part in inputs.items()}
        mask = arrays.pop(MASK, None)
        y, state, perceived = runtime.step_and_perceive(arrays, state, token_mask=mask)
        found = {"y": (y, wanted_y)}
        found |= dict(zip(graph.observed, zip(perceived.values(), outputs[len(leaves) + 1 :], strict=True), strict=True))
        if graph.queries:
            queries = torch.arange(graph.queries).expand(rows, -1)
            found["answers"] = runtime.ask(y, queries.numpy()), FlatAsk(graph)(torch.from_numpy(y), queries)
        if precision != "float32":
            leaves = tuple(torch.from_numpy(np.array(leaf)) for leaf in state)
        else:
            found |= dict(zip(graph.names, zip(state, leaves, strict=True), strict=True))
        errors = {}
        for name, (came, wanted) in found.items():
            errors[name] = error = (distance if precision == "float32" else typical_distance)(came, wanted.numpy())
            if not error <= TOLERANCE[precision]:
                raise CheckpointError(
                    f"the exported graph's {name} is off the model's by {error:.2g} of its size, with {rows} rows at "
                    f"step {step}: expected at most {TOLERANCE[precision]:g}. {REASON[precision]}"
                )
        worst = max(worst, errors["y"])
    return worst


def typical_distance(came: Array, wanted: Array) -> float:
    """The mean difference, as a share of the mean size: in a small type single numbers may be far off, as where a threshold
    is just missed on inputs that were drawn at random, and another function is off everywhere."""
    far = distance(came, wanted)
    if not np.isfinite(far) or not came.size or wanted.dtype.kind != "f":
        return far
    finite = np.isfinite(wanted) & np.isfinite(came)
    difference = np.abs(came - wanted, where=finite, out=np.zeros_like(wanted)).mean()
    return float(difference) / max(float(np.abs(wanted, where=finite, out=np.zeros_like(wanted)).mean()), SMALLEST)


def distance(came: Array, wanted: Array) -> float:
    """The largest difference, as a share of the largest value; equal infinities and NaN at the same places are none."""
    if came.shape != wanted.shape or came.dtype != wanted.dtype:
        return float("inf")
    if not came.size:
        return 0.0
    if wanted.dtype.kind != "f":
        return float(not np.array_equal(came, wanted))
    same = (came == wanted) | (np.isnan(came) & np.isnan(wanted))
    with np.errstate(invalid="ignore"):
        differences = np.where(same, 0.0, np.abs(came.astype(np.float64) - wanted))
    largest = np.abs(wanted, where=np.isfinite(wanted), out=np.zeros_like(wanted)).max()
    error = float(differences.max()) / max(float(largest), SMALLEST)
    return float("inf") if np.isnan(error) else error
