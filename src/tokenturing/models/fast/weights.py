"""The machine's parameters as the steps written out by hand take them: few matrices, each for all that sees the same tokens.

The affine part of a LayerNorm is folded into the linear layers behind it, so that read, query and gate share one normalisation
of the slots and one product. All of it is ordinary autograd, once for all steps, and so are the gradients' ways back.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenturing.layers.age import AGE_BINS
from tokenturing.layers.positions import TokenPositions
from tokenturing.memory.clock import COUNTED, KINDS, SHARPNESS, SlotClock
from tokenturing.memory.summarize import MLPSummarizer
from tokenturing.memory.write import GatedWrite
from tokenturing.models.cell import Cell
from tokenturing.processors.transformer import TransformerBlock, TransformerProcessor

COUNT_BINS = KINDS * (COUNTED + 1)


class LayerWeights(NamedTuple):
    """One Transformer block; matrices are [out, in]."""

    qkv: Tensor
    """[3 D, D], of the normalised tokens; the queries are scaled"""
    qkv_bias: Tensor
    out: Tensor
    """[D, D]"""
    out_bias: Tensor
    up: Tensor
    """[hidden, D], of the normalised tokens"""
    up_bias: Tensor
    down: Tensor
    """[D, hidden]"""
    down_bias: Tensor


class Weights(NamedTuple):
    """All of a cell."""

    kind: Tensor
    """[kinds, D], of the memory"""
    kind_bias: Tensor
    counts: Tensor
    """[D, kinds * bins], of what the counts of newer slots are in bins"""
    ages: Tensor
    """[ages, D], what is added to a slot of each age"""
    places: Tensor
    """[M, D], what is added to each slot"""
    slot: Tensor
    """[G + D + G, D], of the normalised slots: the read's hidden units, the write's queries (scaled), the gate's hidden units"""
    slot_bias: Tensor
    score: Tensor
    """[R, G]"""
    score_bias: Tensor
    last_scale: Tensor
    """[D], of the processor's last norm"""
    last_shift: Tensor
    output_kind: Tensor
    """[D], added to output tokens before they are written"""
    key_value: Tensor
    """[2 D, D], of the normalised output tokens"""
    key_value_bias: Tensor
    candidate: Tensor
    """[D + G, D], of what the slots attended to: the candidates, and their part of the gate's hidden units"""
    candidate_bias: Tensor
    gate: Tensor
    """[G]"""
    gate_bias: Tensor
    """[1]"""
    oldest: Tensor
    """[], what the gate of the oldest slot has more"""
    bins: Tensor
    """0, 1, ..., those of counts; a constant"""
    falls: Tensor
    """[kinds * bins, kinds], -1 for the bins of each kind; a constant"""
    ones: Tensor
    """[D]; a constant"""
    layers: tuple[LayerWeights, ...]

    def turned(self) -> "Weights":
        """The same with matrices [in, out], as the way there multiplies by them."""
        matrices = "kind", "counts", "slot", "score", "key_value", "candidate"
        layers = tuple(layer._replace(**_turned(layer, ("qkv", "out", "up", "down"))) for layer in self.layers)
        return self._replace(**_turned(self, matrices), layers=layers)

    def flat(self) -> list[Any]:
        """All tensors in a row."""
        return [*self[:-1], *(part for layer in self.layers for part in layer)]

    @classmethod
    def of_flat(cls, tensors: "list[Tensor] | tuple[Tensor, ...]") -> "Weights":
        """The inverse of `flat`."""
        own, each = len(cls._fields) - 1, len(LayerWeights._fields)
        rest = tensors[own:]
        layers = tuple(LayerWeights(*rest[at : at + each]) for at in range(0, len(rest), each))
        return cls(**dict(zip(cls._fields, (*tensors[:own], layers), strict=True)))


def _turned(weights: Weights | LayerWeights, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(weights, name).t() for name in names}


