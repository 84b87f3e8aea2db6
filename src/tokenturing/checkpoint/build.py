"""A model from a config and a file of weights that may be anything: bounded, compared, then filled."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tokenturing.checkpoint.budget import Budget
from tokenturing.checkpoint.draws import own_draws
from tokenturing.checkpoint.format import CONFIG, abbreviated
from tokenturing.checkpoint.tensors import TensorFile
from tokenturing.checkpoint.weights import UNSAVED, Unsaved, names_of, restore_types, type_named, weights_of
from tokenturing.errors import CheckpointError

ORIGINAL_TYPES = "original_types"
"""the key in a file of the types that weights had which were saved in smaller ones"""


def build(cls: type[nn.Module], arguments: dict[str, Any], file: TensorFile) -> nn.Module:
    """A model by its arguments with the weights in the file, as long as it is about as large as that and of its shapes."""
    with _checked(file):
        unsaved = Unsaved.parse(file.metadata.get(UNSAVED))
    default_type = torch.float32 if unsaved is None else unsaved.default_type
    with _default_type(default_type), torch.device("cpu"), own_draws():
        try:
            with Budget(file, unsaved.numbers if unsaved else 0):
                model = cls(**arguments)
        except CheckpointError:
            raise
        except Exception as error:  # whatever a constructor makes of arguments that are wrong
            raise CheckpointError(
                f"{file.path.with_name(CONFIG)} does not fit {cls.__name__} ({error}): expected the "
                "arguments it was saved with; fetch or save it again"
            ) from error
        found = {
            name: torch.empty(()).expand(shape) for name, shape in file.shapes.items()
        }  # of these shapes, without the memory
        upgrade(model, found)
        _check_shapes(model, {name: tuple(tensor.shape) for name, tensor in found.items()}, file)
        _fill(model, file, unsaved)
    return model


def upgrade(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Have each module that has an `upgrade(tensors, prefix)` mend what older versions saved otherwise."""
    for name, module in model.named_modules():
        if mend := getattr(module, "upgrade", None):
            mend(tensors, f"{name}." if name else "")


def _check_shapes(model: nn.Module, found: dict[str, tuple[int, ...]], file: TensorFile) -> None:
    wanted = weights_of(model)
    parts = []
    if missing := wanted.keys() - found.keys():
        parts.append(f"it lacks {abbreviated(missing)}")
    if unexpected := found.keys() - wanted.keys():
        parts.append(f"it has {abbreviated(unexpected)} besides")
    if parts:
        raise CheckpointError(f"{file.path} does not hold the weights of this {type(model).__name__}: {'; '.join(parts)}")
    for key, tensor in wanted.items():
        if isinstance(tensor, torch.Tensor) and not is_lazy(tensor) and found[key] != tuple(tensor.shape):
            raise CheckpointError(
                f"{file.path}: {key} has shape {list(found[key])}, and by the config it has "
                f"{list(tensor.shape)}: they do not belong together; fetch or save both again"
            )


def _fill(model: nn.Module, file: TensorFile, unsaved: Unsaved | None) -> None:
    """Put the file's tensors into the model, in the types they had in the one that was saved."""
    tensors = file.tensors()
    with _checked(file):
        for name, dtype in file.table(ORIGINAL_TYPES).items():
            tensors[name] = tensors[name].to(type_named(dtype))
    upgrade(model, tensors)
    restore_types(model, tensors, unsaved)
    model.load_state_dict({own: tensors[name] for own, name in names_of(model).items()}, strict=True)


@contextmanager
def _checked(file: TensorFile) -> Iterator[None]:
    """What is wrong with the notes in a file becomes one clear error."""
    try:
        yield
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{file.path} names unknown types or tensors ({error}); save it again") from error


_types = threading.RLock()


@contextmanager
def _default_type(dtype: torch.dtype) -> Iterator[None]:
    """With torch's default type, which all threads share: it is left alone where it is this one anyway."""
    if torch.get_default_dtype() == dtype:
        yield
        return
    with _types:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
