"""The machine's equations written straight down: nothing taken out of the loop, nothing fused. What speed is compared with."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenturing.memory.write import WRITTEN, GatedWrite
from tokenturing.models.cell import MachineState
from tokenturing.models.machine import TokenTuringMachine
from tokenturing.processors.transformer import TransformerBlock, TransformerProcessor


def plain_step(model: TokenTuringMachine, x: Tensor, state: MachineState) -> tuple[Tensor, MachineState]:
    """One step with the model's own parameters: concatenate, summarise, process, attend, gate.

    x [B, N, D] -> y [B, R, D] and the next state; for a gated write, an MLP read, a Transformer and no look back.
    """
    cell, write = model.cell, model.cell.write
    assert isinstance(write, GatedWrite)
    assert isinstance(cell.processor, TransformerProcessor)
    assert cell.look_back is None
    tokens = cell.positions.memory(state.memory) + cell.clock(state.memory, state.age)  # type: ignore[misc]
    everything = torch.cat([tokens, cell.positions.input(x)], dim=1)
    weights = cell.read.score(everything).softmax(dim=1)
    output = _process(cell.processor, weights.transpose(1, 2) @ everything)
    sources = torch.cat([write.positions.input(x), write.positions.output(output)], dim=1)
    key, value = write.key_value(write.token_norm(sources)).chunk(2, dim=-1)
    slot = write.slot_norm(tokens)
    heads = write.attention_heads
    candidate = write.out(_attend(_split(write.query(slot), heads), _split(key, heads), _split(value, heads)))
    oldest = (state.age >= state.age.amax(dim=1, keepdim=True)).unsqueeze(-1)
    gate = F.hardsigmoid(write.gate(torch.cat([slot, candidate], dim=-1)) + write.oldest * oldest)
    age = (state.age + 1).masked_fill(gate.squeeze(-1) >= WRITTEN, 0)
    return output, MachineState(state.memory + gate * (candidate - state.memory), age)


def plain(model: TokenTuringMachine, x: Tensor) -> tuple[Tensor, MachineState]:
    """x [B, T, N, D] -> y [B, T, R, D] and the last state, one step after the other."""
    state = model.initial_state(x.shape[0])
    assert isinstance(state, MachineState)
    outputs = []
    for t in range(x.shape[1]):
        y, state = plain_step(model, x[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def _process(processor: TransformerProcessor, tokens: Tensor) -> Tensor:
    for block in processor.blocks:
        assert isinstance(block, TransformerBlock)
        attention = block.attention
        parts = attention.query_key_value(block.attention_norm(tokens)).chunk(3, dim=-1)
        tokens = tokens + attention.out(_attend(*(_split(part, attention.heads) for part in parts)))
        tokens = tokens + block.mlp(block.mlp_norm(tokens))
    return processor.norm(tokens)


def _split(tokens: Tensor, heads: int) -> Tensor:
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
