"""A model's step as an ONNX graph, for `tokenturing.runtime`."""

import copy
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tokenturing import state as states
from tokenturing.checkpoint import fingerprint
from tokenturing.errors import CheckpointError, MissingExtraError, OptionError, choose
from tokenturing.files import beside
from tokenturing.models.contract import RecurrentModel
from tokenturing.models.recall import SOUND_FEATURES, RecallInput, RecallModel
from tokenturing.runtime import DESCRIPTION, FORMAT_VERSION, GRAPH, INITIAL, MASK, Runtime
from tokenturing.tasks.scenes import SIZE

PRECISIONS = ("float32", "int8")
TOLERANCE = 1e-4
"""of the largest value, between the float32 graph and the model, on a step of chance"""


class StepGraph(nn.Module):
    """One step with flat inputs and outputs: (inputs ..., leaves of the state ...) -> (y, leaves ...)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.like = model.initial_state(1)  # type: ignore[operator]
        self.names = [name for name, _ in states.leaves(self.like)]

    def forward(self, inputs: tuple[Tensor, ...], leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        state = states.rebuild(self.like, dict(zip(self.names, leaves, strict=True)))
        if isinstance(self.model, RecallModel):
            y, state = self.model.step(RecallInput(*inputs), state)
        else:
            y, state = self.model.step(inputs[0], state, token_mask=inputs[1])  # type: ignore[operator]
        return (y, *(leaf for _, leaf in states.leaves(state)))


def export_onnx(model: nn.Module, folder: str | Path, *, precision: str = "float32") -> Path:
    """Write a model to a folder that `tokenturing.runtime.load` reads.

    Args:
        model: a recurrent model, or a model of the recall task with its eyes and ears; its state must not grow.
        folder: is made; an older export in it is replaced.
        precision: "float32", or "int8": weights of matrix products in 8 bits, their inputs rounded when they come.

    Raises:
        OptionError: the model cannot be exported.
        CheckpointError: the folder holds something else, or the graph does not compute what the model does.
        MissingExtraError: onnx is not installed.
    """
    choose("precision", precision, PRECISIONS)
    folder = Path(folder)
    if folder.exists() and not ((folder / DESCRIPTION).is_file() or _is_empty_folder(folder)):
        raise CheckpointError(
            f"{folder} is there and holds no export: expected a folder, or a name that is free"
        )
    if isinstance(model, RecallModel):
        original, model = fingerprint(model), model.without_facts()
    elif isinstance(model, RecurrentModel):
        original, model = fingerprint(model), copy.deepcopy(model)
    else:
        raise OptionError(f"a {type(model).__name__} cannot be exported: expected a recurrent model")
    graph = StepGraph(model.eval())
    inputs = _example(model)
    _refuse_growing(model, graph, inputs)
    aside = beside(folder.absolute())
    aside.mkdir(parents=True)
    try:
        with torch.no_grad():
            _write_graph(graph, inputs, aside / GRAPH)
            leaves = {name: leaf.contiguous() for name, leaf in states.leaves(model.initial_state(1))}  # type: ignore[operator]
        save_file(leaves, aside / INITIAL)
        if precision == "int8":
            _quantize(aside / GRAPH)
        description = {
            "format_version": FORMAT_VERSION, "class_name": type(model).__name__, "precision": precision,
            "fingerprint": original, "inputs": _described(inputs, model), "state": list(leaves),
        }  # fmt: skip
        (aside / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        if precision == "float32":
            _compare(graph, inputs, aside)
        _replace(folder, aside)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _is_empty_folder(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _example(model: nn.Module, rows: int = 2) -> dict[str, Tensor]:
    """Inputs of chance, by name."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(model, RecallModel):
        return {
            "frames": torch.rand(rows, SIZE, SIZE, generator=generator),
            "sound": torch.randn(rows, SOUND_FEATURES, generator=generator),
            "question": torch.arange(rows) - 1,
            "has_frame": torch.ones(rows, dtype=torch.bool),
            "has_sound": torch.ones(rows, dtype=torch.bool),
        }
    assert isinstance(model, RecurrentModel)
    tokens = model.input_tokens or 3
    return {
        "x": torch.randn(rows, tokens, model.width, generator=generator),
        MASK: torch.ones(rows, tokens, dtype=torch.bool),
    }


def _described(inputs: dict[str, Tensor], model: nn.Module) -> list[dict[str, Any]]:
    free = isinstance(model, RecurrentModel) and model.input_tokens is None
    return [
        {
            "name": name,
            "shape": ["B", *(("N", *part.shape[2:]) if free else part.shape[1:])],
            "dtype": str(part.dtype).removeprefix("torch."),
        }
        for name, part in inputs.items()
    ]


def _refuse_growing(model: nn.Module, graph: StepGraph, inputs: dict[str, Tensor]) -> None:
    rows = len(next(iter(inputs.values())))
    before = [leaf for _, leaf in states.leaves(model.initial_state(rows))]  # type: ignore[operator]
    with torch.no_grad():
        after = graph(tuple(inputs.values()), tuple(before))[1:]
    for name, first, second in zip(graph.names, before, after, strict=True):
        if first.shape != second.shape:
            raise OptionError(
                f"the state's {name} grows with the stream: expected a model whose state keeps its size"
            )


def _write_graph(graph: StepGraph, inputs: dict[str, Tensor], file: Path) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("onnxscript", "export") from error
    rows = torch.export.Dim("batch")
    dynamic: dict[int, Any] = {0: rows}
    model = graph.model
    if isinstance(model, RecurrentModel) and model.input_tokens is None:
        dynamic[1] = torch.export.Dim("tokens")
    count = len(next(iter(inputs.values())))
    leaves = tuple(leaf for _, leaf in states.leaves(model.initial_state(count)))  # type: ignore[operator]
    with _quiet():
        program = torch.onnx.export(
            graph, (tuple(inputs.values()), leaves), dynamo=True, verbose=False,
            input_names=[*inputs, *graph.names], output_names=["y", *(f"next_{name}" for name in graph.names)],
            dynamic_shapes=(tuple(dynamic for _ in inputs), tuple({0: rows} for _ in leaves)),
        )  # fmt: skip
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


def _compare(graph: StepGraph, inputs: dict[str, Tensor], folder: Path) -> None:
    """One step of both, of more rows than the graph was traced with."""
    wide = {name: torch.cat([part, part.flip(0)[:1]]) for name, part in inputs.items()}
    rows = len(next(iter(wide.values())))
    runtime = Runtime(folder, threads=1)
    with torch.no_grad():
        leaves = tuple(leaf for _, leaf in states.leaves(graph.model.initial_state(rows)))  # type: ignore[operator]
        expected = [part.numpy() for part in graph(tuple(wide.values()), leaves)]
    arrays = {name: part.numpy() for name, part in wide.items()}
    mask = arrays.pop(MASK, None)
    y, state = runtime.step(arrays, runtime.initial_state(rows), token_mask=mask)
    for name, came, wanted in zip(["y", *graph.names], (y, *state), expected, strict=True):
        error = float(np.abs(came.astype(np.float64) - wanted).max())
        if not error <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise CheckpointError(
                f"the exported graph's {name} is {error:.2g} off the model's: please report it"
            )


def _replace(folder: Path, aside: Path) -> None:
    """Put the new folder where the old one is; of an older export nothing is left."""
    if folder.exists():
        old = beside(folder.absolute())
        folder.rename(old)
        aside.rename(folder)
        shutil.rmtree(old)
    else:
        aside.rename(folder)
