"""One step's gradients; those of weights are left as pairs of gradients and tokens, whose products are taken elsewhere."""

from typing import NamedTuple

import torch
from torch import Tensor

from tokenturing.models.fast.parts import attend_back, gelu_back, join, normalise_back
from tokenturing.models.fast.tape import LayerTape, LookTape, Sizes, Tape, WriteTape
from tokenturing.models.fast.weights import LayerWeights, Weights


class LayerGradients(NamedTuple):
    """Of what a block's products give, [r, ...]."""

    qkv: Tensor
    out: Tensor
    up: Tensor
    down: Tensor


class Gradients(NamedTuple):
    """Of what a step's products and sums give, by the names that their weights have."""

    kind: Tensor
    """[n, kinds]"""
    tokens: Tensor
    """[n, D], of counts, ages and places"""
    hidden: Tensor
    """[n, G], of the read's part of `slot`"""
    query: Tensor
    """[n, D], of the queries' part"""
    gate_hidden: Tensor
    """[n, G], of the gate's part, and of the last part of `candidate`"""
    score: Tensor
    """[n, R]"""
    last: Tensor
    """[r, D]"""
    output_kind: Tensor
    """[r, D]"""
    key_value: Tensor
    """[r, 2 D]"""
    candidate: Tensor
    """[n, D], of the first part of `candidate`"""
    gate: Tensor
    """[n]"""
    layers: tuple[LayerGradients, ...]


class SeenGradients(NamedTuple):
    """Of what was known of the inputs."""

    scores: Tensor
    values: Tensor
    key_value: Tensor


def step_back(
    of_output: Tensor, of_memory: Tensor, of_gate: Tensor, slope: Tensor, tape: Tape, w: Weights, z: Sizes
) -> tuple[Tensor, SeenGradients, Gradients]:
    """Gradients of the output [B, R, D], the next memory [B, M, D] and
    the gates [B, M] -> of the memory, of the inputs, of the rest.

    `slope` [n] is that of the gates.
    """
    of_memory, of_key_value, of_query, write = write_back(of_memory, of_gate, slope, tape.write, w, z)
    last = of_output.reshape(-1, z.width) + write.output_kind
    gradient = normalise_back(last, tape.last, w.last_scale)
    layers = []
    for at, weights in zip(reversed(tape.layers), reversed(w.layers), strict=True):
        gradient, layer = block_back(gradient, at, weights, z)
        layers.append(layer)
    of_read = gradient.view(z.rows, z.outputs, z.width)
    of_memory, kind, tokens, hidden, of_scores, of_values = look_back(
        of_memory, of_read, of_query, write.gate_hidden, tape.look, w, z
    )
    found = Gradients(
        kind=kind,
        tokens=tokens,
        hidden=hidden,
        query=of_query,
        gate_hidden=write.gate_hidden,
        score=of_scores[:, : z.slots].reshape(-1, z.outputs),
        last=last,
        output_kind=write.output_kind,
        key_value=write.key_value,
        candidate=write.candidate,
        gate=write.gate,
        layers=tuple(reversed(layers)),
    )
    seen = SeenGradients(of_scores[:, z.slots :], of_values[:, z.slots :], of_key_value)
    return of_memory, seen, found


class WriteGradients(NamedTuple):
    output_kind: Tensor
    key_value: Tensor
    candidate: Tensor
    gate_hidden: Tensor
    gate: Tensor


def write_back(
    of_memory: Tensor, of_gate: Tensor, slope: Tensor, at: WriteTape, w: Weights, z: Sizes
) -> tuple[Tensor, Tensor, Tensor, WriteGradients]:
    """The gradients of the memory past the gates, of the inputs' keys and values, and of the queries [n, D]."""
    flat = of_memory.reshape(-1, z.width)
    candidate = flat * at.gate.unsqueeze(1)
    gate = torch.addmv(of_gate.reshape(-1), flat * at.change, w.ones) * slope
    gate_hidden = gelu_back(gate.unsqueeze(1) * w.gate, at.gate_hidden)
    to_candidate, to_gate = w.candidate.split((z.width, z.hidden))
    of_mixed = torch.addmm(torch.mm(candidate, to_candidate), gate_hidden, to_gate)
    of_query, of_key, of_value = attend_back(of_mixed.view(z.rows, z.slots, -1), at.attended, z.write_heads)
    query = join(of_query.unsqueeze(0), z.write_heads).view(-1, z.width)
    both = join(torch.stack([of_key, of_value]), z.write_heads)
    key_value = both[:, z.inputs :].reshape(-1, 2 * z.width)
    output_kind = normalise_back(torch.mm(key_value, w.key_value), at.written)
    found = WriteGradients(output_kind, key_value, candidate, gate_hidden, gate)
    return flat - candidate, both[:, : z.inputs], query, found


def block_back(gradient: Tensor, at: LayerTape, w: LayerWeights, z: Sizes) -> tuple[Tensor, LayerGradients]:
    """Of one Transformer block, [r, D]."""
    up = gelu_back(torch.mm(gradient, w.down), at.up)
    out = gradient + normalise_back(torch.mm(up, w.up), at.second)
    of_mixed = torch.mm(out, w.out).view(z.rows, z.outputs, z.width)
    qkv = join(torch.stack(attend_back(of_mixed, at.attended, z.heads)), z.heads).view(-1, 3 * z.width)
    return out + normalise_back(torch.mm(qkv, w.qkv), at.first), LayerGradients(qkv, out, up, gradient)


def look_back(
    of_memory: Tensor, of_read: Tensor, of_query: Tensor, of_gate: Tensor, at: LookTape, w: Weights, z: Sizes
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of the memory, with what comes through the slots' tokens and clocks, and of all on the way."""
    of_shares = torch.bmm(at.values, of_read.transpose(1, 2))
    of_scores = torch._softmax_backward_data(of_shares, at.shares, 1, of_shares.dtype)
    of_values = torch.bmm(at.shares, of_read)
    hidden = gelu_back(torch.mm(of_scores[:, : z.slots].reshape(-1, z.outputs), w.score), at.read_hidden)
    to_hidden, to_query, to_gate = w.slot.split((z.hidden, z.width, z.hidden))
    of_normed = torch.addmm(torch.addmm(torch.mm(hidden, to_hidden), of_query, to_query), of_gate, to_gate)
    tokens = normalise_back(of_normed, at.slots).view(z.rows, z.slots, -1) + of_values[:, : z.slots]
    tokens = tokens.view(-1, z.width)
    of_hats = torch.mm(tokens, w.counts).mul_(at.hats.ceil()).mul_(at.away.sign().view(at.hats.shape))
    of_counts = torch.mm(of_hats, w.falls).view(z.rows, z.slots, -1)
    of_kinds = torch.bmm(at.newer.transpose(1, 2), of_counts)
    kind = torch.ops.aten.sigmoid_backward.default(of_kinds, at.kinds).view(len(tokens), -1)
    of_memory = torch.addmm(of_memory + tokens, kind, w.kind).view(z.rows, z.slots, -1)
    return of_memory, kind, tokens, hidden, of_scores, of_values