def weights_of(cell: Cell, memory: Tensor) -> Weights:
    """Those of a cell of the machine's default kinds, for a memory [B, M, D]."""
    read, write, clock, processor = cell.read, cell.write, cell.clock, cell.processor
    assert isinstance(read, MLPSummarizer)
    assert isinstance(write, GatedWrite)
    assert isinstance(clock, SlotClock)
    assert isinstance(processor, TransformerProcessor)
    slots, width = memory.shape[1:]
    nothing = memory.new_zeros(width)
    positions, of_write = cell.positions, write.positions
    places = positions.memory(memory.new_zeros(slots, width))
    output_kind = of_write.output(nothing.unsqueeze(0)).squeeze(0) if isinstance(of_write, TokenPositions) else nothing
    hat = clock.age_scale(torch.arange(age_rows(clock), device=memory.device)).to(memory.dtype)
    out, (first, last), (gate, opening) = write.out, ends(read.mlp), ends(write.gate)
    of_slot, of_candidate = gate.weight.split(width, dim=1)
    parts = [
        folded(read.norm, first.weight, first.bias),
        folded(write.slot_norm, *scaled(write.query, width // write.attention_heads)),
        folded(write.slot_norm, of_slot, gate.bias),
    ]
    return Weights(
        kind=SHARPNESS * clock.kind.weight,
        kind_bias=SHARPNESS * clock.kind.bias,
        counts=clock.features.weight[:, :COUNT_BINS],
        ages=hat @ clock.features.weight[:, COUNT_BINS : COUNT_BINS + AGE_BINS].t(),
        places=places,
        slot=torch.cat([weight for weight, _ in parts]),
        slot_bias=torch.cat([bias for _, bias in parts]),
        score=last.weight,
        score_bias=last.bias,
        last_scale=processor.norm.weight,
        last_shift=processor.norm.bias,
        output_kind=output_kind,
        **dict(zip(("key_value", "key_value_bias"), folded(write.token_norm, *both(write.key_value)), strict=True)),
        candidate=torch.cat([out.weight, of_candidate @ out.weight]),
        candidate_bias=torch.cat([out.bias, of_candidate @ out.bias]),
        gate=opening.weight.squeeze(0),
        gate_bias=opening.bias,
        oldest=write.oldest,
        bins=torch.arange(COUNTED + 1, dtype=memory.dtype, device=memory.device),
        falls=-torch.eye(KINDS, dtype=memory.dtype, device=memory.device).repeat_interleave(COUNTED + 1, 0),
        ones=memory.new_ones(width),
        layers=tuple(layer_of(block) for block in processor.blocks),  # type: ignore[arg-type]
    )


def layer_of(block: TransformerBlock) -> LayerWeights:
    """The weights of one Transformer block."""
    attention, (up, down) = block.attention, ends(block.mlp)
    width = attention.out.in_features
    scale = attention.out.weight.new_ones(3, width)
    scale[0] = (width // attention.heads) ** -0.5
    weight, bias = folded(block.attention_norm, *both(attention.query_key_value))
    return LayerWeights(
        weight * scale.view(-1, 1),
        bias * scale.view(-1),
        attention.out.weight,
        attention.out.bias,
        *folded(block.mlp_norm, up.weight, up.bias),
        down.weight,
        down.bias,
    )


def ends(block: nn.Sequential) -> tuple[nn.Linear, nn.Linear]:
    """The first and the last layer of a feed-forward block."""
    first, last = block[0], block[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    return first, last


def both(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias."""
    return layer.weight, layer.bias


def scaled(query: nn.Linear, head_width: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of queries that are divided by the root of the head's width."""
    scale = 1 / math.sqrt(head_width)
    return query.weight * scale, query.bias * scale


def folded(norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer behind a norm, as they are behind one without weight and bias of its own."""
    return weight * norm.weight, torch.addmv(bias, weight, norm.bias)


def age_rows(clock: SlotClock) -> int:
    """How many ages differ."""
    return math.ceil(clock.age_scale.horizon) + 1
