"""Retrieval over the stream: every step is kept, the nearest few are looked up (RAG for streams)."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenturing.baselines.chunked import ChunkedBaseline
from tokenturing.baselines.history import Timeline, reach, store, trim
from tokenturing.layers.age import AGE_BINS, AgeScale
from tokenturing.layers.positions import learned
from tokenturing.models.arguments import check_batch_size
from tokenturing.processors.transformer import TransformerProcessor
from tokenturing.state import grows, out_of_range


@grows("entries")
class IndexState(NamedTuple):
    """Keys and values of all steps; S is at least k, so that the k nearest can always be asked for."""

    entries: Tensor
    """[B, S, 2, D]; zeros where there is none"""
    steps: Tensor
    """[B] int64, steps in the index"""

    def fault(self) -> str | None:
        return out_of_range("steps", self.steps, self.entries.shape[1], "what the index has room for")


class Found(NamedTuple):
    """The k nearest earlier steps of each step."""

    values: Tensor
    """[B, T, k, D]; zeros where there is none"""
    weights: Tensor
    """[B, T, k], softmax of the scores; zeros where there is none"""
    ages: Tensor
    """int64 [B, T, k], in steps"""
    present: Tensor
    """bool [B, T, k]"""


class AgeFeatures(nn.Module):
    """The logarithm of an age as a vector, even up to a horizon: [...] -> [..., D]."""

    def __init__(self, width: int):
        super().__init__()
        self.age_scale = AgeScale()
        self.features = nn.Linear(AGE_BINS, width, bias=False)
        nn.init.normal_(self.features.weight, std=0.3)

    def forward(self, age: Tensor) -> Tensor:
        return self.features(self.age_scale(age).to(self.features.weight.dtype))


class Retrieval(ChunkedBaseline):
    """Attends to the k nearest of all earlier steps, then thinks about [step || k retrieved].

    score = query . key / sqrt(D) - slope log(1 + age); the weights are the softmax over the k highest. The
    weighted sum joins the step's own embedding, and each retrieved value enters a small Transformer as a
    token with its age and weight. Gradients flow through the k selected; selecting itself has none.

    Args:
        width: D.
        layers: Transformer blocks over the 1 + k tokens.
        heads: of their attention; a divisor of the width.
        nearest: k.
        hidden: width of the blocks' MLP; None: 4 D.
        input_tokens: N where it is fixed, else None.
        read_tokens: R.
        dropout: inside the blocks.
    """

    growing = frozenset({"entries"})

    def __init__(
        self,
        width: int,
        layers: int = 2,
        heads: int = 8,
        *,
        nearest: int = 16,
        hidden: int | None = None,
        input_tokens: int | None = None,
        read_tokens: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__(locals())
        self.nearest = nearest
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.slope = nn.Parameter(torch.tensor(0.25))
        self.age = AgeFeatures(width)
        self.weight = learned(width)
        self.kinds = learned(2, width)
        self.transformer = TransformerProcessor(width, layers, heads, hidden or 4 * width, dropout)

    def initial_state(self, batch_size: int) -> IndexState:
        check_batch_size(batch_size)
        like = next(self.parameters())
        index = like.new_zeros(batch_size, self.nearest, 2, self.width)
        return IndexState(index, torch.zeros(batch_size, dtype=torch.int64, device=like.device))

    def trim(self, state: IndexState) -> IndexState:
        return IndexState(trim(state.entries, state.steps, self.nearest), state.steps)

    def chunk(self, x: Tensor, state: IndexState, times: Timeline) -> tuple[Tensor, IndexState]:
        query, key, value = self.query_key_value(self.norm(x)).chunk(3, dim=-1)
        entries = torch.stack([key, value], dim=2)
        found = self.look_up(query, entries, state, times)
        index, steps = store(state.entries, entries, state.steps, times)
        return self.head(self.think(x, found)), IndexState(index, steps)

    def look_up(self, query: Tensor, entries: Tensor, state: IndexState, times: Timeline) -> Found:
        """query [B, T, D], entries [B, T, 2, D] -> the k nearest of those before each step."""
        keys, values = torch.cat([state.entries, entries], dim=1).unbind(2)
        reached = reach(state.steps, state.entries.shape[1], times)
        itself = torch.eye(query.shape[1], dtype=torch.bool, device=query.device)
        earlier = reached.visible & ~nn.functional.pad(itself, (state.entries.shape[1], 0))
        log_age = reached.distance.float().log1p().to(query.dtype)
        scores = query @ keys.transpose(-1, -2) / math.sqrt(self.width) - self.slope * log_age
        # The lowest number, not minus infinity: a first step finds nothing, and its softmax must not be NaN.
        scores = scores.masked_fill(~earlier, torch.finfo(scores.dtype).min)
        top, where = scores.topk(self.nearest, dim=-1)
        present = earlier.gather(2, where)
        row = torch.arange(query.shape[0], device=query.device)[:, None, None]
        found = torch.where(present.unsqueeze(-1), values[row, where], 0.0)
        return Found(found, top.softmax(-1) * present, reached.distance.gather(2, where), present)

    def think(self, x: Tensor, found: Found) -> Tensor:
        """Step embeddings [B, T, D] and what was found -> [B, T, D]"""
        summary = (found.weights.unsqueeze(-2) @ found.values).squeeze(-2)
        asking = (x + self.out(summary) + self.kinds[0]).unsqueeze(2)
        others = found.values + self.age(found.ages) + self.kinds[1]
        others = others + found.weights.unsqueeze(-1) * self.weight
        tokens = torch.cat([asking, others], dim=2).flatten(0, 1)
        present = nn.functional.pad(found.present, (1, 0), value=True).flatten(0, 1)
        blocks: list[Any] = list(self.transformer.blocks)
        for block in blocks[:-1]:
            tokens = block(tokens, present)
        last = blocks[-1]
        # Of the last block only the step's own token is used, so its MLP sees no other.
        own = tokens[:, 0] + last.dropout(last.attention(last.attention_norm(tokens), present)[:, 0])
        own = own + last.dropout(last.mlp(last.mlp_norm(own)))
        return self.transformer.norm(own).unflatten(0, x.shape[:2])
