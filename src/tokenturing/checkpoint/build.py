"""A model from a config and a file of weights that may be anything: bounded, compared, then filled."""

import json
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tokenturing.checkpoint.format import CONFIG, abbreviated
from tokenturing.checkpoint.tensors import TensorFile
from tokenturing.errors import CheckpointError


def build(cls: type[nn.Module], arguments: dict[str, Any], file: TensorFile) -> nn.Module:
    """A model by its arguments, as long as it is about as large as the file and of its shapes."""
    with torch.random.fork_rng(devices=[]):
        try:
            with _Budget(file):
                model = cls(**arguments)
        except CheckpointError:
            raise
        except Exception as error:  # whatever a constructor makes of arguments that are wrong
            raise CheckpointError(
                f"{file.path.with_name(CONFIG)} does not fit {cls.__name__} ({error}): expected the "
                "arguments it was saved with; fetch or save it again"
            ) from error
    found = {name: torch.empty(()).expand(shape) for name, shape in file.shapes.items()}  # of these shapes, without the memory
    upgrade(model, found)
    _check_shapes(_shapes(model.state_dict()), _shapes(found), file, cls.__name__)
    return model


def upgrade(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Have each module that has an `upgrade(tensors, prefix)` mend what older versions saved otherwise."""
    for name, module in model.named_modules():
        if mend := getattr(module, "upgrade", None):
            mend(tensors, f"{name}." if name else "")


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


class _Budget(TorchFunctionMode):
    """Stops the building of a model far larger than its file, before it is allocated.

    Building on the meta device would do too, but loads 2 s of torch's compiler.
    """

    MAKERS = (
        *("empty", "zeros", "ones", "full", "rand", "randn", "randint", "eye", "arange", "linspace"),
        *("new_empty", "new_zeros", "new_ones", "new_full"),
    )
    """functions of torch that allocate by the sizes they get"""
    SLACK = 2**24
    """numbers besides the weights: tables that are not saved"""

    def __init__(self, file: TensorFile):
        super().__init__()
        self.file = file
        self.numbers = 4 * sum(math.prod(shape) for shape in file.shapes.values()) + self.SLACK
        self.calls = 16 * len(file.shapes) + 2000

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.MAKERS:
            self._count([*args, *kwargs.values()])
        return func(*args, **kwargs)

    def _count(self, arguments: list[Any]) -> None:
        flat = [size for each in arguments for size in (each if isinstance(each, tuple | list) else [each])]
        sizes = [abs(size) for size in flat if isinstance(size, int | float) and not isinstance(size, bool)]
        self.numbers -= math.prod(max(1, math.ceil(size)) for size in sizes)
        self.calls -= 1
        if self.numbers < 0 or self.calls < 0:
            raise CheckpointError(
                f"{self.file.path} has {len(self.file.shapes)} tensors and its config describes a far "
                "larger model: they do not belong together; fetch or save both again"
            )


def _check_shapes(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], file: TensorFile, name: str) -> None:
    parts = []
    if missing := wanted.keys() - found.keys():
        parts.append(f"it lacks {abbreviated(missing)}")
    if unexpected := found.keys() - wanted.keys():
        parts.append(f"it has {abbreviated(unexpected)} besides")
    if parts:
        raise CheckpointError(f"{file.path} does not hold the weights of this {name}: {'; '.join(parts)}")
    for key, shape in wanted.items():
        if found[key] != shape:
            raise CheckpointError(
                f"{file.path}: {key} has shape {list(found[key])}, and by the config it has "
                f"{list(shape)}: they do not belong together; fetch or save both again"
            )


def fill(model: nn.Module, file: TensorFile) -> None:
    """Put the file's tensors into the model, in the types they had in the one that was saved."""
    tensors = file.tensors()
    try:
        for name, dtype in json.loads(file.metadata.get("original_types", "{}")).items():
            tensors[name] = tensors[name].to(getattr(torch, dtype))
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{file.path} names unknown types or tensors ({error}); save it again") from error
    upgrade(model, tensors)
    types = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(types) == 1:  # buffers that are not saved follow, as they did in the saved model
        model.to(types.pop())
    for key, own in model.state_dict(keep_vars=True).items():
        own.data = own.data.to(tensors[key].dtype)
    model.load_state_dict(tensors, strict=True)
