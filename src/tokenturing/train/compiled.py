"""Training with a step that torch.compile makes, also as CUDA graphs: these compute in memory that each update takes again."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tokenturing import state as states
from tokenturing.errors import OptionError, a
from tokenturing.models.graphs import GRAPHS


def compile_step(model: nn.Module, mode: bool | str) -> None:
    """Have it make one step, not the loop: so it is made once for streams of any length.

    Raises:
        OptionError: the model has no step to compile, or not in this mode.
    """
    make = getattr(model, "compile_step", None)
    if make is None:
        raise OptionError(f"train.compile: {a(type(model))} has no compile_step(); expected compile=false")
    if mode is True:
        make()
    elif "mode" in inspect.signature(make).parameters:
        make(mode=mode)
    else:
        raise OptionError(f"train.compile={mode!r}: compile_step() of {a(type(model))} takes no mode; expected compile=true")


def begin_pass(mode: bool | str) -> None:
    """A forward pass begins: graphs may take the memory of the one before."""
    if mode == GRAPHS:
        torch.compiler.cudagraph_mark_step_begin()


def keep_results(mode: bool | str, state: Any, parameters: Iterable[nn.Parameter]) -> Any:
    """After the way back: put what goes on, the gradients and the state, where no graph computes -> the state."""
    if mode != GRAPHS:
        return state
    for parameter in parameters:
        if parameter.grad is not None:  # what has none is left alone by the optimiser
            parameter.grad = parameter.grad.clone()
    return None if state is None else states.clone(state)
