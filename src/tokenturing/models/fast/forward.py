"""One step: what `Cell.forward` computes, with fewer and larger products, and what the way back needs of it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenturing.memory.clock import COUNTED
from tokenturing.memory.write import WRITTEN
from tokenturing.models.fast.parts import attend, normalise, split
from tokenturing.models.fast.tape import LayerTape, LookTape, Seen, Sizes, Tape, WriteTape
from tokenturing.models.fast.weights import LayerWeights, Weights


def step(memory: Tensor, age: Tensor, seen: Seen, w: Weights, z: Sizes) -> tuple[Tensor, Tensor, Tensor, Tape]:
    """Memory [B, M, D] and age [B, M] -> output [B, R, D], the next memory, its ages, and the tape; the weights are turned."""
    tokens, query, gate_part, looked = look(memory, age, seen, w, z)
    layers = []
    for weights in w.layers:
        tokens, layer = block(tokens, weights, z)
        layers.append(layer)
    last = normalise(tokens)
    output = torch.addcmul(w.last_shift, last.normed, w.last_scale)
    memory, age, written = write(memory, age, query, gate_part, output, seen, w, z)
    return output.view(z.rows, z.outputs, z.width), memory, age, Tape(looked, tuple(layers), last, written)


def look(memory: Tensor, age: Tensor, seen: Seen, w: Weights, z: Sizes) -> tuple[Tensor, Tensor, Tensor, LookTape]:
    """What is read [r, D], the slots' queries [n, D], and their part of the gate's hidden units [n, G]."""
    flat = memory.view(-1, z.width)
    newer = torch.lt(age.unsqueeze(1), age.unsqueeze(2)).to(memory.dtype)
    kinds = torch.addmm(w.kind_bias, flat, w.kind).sigmoid_().view(z.rows, z.slots, -1)
    counts = torch.bmm(newer, kinds)
    if z.slots > COUNTED + 1:
        counts = counts.clamp_(max=float(COUNTED))
    away = counts.view(len(flat), -1, 1) - w.bins
    hats = (1 - away.abs()).clamp_(min=0).view(len(flat), -1)
    ages = age.clamp(max=len(w.ages) - 1).view(-1)
    clocks = torch.addmm(w.ages.index_select(0, ages), hats, w.counts).view(memory.shape)
    tokens = clocks.add_(w.places).add_(memory)
    slots = normalise(tokens.view(-1, z.width))
    hidden, query, gate_part = torch.addmm(w.slot_bias, slots.normed, w.slot).split((z.hidden, z.width, z.hidden), 1)
    bent = F.gelu(hidden)
    scores = torch.addmm(w.score_bias, bent, w.score).view(z.rows, z.slots, -1)
    values = torch.cat([tokens, seen.values], 1)
    shares = torch.softmax(torch.cat([scores, seen.scores], 1), 1)
    read = torch.bmm(shares.transpose(1, 2), values).view(-1, z.width)
    return read, query, gate_part, LookTape(flat, newer, kinds, away, hats, ages, slots, hidden, bent, values, shares)


def block(tokens: Tensor, w: LayerWeights, z: Sizes) -> tuple[Tensor, LayerTape]:
    """One Transformer block, [r, D]."""
    first = normalise(tokens)
    qkv = torch.addmm(w.qkv_bias, first.normed, w.qkv).view(z.rows, z.outputs, -1)
    query, key, value = split(qkv, 3, z.heads)
    mixed, attended = attend(query, key, value, None, z.heads)
    mixed = mixed.view(-1, z.width)
    second = normalise(torch.addmm(tokens, mixed, w.out).add_(w.out_bias))
    up = torch.addmm(w.up_bias, second.normed, w.up)
    bent = F.gelu(up)
    following = torch.addmm(second.tokens, bent, w.down).add_(w.down_bias)
    return following, LayerTape(first, attended, mixed, second, up, bent)


def write(
    memory: Tensor, age: Tensor, query: Tensor, gate_part: Tensor, output: Tensor, seen: Seen, w: Weights, z: Sizes
) -> tuple[Tensor, Tensor, WriteTape]:
    """The next memory and its ages."""
    written = normalise(output + w.output_kind)
    of_output = torch.addmm(w.key_value_bias, written.normed, w.key_value).view(z.rows, z.outputs, -1)
    key, value = split(torch.cat([seen.key_value, of_output], 1), 2, z.write_heads)
    (query,) = split(query.view(z.rows, z.slots, -1), 1, z.write_heads)
    mixed, attended = attend(query, key, value, seen.absent, z.write_heads)
    mixed = mixed.view(-1, z.width)
    candidate, gate_hidden = torch.addmm(w.candidate_bias, mixed, w.candidate).split((z.width, z.hidden), 1)
    gate_hidden = gate_hidden + gate_part
    gate_bent = F.gelu(gate_hidden)
    oldest = torch.ge(age, age.amax(1, keepdim=True)).to(memory.dtype).view(-1)
    opening = torch.addmv(torch.addcmul(w.gate_bias, oldest, w.oldest), gate_bent, w.gate)
    gate = F.hardsigmoid(opening)
    change = candidate - memory.view(candidate.shape)
    following = torch.addcmul(memory, gate.view(z.rows, z.slots, 1), change.view(memory.shape))
    following_age = (age + 1).masked_fill_(gate.view(age.shape) >= WRITTEN, 0)
    return following, following_age, WriteTape(written, attended, mixed, gate_hidden, gate_bent, oldest, opening, gate, change)
