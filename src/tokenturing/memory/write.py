"""The writes: memory, input and output tokens -> the next memory (paper section 3.3 and table 6)."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenturing.errors import OptionError, choose
from tokenturing.layers.attention import attend
from tokenturing.layers.feedforward import FeedForward
from tokenturing.layers.linear import Linear
from tokenturing.layers.positions import NoPositions, TokenPositions
from tokenturing.memory.summarize import SUMMARIZERS, Encoded, build_summarizer


class Slots(NamedTuple):
    """The memory at one step, as the writes need it."""

    memory: Tensor
    """[B, M, D], what is stored"""
    tokens: Tensor
    """[B, M, D], the same with slot positions and clocks added"""
    age: Tensor
    """int64 [B, M], steps since each slot was last written"""


class Written(NamedTuple):
    """What a write leaves behind."""

    memory: Tensor
    """[B, M, D], the next memory"""
    age: Tensor
    """int64 [B, M], the slots' ages"""
    gate: Tensor | None = None
    """[B, M, 1], how much of each slot was replaced, where the write says so"""


class Write(nn.Module):
    """One write: `prepare` sees the inputs of all steps at once, `forward` one step."""

    def prepare(self, x: Tensor, mask: Tensor | None) -> Any:
        """What can be said of the inputs [..., N, D] without the memory: a tuple of tensors [..., ...]."""
        return ()

    def forward(self, slots: Slots, prepared: Any, output: Tensor) -> Written:
        """One step; output [B, R, D]."""
        raise NotImplementedError


class SummaryWrite(Write):
    """memory = S_M([memory || input || output]): every slot is made anew at every step (paper eq. 5)."""

    def __init__(self, kind: str, width: int, memory_tokens: int, heads: int, positions: TokenPositions | NoPositions):
        super().__init__()
        self.positions = positions
        self.summarizer = build_summarizer(kind, width, memory_tokens, heads)

    def prepare(self, x: Tensor, mask: Tensor | None) -> Encoded:
        return self.summarizer.encode(self.positions.input(x), mask)

    def forward(self, slots: Slots, prepared: Encoded, output: Tensor) -> Written:
        memory = self.summarizer.encode(self.positions.memory(slots.memory))
        out = self.summarizer.encode(self.positions.output(output))
        return Written(self.summarizer.combine([memory, prepared, out]), slots.age)


class EraseAddWrite(Write):
    """The Neural Turing Machine's write: memory * prod(1 - w_r e_r) + sum(w_r a_r) over R heads (arXiv 1410.5401, 3.2).

    Each output token is one write head: it gives an erase vector e in (0, 1), an add vector a and, by content, a
    distribution w over the slots.
    """

    def __init__(self, width: int):
        super().__init__()
        self.slot_norm = nn.LayerNorm(width)
        self.output_norm = nn.LayerNorm(width)
        self.key = Linear(width, width)
        self.heads = Linear(width, 3 * width)

    def forward(self, slots: Slots, prepared: Any, output: Tensor) -> Written:
        query, erase, add = self.heads(self.output_norm(output)).chunk(3, dim=-1)
        scores = query @ self.key(self.slot_norm(slots.tokens)).transpose(-1, -2)
        where = (scores / query.shape[-1] ** 0.5).softmax(-1)
        kept = torch.ones_like(slots.memory)
        for w, e in zip(where.unbind(1), erase.sigmoid().unbind(1), strict=True):
            kept = kept * (1 - w.unsqueeze(-1) * e.unsqueeze(1))
        return Written(slots.memory * kept + where.transpose(-1, -2) @ add, slots.age)


class ConcatWrite(Write):
    """A queue: the output tokens are appended and the newest M tokens kept (the paper's "concatenate")."""

    def forward(self, slots: Slots, prepared: Any, output: Tensor) -> Written:
        # The oldest are left out before joining, so that a state holds on to no storage but its own.
        kept, new = slots.memory[:, output.shape[1] :], output[:, -slots.memory.shape[1] :]
        return Written(torch.cat([kept, new], dim=1), slots.age)


