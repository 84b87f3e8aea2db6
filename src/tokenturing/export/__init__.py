"""Models for other runtimes, their state among the inputs and outputs."""

from tokenturing.export.cache import cached_runtime
from tokenturing.export.onnx import export_onnx
from tokenturing.models.eager import eager

__all__ = ["cached_runtime", "eager", "export_onnx"]
