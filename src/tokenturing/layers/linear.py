"""A linear layer whose weight gradient, in a loop over time, is one matrix product for all steps.

A step of a wide machine multiplies few tokens by large weights. In the backward pass autograd then makes a gradient as large as
the weights at each step and accumulates it, which is mostly memory traffic. Inside `steps_together(T)` each step hands on its
tokens and their gradients instead, and the weight's gradient is one product of all of them. Only the order of a sum changes;
`torch.nn.Linear` is the readable twin.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLER = 4
"""by this factor a step's tokens must be smaller than the weights. Measured at width 512: a training step takes 0.85 of the time
with one row, 0.96 with two, and as long as before with eight"""
LEAST_STEPS = 4
"""with fewer there is nothing to gain"""


class Linear(nn.Linear):
    """`torch.nn.Linear`, with the weight gradients of all steps computed at once where that pays."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or (loop := _current.loop) is None or not pays(self, x):
            return super().forward(x)
        return loop.linear(self, x)


@contextmanager
def steps_together(steps: int) -> Iterator[None]:
    """A context in which layers called once per step compute the weight gradients of all `steps` at once."""
    possible = torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()
    before, _current.loop = _current.loop, _Loop(steps) if steps >= LEAST_STEPS and possible else None
    try:
        yield
    finally:
        _current.loop = before


def pays(layer: nn.Linear, x: Tensor) -> bool:
    """Whether a step's tokens, which need another copy, are much smaller than the layer's weights."""
    if not (layer.weight.requires_grad and torch.is_grad_enabled()):
        return False
    inside, outside = layer.in_features, layer.out_features
    return SMALLER * (x.numel() // inside) * (inside + outside) < inside * outside


def autocast_available(x: Tensor) -> bool:
    """Whether there is autocast on a tensor's device: not on the one without numbers, "meta"."""
    return torch.amp.is_autocast_available(x.device.type)


class _Loop:
    """The layers of one loop over time, with the slots into which their steps put tokens and gradients."""

    def __init__(self, steps: int):
        self.steps = steps
        self.slots: dict[tuple[int, torch.Size, torch.dtype], tuple[Tensor, Tensor | None, list[Any]]] = {}

    def linear(self, layer: nn.Linear, x: Tensor) -> Tensor:
        if autocast_available(x) and torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        key = (id(layer), x.shape, x.dtype)
        if key not in self.slots or not self.slots[key][2]:
            weight, bias, tokens, gradients = _Together.apply(layer.weight, layer.bias, self.steps, x)
            steps = list(zip(tokens.unbind(0), gradients.unbind(0), strict=True))
            self.slots[key] = weight, bias, steps[::-1]
        weight, bias, steps = self.slots[key]
        return _Step.apply(x, layer.weight, layer.bias, weight, bias, *steps.pop())


class _Current(threading.local):
    """The loop this thread is in."""

    loop: _Loop | None = None


_current = _Current()


class _Together(torch.autograd.Function):
    """(weight, bias) -> both in the dtype of x, and for each step one slot for its tokens and one for their gradients.

    In the forward pass the slots are empty. In the backward pass the "gradients" that arrive for them are the tokens and the
    gradients themselves.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor | None, steps: int, x: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        ctx.types = weight.dtype, None if bias is None else bias.dtype
        ctx.set_materialize_grads(False)
        empty = x.new_zeros(1)
        tokens = empty.expand(steps, *x.shape)
        gradients = empty.expand(steps, *x.shape[:-1], weight.shape[0])
        cast = weight.detach().to(x.dtype)
        cast_bias = None if bias is None else bias.detach().to(x.dtype)
        ctx.mark_non_differentiable(cast, *([] if cast_bias is None else [cast_bias]))
        return cast, cast_bias, tokens, gradients

    @staticmethod
    def backward(ctx: Any, *received: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        tokens, gradients = received[2:]
        if tokens is None or gradients is None:
            return None, None, None, None
        flat = gradients.flatten(0, -2)
        weight = (flat.t() @ tokens.flatten(0, -2)).to(ctx.types[0])
        bias = None if ctx.types[1] is None else flat.sum(0, dtype=ctx.types[1])
        return weight, bias, None, None


class _Step(torch.autograd.Function):
    """x W^T + b of one step, whose backward hands on its tokens and their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        cast: Tensor,
        cast_bias: Tensor | None,
        tokens: Tensor,
        gradients: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, cast)
        ctx.has_bias = bias is not None
        with torch.autocast(x.device.type, enabled=False) if autocast_available(x) else nullcontext():
            return F.linear(x, cast, cast_bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, cast = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives, of the weights too: step by step
            flat = gradient.flatten(0, -2)
            of_weight = (flat.t() @ x.flatten(0, -2)).to(weight.dtype)
            of_bias = flat.sum(0).to(weight.dtype) if ctx.has_bias else None
            return gradient @ weight.to(gradient.dtype), of_weight, of_bias, None, None, None, None
        of_x = gradient @ cast if ctx.needs_input_grad[0] else None
        return of_x, None, None, None, None, x, gradient
