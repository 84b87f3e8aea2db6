"""Models for other runtimes, their state among the inputs and outputs."""

from tokenturing.export.onnx import export_onnx

__all__ = ["export_onnx"]
