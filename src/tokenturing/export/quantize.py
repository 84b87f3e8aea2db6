"""Matrix products of a graph in 8 bits, each row of the activations with a scale of its own.

ONNX Runtime's own dynamic quantiser takes one scale for all rows of a batch: each is rounded by what the loudest holds, and a NaN
in one is in all of them. Its block quantiser keeps rows apart, but is slower than float32 on a CPU.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.helper import make_node

from tokenturing.runtime.engines import Array

WEIGHT_STEPS, INPUT_STEPS = 63, 127
"""whole numbers up to the largest value; without the processor's 8-bit dot product, sums of two products of 8 bits overflow, so
that a bit of the weights is left free"""
CONSTANTS = {
    "axis": np.array([-1]),
    "least": np.float32(1e-30),  # a row of zeros is divided by something
    "step": np.float32(1 / INPUT_STEPS),
    "nothing": np.float32(0),
    "zero": np.uint8(128),
}


def quantize(file: Path) -> None:
    """Rewrite the graph in `file`: the weights of matrix products in int8, their inputs rounded to uint8 when they come."""
    model = onnx.load(file)
    rewritten = _Rewritten(model.graph)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(rewritten.nodes)
    used = {name for node in rewritten.nodes for name in node.input}
    model.graph.initializer.extend(part for part in rewritten.initializers.values() if part.name in used)
    onnx.save(model, file)


class _Rewritten:
    """The nodes and constants of a graph after the change."""

    def __init__(self, graph: Any):
        self.initializers = {part.name: part for part in graph.initializer}
        for name, value in CONSTANTS.items():
            self._keep(f"row_{name}", np.asarray(value))
        self.nodes: list[Any] = []
        self._rows: set[str] = set()
        for node in list(graph.node):
            weight = self._weight(node)
            if weight is None:
                self.nodes.append(node)
            else:
                self._multiply(node, weight)

    def _keep(self, name: str, value: Array) -> None:
        self.initializers[name] = numpy_helper.from_array(value, name)

    def _weight(self, node: Any) -> Array | None:
        """The constant [K, N] that a node multiplies by; None: it is no such product."""
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in self.initializers:
            return None
        settings = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        weight = numpy_helper.to_array(self.initializers[node.input[1]])
        if settings.pop("transB", 0):
            weight = weight.T
        plain = settings.pop("transA", 0) == 0 and all(value == 1 for value in settings.values())
        return weight if plain and weight.ndim == 2 and weight.dtype == np.float32 else None

    def _multiply(self, node: Any, weight: Array) -> None:
        x, y = node.input[0], node.output[0]
        scale = np.maximum(np.abs(weight).max(0), 1e-30) / WEIGHT_STEPS
        self._keep(f"{y}_weight", np.round(weight / scale).astype(np.int8))
        self._keep(f"{y}_weight_scale", scale.astype(np.float32))
        if x not in self._rows:
            self._rows.add(x)
            self.nodes += _round_rows(x)
        bias = list(node.input[2:])
        product = f"{y}_product" if bias else y
        # One scale after the other: where they are multiplied first, ONNX Runtime fuses the three nodes and takes one row's scale
        # for all.
        self.nodes += [
            make_node("MatMulInteger", [f"{x}_rounded", f"{y}_weight", "row_zero"], [f"{y}_whole"]),
            make_node("Cast", [f"{y}_whole"], [f"{y}_cast"], to=onnx.TensorProto.FLOAT),
            make_node("Mul", [f"{y}_cast", f"{y}_weight_scale"], [f"{y}_scaled"]),
            make_node("Mul", [f"{y}_scaled", f"{x}_scale"], [product]),
        ]
        if bias:
            self.nodes.append(make_node("Add", [product, *bias], [y]))


def _round_rows(x: str) -> list[Any]:
    """x [..., K] -> x_rounded uint8 and x_scale [..., 1]."""
    return [
        make_node("Abs", [x], [f"{x}_size"]),
        make_node("ReduceMax", [f"{x}_size", "row_axis"], [f"{x}_max"], keepdims=1),
        # ONNX Runtime's maximum over an axis passes over a NaN; 0 times a sum has it, so that the row comes out as NaN.
        make_node("ReduceSum", [f"{x}_size", "row_axis"], [f"{x}_sum"], keepdims=1),
        make_node("Mul", [f"{x}_sum", "row_nothing"], [f"{x}_nan"]),
        make_node("Max", [f"{x}_max", f"{x}_nan", "row_least"], [f"{x}_largest"]),
        make_node("Div", [x, f"{x}_largest"], [f"{x}_relative"]),
        make_node("QuantizeLinear", [f"{x}_relative", "row_step", "row_zero"], [f"{x}_rounded"]),
        make_node("Mul", [f"{x}_largest", "row_step"], [f"{x}_scale"]),
    ]
