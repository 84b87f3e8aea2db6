"""Training steps of the machine with gradients written out by hand: what `Cell.forward` computes, without autograd within.

Autograd keeps a graph of a hundred small operations a step, and adds up a gradient as large as the weights at each. Here a chunk
of steps is one operation: products of read, query and gate are one, what is known before the loop stands in its place before it,
and the gradients of each weight are one product of all steps. The machine's cell, step by step, is the readable twin.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tokenturing.layers.age import AgeScale
from tokenturing.layers.feedforward import FeedForward
from tokenturing.layers.linear import Linear, autocast_available
from tokenturing.layers.positions import NoPositions, TokenPositions
from tokenturing.memory.clock import SlotClock
from tokenturing.memory.summarize import MLPSummarizer
from tokenturing.memory.write import GatedWrite
from tokenturing.models.cell import Cell
from tokenturing.models.fast.function import Steps
from tokenturing.models.fast.parts import EPSILON
from tokenturing.models.fast.tape import Sizes
from tokenturing.models.fast.weights import age_rows, weights_of
from tokenturing.processors.transformer import SelfAttention, TransformerBlock, TransformerProcessor

CHUNK = 64
"""steps that are one operation at most"""
CHUNK_TOKENS = 8192
"""slots of all rows and steps that are one operation, or 64 D where that is more: what these keep is freed before the next go
back, but the gradients of the weights are added up once more"""
MOST_AGES = 2**14
"""ages up to which there is a table"""
KNOWN = {
    *(Cell, MLPSummarizer, GatedWrite, SlotClock, AgeScale, TokenPositions, NoPositions, FeedForward, Linear),
    *(TransformerProcessor, TransformerBlock, SelfAttention, nn.ModuleList, nn.GELU, nn.LayerNorm, nn.Dropout),
}


def covers(cell: Cell, memory: Tensor, x: Tensor) -> bool:
    """Whether steps from this memory [B, M, D] on inputs [B, T, N, D] give here what they give one by one.

    They do for the default kinds of read, write and processor as they were built: nothing wrapped, hooked, compiled, dropped out.
    """
    if not torch.is_grad_enabled() or not x.numel() or memory.dtype not in (torch.float32, torch.float64):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    if x.device.type == "meta" or (autocast_available(x) and torch.is_autocast_enabled(x.device.type)):
        return False
    if torch.autograd.forward_ad._current_level >= 0 or cell._compiled_call_impl is not None:
        return False
    read, write, processor, clock = cell.read, cell.write, cell.processor, cell.clock
    if type(read) is not MLPSummarizer or type(write) is not GatedWrite or type(processor) is not TransformerProcessor:
        return False
    if clock is None or age_rows(clock) > MOST_AGES or x.dtype != memory.dtype:
        return False
    own = (read, write, processor, clock, cell.positions)
    modules = [module for one in own for module in one.modules() if module is not clock.features]
    return all(_as_built(module, memory.dtype) for module in (cell, *modules))


def _as_built(module: nn.Module, dtype: torch.dtype) -> bool:
    if type(module) not in KNOWN or "forward" in module.__dict__:
        return False
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return False
    if isinstance(module, nn.LayerNorm) and (module.eps != EPSILON or module.weight is None or module.bias is None):
        return False
    if isinstance(module, nn.Linear) and module.bias is None:
        return False
    if isinstance(module, nn.Dropout) and module.training and module.p:
        return False
    return all(type(p) in (nn.Parameter, Tensor) and p.dtype == dtype for p in module._parameters.values() if p is not None)


def fast_segment(
    cell: Cell,
    prepared: Any,
    state: Any,
    fresh: Any,
    reset: Tensor | None,
    active: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """T steps on what `Cell.prepare` made of the inputs -> outputs [B, T, R, D], memory, age, and gates [B, T, M].

    `fresh` is the state after a reset; where a row pauses its outputs are anything.
    """
    read, (key_value, *mask) = prepared
    weights = weights_of(cell, state.memory).flat()
    (rows, steps, inputs), outputs = read.scores.shape[:3], read.scores.shape[3]
    absent = None
    if mask:
        there = torch.nn.functional.pad(mask[0], (0, outputs), value=True)
        absent = torch.zeros_like(there, dtype=read.scores.dtype).masked_fill_(~there, -torch.inf)[:, :, None, :, None]
    memory, age = state.memory, state.age
    heads = [block.attention.heads for block in cell.processor.modules() if isinstance(block, TransformerBlock)]
    assert isinstance(cell.write, GatedWrite)
    found = []
    length = max(1, min(CHUNK, max(CHUNK_TOKENS, 64 * memory.shape[2]) // memory[..., 0].numel()))
    for start in range(0, steps, length):
        chunk = slice(start, start + length)
        flags = (None if part is None else part.t()[chunk] for part in (reset, active))
        parts = (read.scores, read.values, key_value, absent)
        seen = [None if part is None else part.transpose(0, 1)[chunk] for part in parts]
        sizes = Sizes(
            rows=rows,
            inputs=inputs,
            slots=memory.shape[1],
            outputs=outputs,
            width=memory.shape[2],
            hidden=cell.write.gate[0].out_features,  # type: ignore[arg-type]
            heads=heads[0] if heads else 1,
            write_heads=cell.write.attention_heads,
        )
        y, memory, age, gate = Steps.apply(sizes, *flags, memory, age, fresh.memory, fresh.age, *seen, *weights)
        found.append((y, gate))
    y, gate = (torch.cat(parts).transpose(0, 1).contiguous() for parts in zip(*found, strict=True))
    return y, memory, age, gate
