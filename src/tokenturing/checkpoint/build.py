"""A model from a config and a file of weights that may be anything: bounded, compared, then filled."""

import json
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tokenturing.checkpoint.format import CONFIG, abbreviated, plain_name
from tokenturing.checkpoint.tensors import TensorFile
from tokenturing.errors import CheckpointError


def build(cls: type[nn.Module], arguments: dict[str, Any], file: TensorFile) -> nn.Module:
    """A model by its arguments, as long as it is about as large as the file and of its shapes."""
    try:
        with _OwnRandomNumbers(), _Budget(file):
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

    SLACK = 2**24
    """numbers besides the weights: tables that are not saved"""

    def __init__(self, file: TensorFile):
        super().__init__()
        self.file = file
        self.numbers = 4 * sum(math.prod(shape) for shape in file.shapes.values()) + self.SLACK
        self.calls = 16 * len(file.shapes) + 2000

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        size = _size(getattr(func, "__name__", ""), args, kwargs)
        if size is not None:
            self._count(size)
        return func(*args, **kwargs)

    def _count(self, size: int) -> None:
        self.numbers -= size
        self.calls -= 1
        if self.numbers < 0 or self.calls < 0:
            raise CheckpointError(
                f"{self.file.path} has {len(self.file.shapes)} tensors and its config describes a far "
                "larger model: they do not belong together; fetch or save both again"
            )


SIZED = ("empty", "zeros", "ones", "rand", "randn", "new_empty", "new_zeros", "new_ones")
"""functions of torch that take nothing but sizes, one by one or together"""
FILLED = ("full", "new_full")
SPACED = ("linspace", "logspace")


def _size(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """How many numbers a function of torch is about to allocate by the sizes that it gets; None: it is none of these.

    What is no size, as the numbers to fill with, does not count; sizes that are none are torch's to refuse.
    """
    given = list(args[1:] if name.startswith("new_") else args)
    if name in SIZED or name == "eye":
        sizes = [*given, *(kwargs[key] for key in ("size", "n", "m") if key in kwargs)]
        if name == "eye" and len(sizes) == 1:
            sizes *= 2
    elif name in FILLED:
        sizes = [kwargs.get("size", given[0] if given else 0)]
    elif name == "randint":
        sizes = [kwargs.get("size", next((each for each in given if isinstance(each, tuple | list)), 0))]
    elif name in SPACED:
        sizes = [kwargs.get("steps", given[2] if len(given) > 2 else 0)]
    elif name == "arange":
        return _steps(given, kwargs)
    else:
        return None
    return math.prod(abs(size) for size in _whole(sizes))


def _whole(sizes: list[Any]) -> Iterator[int]:
    for each in sizes:
        if isinstance(each, tuple | list):
            yield from _whole(list(each))
        elif isinstance(each, int) and not isinstance(each, bool):
            yield each


def _steps(given: list[Any], kwargs: dict[str, Any]) -> int:
    """Of an arange."""
    try:
        ends = [float(each) for each in given[:2]]
        start, end = (0.0, *ends) if len(ends) == 1 else (ends or [0.0, 0.0])
        start, end = float(kwargs.get("start", start)), float(kwargs.get("end", end))
        return math.ceil(abs((end - start) / float(kwargs.get("step", given[2] if len(given) > 2 else 1))))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return 0


class _OwnRandomNumbers(TorchFunctionMode):
    """First weights are drawn from a generator of their own: the global one is other threads' too, who would see it rewound."""

    DRAWN = (
        *("normal_", "uniform_", "random_", "bernoulli_", "exponential_", "geometric_", "cauchy_", "log_normal_"),
        *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"),
        *("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_", "trunc_normal_", "orthogonal_", "sparse_"),
    )
    """functions of torch that draw and take a generator"""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.DRAWN and kwargs.get("generator") is None:
            kwargs = {**kwargs, "generator": self.generator}
        return func(*args, **kwargs)


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
    _cast_unsaved(model, file, {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()})
    for key, own in model.state_dict(keep_vars=True).items():
        own.data = own.data.to(tensors[key].dtype)
    model.load_state_dict(tensors, strict=True)


def unsaved(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that no state dict has, by the names of a model without compiled parts: a constructor makes them."""
    saved = model.state_dict().keys()
    return {plain_name(name): buffer for name, buffer in model.named_buffers() if name not in saved}


def unsaved_types(model: nn.Module) -> str:
    """The types of these, as JSON."""
    return json.dumps({name: type_name(buffer.dtype) for name, buffer in unsaved(model).items()})


def type_name(dtype: torch.dtype) -> str:
    """A type of torch without its package."""
    return str(dtype).removeprefix("torch.")


def _cast_unsaved(model: nn.Module, file: TensorFile, saved: set[torch.dtype]) -> None:
    """Buffers that are not saved get the types that they had in the saved model, which may have been cast as a whole."""
    noted = file.metadata.get("unsaved_types")
    try:
        types = None if noted is None else {name: getattr(torch, dtype) for name, dtype in json.loads(noted).items()}
        for name, buffer in unsaved(model).items():
            if types is not None:
                buffer.data = buffer.data.to(types[name])
            elif len(saved) == 1 and buffer.dtype == torch.get_default_dtype():  # older files do not say it
                buffer.data = buffer.data.to(next(iter(saved)))
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{file.path} names unknown types or buffers ({error}); save it again") from error
