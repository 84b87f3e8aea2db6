"""A model's step as an ONNX graph, for `tokenturing.runtime`."""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save
from torch import nn

from tokenturing.checkpoint import fingerprint
from tokenturing.errors import CheckpointError, OptionError, a, choose
from tokenturing.export.compare import compare
from tokenturing.export.fuse import OPSET, TRANSLATIONS, fuse
from tokenturing.export.own import OwnModel
from tokenturing.extras import require
from tokenturing.files import write_folder
from tokenturing.files.places import check_place
from tokenturing.models.contract import StreamModel
from tokenturing.models.flat import FREE, ROWS, FlatAsk, FlatStep, example
from tokenturing.runtime.machine import ANSWERS, ASKED, DESCRIPTION, GRAPH, INITIAL

PRECISIONS = ("float32", "int8", "bf16")
UNKNOWN_TO_NUMPY = (torch.bfloat16, torch.complex32, torch.complex64, torch.complex128)
"""no numpy, or no graph, has them"""


def export_onnx(model: nn.Module, folder: str | Path, *, inputs: Any = None, precision: str = "float32") -> Path:
    """Write a model to a folder that `tokenturing.runtime.load` reads, after comparing the graph with the model.

    Args:
        model: one of this package, or any module with `initial_state(B) -> state` and `step(inputs, state) -> y, state`, where
            inputs, state and y are tensors [B, ...] or trees of them; the state must not grow.
        folder: is made; an older export in it is replaced.
        inputs: one step's inputs as an example, any number of rows; for a module that has no `signature`. All sizes but B are
            kept.
        precision: "float32"; "int8": weights of matrix products in 8 bits, their inputs rounded when they come; "bf16": the
            float32 graph, which the runtime computes in bfloat16.

    Raises:
        OptionError: the model cannot be exported.
        CheckpointError: the folder holds something else, or the graph does not compute what the model does.
        MissingExtraError: onnx, or what runs the graph, is not installed.
    """
    choose("precision", precision, PRECISIONS)
    require("export", *(["bf16"] if precision == "bf16" else []))
    folder = Path(folder)
    if folder.exists() and not ((folder / DESCRIPTION).is_file() or _is_empty_folder(folder)):
        raise CheckpointError(f"{folder} is there and holds no export: expected a folder, or a name that is free")
    check_place("folder", folder, folder=True)
    _check_types(model, precision)
    graph = flat_step(model, inputs)
    if graph.growing:
        raise OptionError(
            f"the state's {', '.join(sorted(graph.growing))} grows with the stream: expected a model whose state keeps its size"
        )

    def write(aside: Path) -> None:
        _write_graph(graph, aside / GRAPH)
        if graph.queries:
            _write_answers(graph, aside / ANSWERS)
        leaves = {name: leaf.detach().numpy() for name, leaf in graph.initial_leaves(1).items()}
        (aside / INITIAL).write_bytes(save(leaves))
        _describe(aside, _description(model, graph, "float32"))
        off = compare(graph, aside, "float32")
        if precision != "float32":
            if precision == "int8":
                from tokenturing.export.quantize import quantize

                quantize(aside / GRAPH)
            _describe(aside, _description(model, graph, precision))
            off = compare(graph, aside, precision)
        _describe(aside, _description(model, graph, precision) | {"off": float(f"{off:.2g}")})

    write_folder(folder, write)
    return folder


def flat_step(model: nn.Module, inputs: Any = None) -> FlatStep:
    """The model's step as it is traced, on the CPU.

    Raises:
        OptionError: the model cannot be exported.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"{a(type(model))} cannot be exported: expected a torch.nn.Module")
    if any(tensor.device.type != "cpu" for tensor in [*model.parameters(), *model.buffers()]):
        model = copy.deepcopy(model).cpu()
    graph = FlatStep(model if isinstance(model, StreamModel) else OwnModel(model, inputs))
    parts = [(f"input {name}", one.dtype) for name, one in graph.signature.items()]
    parts += [(f"state's {name}", leaf.dtype) for name, leaf in graph.initial_leaves(1).items()]
    for name, dtype in [*parts, ("output", graph.output.dtype)]:
        if dtype in UNKNOWN_TO_NUMPY:
            raise OptionError(
                f"the {name} has type {dtype}, which no runtime takes: expected float32, whole numbers or bool; a complex number "
                "can be two real ones (torch.view_as_real)"
            )
    return graph


def _check_types(model: nn.Module, precision: str) -> None:
    for name, parameter in model.named_parameters() if isinstance(model, nn.Module) else ():
        if parameter.dtype != torch.float32:
            smaller = "" if precision == "bf16" else '; precision="bf16" has the runtime compute in bfloat16'
            raise OptionError(
                f"{name} has type {parameter.dtype}: expected a model in float32; export copy.deepcopy(model).float(){smaller}"
            )


def _description(model: nn.Module, graph: FlatStep, precision: str) -> dict[str, Any]:
    """What `tokenturing.runtime` has to know, of a module of the user's own by its own name."""
    found = graph.description(precision)
    if isinstance(graph.model, OwnModel):
        found["class_name"] = type(model).__name__
        with suppress(CheckpointError):  # without a config, the hash of its weights serves
            found["fingerprint"] = fingerprint(model)
    return found


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
    with _quiet():
        try:
            program = torch.onnx.export(
                module, arguments, dynamo=True, verbose=False, opset_version=OPSET, custom_translation_table=TRANSLATIONS, **names
            )
        except torch.onnx.OnnxExporterError as error:
            raise OptionError(
                f"the step cannot be written as a graph: {_reason(error)}. Branches on values, loops of a length that depends on "
                "them and numbers of rows taken from an example (write x.shape[0], or -1) are the usual causes"
            ) from error
    assert program is not None
    program.model = fuse(program.model)
    program.save(str(file), external_data=False)


def _reason(error: BaseException) -> str:
    """The first line of what was raised first: the exporter wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:")


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
