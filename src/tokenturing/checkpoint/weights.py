"""The tensors of a model under the names that files have, and what a file notes of those that are not in it."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tokenturing.checkpoint.format import WRAPPER
from tokenturing.errors import CheckpointError, a

UNSAVED = "unsaved"
"""the key of these notes in a file"""
LARGEST_UNSAVED = 2**30
"""numbers"""


def names_of(model: nn.Module) -> dict[str, str]:
    """The model's own names of its tensors -> those in files, which do not tell what is compiled.

    What is held both plainly and compiled has its plain name twice.
    """
    tensors = model.state_dict(keep_vars=True)
    names = {own: _without_wrapper(own) for own in tensors}
    plain = {id(tensors[own]): own for own, name in names.items() if own == name}
    return {own: plain.get(id(tensors[own]), name) for own, name in names.items()}


def weights_of(model: nn.Module) -> dict[str, Any]:
    """All that is saved of a model, by its names in files."""
    tensors = model.state_dict(keep_vars=True)
    return {name: tensors[own] for own, name in names_of(model).items()}


def unsaved_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that are not saved, as the model's class makes them anew, with their names."""
    for prefix, module in model.named_modules():
        for name in module._non_persistent_buffers_set:
            if isinstance(buffer := module._buffers.get(name), Tensor) and not is_lazy(buffer):
                yield _without_wrapper(f"{prefix}.{name}" if prefix else name), buffer


def _without_wrapper(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != WRAPPER)


def check_storable(weights: dict[str, Any]) -> None:
    """Refuse what no file of tensors can hold."""
    for name, tensor in weights.items():
        if what := _obstacle(tensor):
            raise CheckpointError(f"{name} {what}: expected dense tensors that have values")


def _obstacle(tensor: Any) -> str | None:
    if not isinstance(tensor, Tensor):
        return f"is {a(type(tensor))}, which get_extra_state gave"
    if is_lazy(tensor):
        return "has no shape before the model's first call"
    if tensor.is_meta:
        return "is on the meta device"
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
        return "is quantised" if tensor.is_quantized else "is nested" if tensor.is_nested else f"is {tensor.layout}"
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"is {a(type(tensor))}"
    return None


@dataclass(frozen=True)
class Unsaved:
    """What a file notes of the buffers that are not in it."""

    types: dict[str, torch.dtype]
    numbers: int
    """in all of them together"""
    default_type: torch.dtype
    """torch's when the model was saved: what the class makes anew follows it"""

    @classmethod
    def of(cls, model: nn.Module) -> "Unsaved":
        """The notes on a model."""
        buffers = dict(unsaved_of(model))
        numbers = sum(buffer.numel() for buffer in buffers.values())
        if numbers > LARGEST_UNSAVED:
            raise CheckpointError(
                f"the buffers with persistent=False have {numbers} numbers: expected at most {LARGEST_UNSAVED}, as they are made "
                "anew before anything is known to be right; let the larger ones be saved"
            )
        return cls({name: buffer.dtype for name, buffer in buffers.items()}, numbers, torch.get_default_dtype())

    @classmethod
    def parse(cls, text: str | None) -> "Unsaved | None":
        """The notes in a file; None: it is older than they are.

        Raises:
            ValueError, TypeError, LookupError, AttributeError, RecursionError: they are no such notes.
        """
        if text is None:
            return None
        content = json.loads(text)
        numbers = int(content["numbers"])
        if not 0 <= numbers <= LARGEST_UNSAVED:
            raise ValueError(f"{numbers} numbers are not saved")
        types = {str(name): type_named(value) for name, value in content["types"].items()}
        default = type_named(content["default_type"])
        if not default.is_floating_point:
            raise ValueError(f"the default type is {default}")
        return cls(types, numbers, default)

    def text(self) -> str:
        """The notes as they stand in a file."""
        types = {name: name_of_type(dtype) for name, dtype in self.types.items()}
        return json.dumps({"types": types, "numbers": self.numbers, "default_type": name_of_type(self.default_type)})


def name_of_type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def type_named(name: Any) -> torch.dtype:
    """The type of that name; ValueError if there is none."""
    found = getattr(torch, name) if isinstance(name, str) else None
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no type of torch")
    return found


def restore_types(model: nn.Module, weights: dict[str, Tensor], unsaved: Unsaved | None) -> None:
    """Give the model's tensors, saved and not, the types they had in the model that was saved."""
    own = weights_of(model)
    if unsaved is None:
        _follow(model, own, weights)
    else:
        for name, buffer in unsaved_of(model):
            buffer.data = buffer.data.to(unsaved.types.get(name, buffer.dtype))
    for name, tensor in own.items():
        if isinstance(tensor, Tensor) and not is_lazy(tensor):
            tensor.data = tensor.data.to(weights[name].dtype)
            if 0 in tensor.stride():  # one number shown many times, which can't be written to
                tensor.data = tensor.data.contiguous()


def _follow(model: nn.Module, own: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Older files do not say: where all weights have one other type than they are built with, all that floats was cast to it."""
    built, saved = (
        {each.dtype for each in tensors.values() if isinstance(each, Tensor) and each.is_floating_point()}
        for tensors in (own, weights)
    )
    if len(saved) == 1 and saved != built:
        for _, buffer in unsaved_of(model):
            if buffer.is_floating_point():
                buffer.data = buffer.data.to(next(iter(saved)))


def count(shapes: dict[str, tuple[int, ...]]) -> int:
    """The numbers in tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes.values())
