"""What runs a graph: ONNX Runtime, or OpenVINO for matrix products in bfloat16, which ONNX Runtime has none of on a CPU."""

import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tokenturing.errors import CheckpointError, MissingExtraError

BF16 = "bf16"
Array = np.ndarray[Any, Any]


class Engine(Protocol):
    """A graph that is ready to run; it may be called from several threads."""

    @property
    def inputs(self) -> Sequence[str]:
        """The names it wants."""
        ...

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """One run -> its outputs, in order."""
        ...


def open_engine(graph: Path, precision: str, threads: int | None) -> Engine:
    """The engine for graphs of that precision.

    Raises:
        CheckpointError: the file cannot be read.
        MissingExtraError: the engine's package is not installed.
    """
    return OpenVINO(graph, threads) if precision == BF16 else OnnxRuntime(graph, threads)


class OnnxRuntime:
    """A graph on ONNX Runtime, in the types that it was written in."""

    def __init__(self, graph: Path, threads: int | None):
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "runtime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no base class of its own for what a broken file raises
            raise _unreadable(graph, error) from error
        self.inputs: Sequence[str] = [part.name for part in self._session.get_inputs()]

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        return self._session.run(None, {name: feed[name] for name in self.inputs})


class OpenVINO:
    """A float32 graph on OpenVINO, which computes in bfloat16 where the processor can."""

    def __init__(self, graph: Path, threads: int | None):
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino", "bf16") from error
        core = openvino.Core()
        if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            warnings.warn("this processor has no bfloat16: the graph runs in float32", stacklevel=2)
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads or 0,
        }
        try:
            self._graph = core.compile_model(str(graph), "CPU", settings)
        except RuntimeError as error:
            raise _unreadable(graph, error) from error
        # An input that the graph hands on as it is goes by more names than its own.
        self.inputs: Sequence[str] = [part.get_node().get_friendly_name() for part in self._graph.inputs]
        self._of_thread = threading.local()  # a request holds one run's buffers

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._graph.create_infer_request()
        outputs = self._of_thread.request.infer([feed[name] for name in self.inputs])
        return [outputs[index] for index in range(len(outputs))]


def _unreadable(graph: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{graph} cannot be read ({str(error).strip().splitlines()[0]}): export the model again")