class NoWrite(Write):
    """Nothing is ever written: the machine without memory."""

    def forward(self, slots: Slots, prepared: Any, output: Tensor) -> Written:
        return Written(slots.memory, slots.age)


CLOSED = -2.8
"""the gate's bias at the start: nearly closed (it is shut at -3), yet with a gradient"""
OPEN_OLDEST = 4.0
"""what the gate of the oldest slot has more at the start, so that the memory begins as a queue of the last M steps and
learns what not to write, in place of M copies of the present"""
WRITTEN = 0.5
"""the gate from which on a slot counts as written: its age begins anew. Half of the slot is the present's then, so that the
task itself holds the gates of what is to be kept above it; three quarters is so near to all that the cost of writing moves
gates across it, and the order is lost at once."""


class GatedWrite(Write):
    """An LSTM of tokens: each slot takes a candidate through a gate of its own that can be exactly 0.

    c_i = attention of slot i to [input || output], g_i = hardsigmoid(MLP([m_i, c_i])), m_i <- m_i + g_i (c_i - m_i), and
    the age a_i <- 0 where g_i >= WRITTEN, else a_i + 1: a small opening changes no order. A slot whose gate is 0 is unchanged to
    the bit, so that silence costs nothing however long it lasts.
    """

    def __init__(self, width: int, heads: int, positions: TokenPositions | NoPositions):
        super().__init__()
        if width % heads:
            raise OptionError(f"width={width} cannot be split into heads={heads}: choose a divisor of the width")
        self.attention_heads = heads
        self.positions = positions
        self.slot_norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(width)
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.out = Linear(width, width)
        self.gate = FeedForward(2 * width, 64, 1)
        nn.init.constant_(self.gate[-1].bias, CLOSED)  # type: ignore[arg-type]
        self.oldest = nn.Parameter(torch.tensor(OPEN_OLDEST))

    def prepare(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        key_value = self.key_value(self.token_norm(self.positions.input(x)))
        return (key_value,) if mask is None else (key_value, mask)

    def forward(self, slots: Slots, prepared: tuple[Tensor, ...], output: Tensor) -> Written:
        candidate, gate = self.propose(slots, prepared, output)
        memory = slots.memory + gate * (candidate - slots.memory)
        return Written(memory, (slots.age + 1).masked_fill(gate.squeeze(-1) >= WRITTEN, 0), gate)

    def propose(self, slots: Slots, prepared: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, Tensor]:
        """The candidate [B, M, D] and the gate [B, M, 1] of each slot."""
        from_output = self.key_value(self.token_norm(self.positions.output(output)))
        key, value = torch.cat([prepared[0], from_output], dim=1).chunk(2, dim=-1)
        mask = F.pad(prepared[1], (0, output.shape[1]), value=True) if len(prepared) > 1 else None
        slot = self.slot_norm(slots.tokens)
        candidate = self.out(attend(self.query(slot), key, value, mask, self.attention_heads))
        oldest = (slots.age >= slots.age.amax(dim=1, keepdim=True)).unsqueeze(-1)
        opening = self.gate(torch.cat([slot, candidate], dim=-1)) + self.oldest * oldest
        return candidate, F.hardsigmoid(opening)


WRITES = (*SUMMARIZERS, "erase_add", "concat", "none", "gated")


def build_write(kind: str, width: int, memory_tokens: int, heads: int, positions: TokenPositions | NoPositions) -> Write:
    """The write of that name."""
    choose("write", kind, WRITES)
    if kind in SUMMARIZERS:
        return SummaryWrite(kind, width, memory_tokens, heads, positions)
    if kind == "gated":
        return GatedWrite(width, heads, positions)
    if kind == "erase_add":
        return EraseAddWrite(width)
    return ConcatWrite() if kind == "concat" else NoWrite()
