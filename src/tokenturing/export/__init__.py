"""Models for other runtimes, their state among the inputs and outputs."""

from tokenturing.errors import MissingExtraError

try:
    from tokenturing.export.cache import cached_runtime
    from tokenturing.export.onnx import export_onnx
    from tokenturing.models.eager import eager
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise MissingExtraError("torch", "torch") from None

__all__ = ["cached_runtime", "eager", "export_onnx"]
