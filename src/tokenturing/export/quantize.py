"""Matrix products of a graph in 8 bits, each row of the activations with a scale of its own.

ONNX Runtime's own dynamic quantiser takes one scale for all rows of a batch: each is rounded by what the loudest holds, and a NaN
in one is in all of them. Its block quantiser keeps rows apart, but takes two to three times as long.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.helper import get_attribute_value, make_node, make_opsetid

from tokenturing.errors import OptionError
from tokenturing.runtime.engines import Array

WEIGHT_STEPS, INPUT_STEPS = 63, 127
"""whole numbers up to the largest value; without the processor's 8-bit dot product, sums of two products of 8 bits overflow, so
that a bit of the weights is left free"""
LEAST = 2**17
"""numbers in a weight: smaller products take less time than rounding what they multiply"""
CONTRIB = "com.microsoft"
CONSTANTS = {
    "axis": np.array([-1]),
    "step": np.float32(1 / INPUT_STEPS),
    "nothing": np.float32(0),
    "zero": np.uint8(128),
}
KEEP_ROWS = ("Add", "Sub", "Mul", "Gelu", "Sigmoid", "Tanh", "Split", "Squeeze", "Unsqueeze", "Identity", "Where", "Attention")
"""of rows that are NaN altogether or nowhere they make such rows"""


def quantize(file: Path) -> None:
    """Rewrite the graph in `file`: the weights of large matrix products in int8, their inputs rounded to uint8 when they come.

    Raises:
        OptionError: it has none.
    """
    model = onnx.load(file)
    rewritten = _Rewritten(model.graph)
    if not rewritten.products:
        raise OptionError(
            f"no matrix of this model has {LEAST:,} weights: expected one that has, as with smaller ones a step takes longer in "
            "int8 than in float32; export it in float32"
        )
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(rewritten.nodes)
    used = {name for node in rewritten.nodes for name in node.input}
    model.graph.initializer.extend(part for part in rewritten.initializers.values() if part.name in used)
    if CONTRIB not in {one.domain for one in model.opset_import}:
        model.opset_import.append(make_opsetid(CONTRIB, 1))
    onnx.save(model, file)


class _Rewritten:
    """The nodes and constants of a graph after the change."""

    def __init__(self, graph: Any):
        self.initializers = {part.name: part for part in graph.initializer}
        for name, value in CONSTANTS.items():
            self._keep(f"row_{name}", np.asarray(value))
        self.nodes: list[Any] = []
        self.products = 0
        self._rounded: set[str] = set()
        self._whole: set[str] = set()
        for node in list(graph.node):
            weight = self._weight(node)
            if weight is not None or node.op_type == "LayerNormalization" or self._keeps_rows(node):
                self._whole.update(node.output)
            if weight is None or weight.size < LEAST:
                self.nodes.append(node)
            else:
                self._multiply(node, weight)

    def _keep(self, name: str, value: Array) -> None:
        self.initializers[name] = numpy_helper.from_array(value, name)

    def _keeps_rows(self, node: Any) -> bool:
        """Whether the rows of what a node gives are NaN altogether or nowhere."""
        return node.op_type in KEEP_ROWS and all(name in self._whole or name in self.initializers for name in node.input if name)

    def _weight(self, node: Any) -> Array | None:
        """The constant [K, N] that a node multiplies by; None: it is no such product."""
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in self.initializers:
            return None
        settings = {one.name: get_attribute_value(one) for one in node.attribute}
        weight = numpy_helper.to_array(self.initializers[node.input[1]])
        if settings.pop("transB", 0):
            weight = weight.T
        plain = settings.pop("transA", 0) == 0 and all(value == 1 for value in settings.values())
        return weight if plain and weight.ndim == 2 and weight.dtype == np.float32 else None

    def _multiply(self, node: Any, weight: Array) -> None:
        x, y = node.input[0], node.output[0]
        self.products += 1
        scale = np.maximum(np.abs(weight).max(0), 1e-30) / WEIGHT_STEPS
        self._keep(f"{y}_weight", np.round(weight / scale).astype(np.int8))
        self._keep(f"{y}_weight_scale", scale.astype(np.float32))
        if x not in self._rounded:
            self._rounded.add(x)
            self.nodes += _round_rows(x, x in self._whole)
        bias = list(node.input[2:])
        product = f"{y}_product" if bias else y
        factors = [f"{x}_rounded", f"{y}_weight", "row_step", f"{y}_weight_scale", "row_zero"]
        self.nodes += [
            make_node("MatMulIntegerToFloat", factors, [f"{y}_relative"], domain=CONTRIB),
            make_node("Mul", [f"{y}_relative", f"{x}_largest"], [product]),
        ]
        if bias:
            self.nodes.append(make_node("Add", [product, *bias], [y]))


def _round_rows(x: str, whole: bool) -> list[Any]:
    """x [..., K] -> x_rounded uint8 and x_largest [..., 1], the largest size of a row, NaN where there is one in it.

    A row of zeros divided by 0 is something, which times 0 is 0 again.
    """
    nodes = [make_node("Abs", [x], [f"{x}_size"])]
    if whole:
        nodes.append(make_node("ReduceMax", [f"{x}_size", "row_axis"], [f"{x}_largest"], keepdims=1))
    else:  # ONNX Runtime's maximum over an axis passes over a NaN; 0 times a sum has it
        nodes += [
            make_node("ReduceMax", [f"{x}_size", "row_axis"], [f"{x}_max"], keepdims=1),
            make_node("ReduceSum", [f"{x}_size", "row_axis"], [f"{x}_sum"], keepdims=1),
            make_node("Mul", [f"{x}_sum", "row_nothing"], [f"{x}_nan"]),
            make_node("Max", [f"{x}_max", f"{x}_nan"], [f"{x}_largest"]),
        ]
    return [
        *nodes,
        make_node("Div", [x, f"{x}_largest"], [f"{x}_of_largest"]),
        make_node("QuantizeLinear", [f"{x}_of_largest", "row_step", "row_zero"], [f"{x}_rounded"]),
    ]
