"""A model's step as an ONNX graph, for `tokenturing.runtime`."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from tokenturing.errors import CheckpointError, MissingExtraError, OptionError, choose
from tokenturing.files import write_folder
from tokenturing.models.flat import FREE, ROWS, FlatAsk, FlatStep, example
from tokenturing.runtime.machine import ANSWERS, ASKED, DESCRIPTION, GRAPH, INITIAL, MASK, load

PRECISIONS = ("float32", "int8", "bf16")
TOLERANCE = 1e-4
"""of the largest value, between the float32 graph and the model, on a step with random inputs"""


def export_onnx(model: nn.Module, folder: str | Path, *, precision: str = "float32") -> Path:
    """Write a model to a folder that `tokenturing.runtime.load` reads.

    Args:
        model: one that streams (`tokenturing.models.contract.StreamModel`); its state must not grow.
        folder: is made; an older export in it is replaced.
        precision: "float32"; "int8": weights of matrix products in 8 bits, their inputs rounded when they come; "bf16": the
            float32 graph, which the runtime computes in bfloat16.

    Raises:
        OptionError: the model cannot be exported.
        CheckpointError: the folder holds something else, or the graph does not compute what the model does.
        MissingExtraError: onnx is not installed.
    """
    choose("precision", precision, PRECISIONS)
    folder = Path(folder)
    if folder.exists() and not ((folder / DESCRIPTION).is_file() or _is_empty_folder(folder)):
        raise CheckpointError(f"{folder} is there and holds no export: expected a folder, or a name that is free")
    graph = FlatStep(model)
    if graph.growing:
        raise OptionError(
            f"the state's {', '.join(graph.growing)} grows with the stream: expected a model whose state keeps its size"
        )

    def write(aside: Path) -> None:
        _write_graph(graph, aside / GRAPH)
        if graph.queries:
            _write_answers(graph, aside / ANSWERS)
        save_file(graph.initial_leaves(1), aside / INITIAL)
        _describe(aside, graph.description("float32"))
        _compare(graph, aside)
        if precision == "int8":
            _quantize(aside / GRAPH)
        _describe(aside, graph.description(precision))

    write_folder(folder, write)
    return folder


def _describe(folder: Path, description: dict[str, Any]) -> None:
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _is_empty_folder(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


@torch.no_grad()
def _write_graph(graph: FlatStep, file: Path) -> None:
    rows = torch.export.Dim("batch")
    letters = {size for one in graph.signature.values() for size in one.shape if isinstance(size, str)}
    free = {letter: torch.export.Dim(f"free_{letter}") for letter in letters}
    dynamic = tuple(
        {0: rows} | {axis: free[size] for axis, size in enumerate(one.shape, start=1) if isinstance(size, str)}
        for one in graph.signature.values()
    )
    inputs = example(graph.signature)
    leaves = tuple(graph.initial_leaves(ROWS).values())
    _save(
        graph,
        (tuple(inputs.values()), leaves),
        file,
        input_names=[*inputs, *graph.names],
        output_names=["y", *(f"next_{name}" for name in graph.names), *graph.observed],
        dynamic_shapes=(dynamic, tuple({0: rows} for _ in leaves)),
    )


@torch.no_grad()
def _write_answers(graph: FlatStep, file: Path) -> None:
    rows, asked = torch.export.Dim("batch"), torch.export.Dim("asked")
    _save(
        FlatAsk(graph),
        (graph.output, torch.zeros(ROWS, FREE, dtype=torch.int64)),
        file,
        input_names=list(ASKED),
        output_names=["answers"],
        dynamic_shapes=({0: rows}, {0: rows, 1: asked}),
    )


def _save(module: nn.Module, arguments: tuple[Any, ...], file: Path, **names: Any) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("onnxscript", "export") from error
    with _quiet():
        program = torch.onnx.export(module, arguments, dynamo=True, verbose=False, **names)
    assert program is not None
    program.save(str(file), external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of operators of packages that are not used here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _quantize(file: Path) -> None:
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "export") from error
    quantized = file.with_suffix(".int8")
    # Without the processor's 8-bit dot product, sums of two products overflow unless a bit of the range is left free.
    quantize_dynamic(file, quantized, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    quantized.replace(file)


@torch.no_grad()
def _compare(graph: FlatStep, folder: Path) -> None:
    """One step of both, of more rows than the graph was traced with."""
    inputs = {name: torch.cat([part, part.flip(0)[:1]]) for name, part in example(graph.signature).items()}
    rows = len(next(iter(inputs.values())))
    leaves = graph.initial_leaves(rows).values()
    expected = [part.numpy() for part in graph(tuple(inputs.values()), tuple(leaves))]
    runtime = load(folder, threads=1)
    arrays = {name: part.numpy() for name, part in inputs.items()}
    mask = arrays.pop(MASK, None)
    y, state, perceived = runtime.step_and_perceive(arrays, runtime.initial_state(rows), token_mask=mask)
    names, found = ["y", *graph.names, *graph.observed], [y, *state, *perceived.values()]
    if graph.queries:
        queries = torch.arange(graph.queries).expand(rows, -1)
        names.append("answers")
        found.append(runtime.ask(y, queries.numpy()))
        expected.append(FlatAsk(graph)(torch.from_numpy(y), queries).numpy())
    for name, came, wanted in zip(names, found, expected, strict=True):
        error = float(np.abs(came.astype(np.float64) - wanted).max())
        if not error <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise CheckpointError(f"the exported graph's {name} is {error:.2g} off the model's: please report it")
