"""A causal Transformer over step embeddings with a key-value cache: whole history or sliding window.

Positions. A model that is trained on histories of up to about 1,000 steps should still know what came before
what 10,000 steps later, so nothing in it may take values there that training never showed:

- Half of each head's channels are rotated (RoPE, arXiv 2104.09864) with *whole-number* periods from 4 to 128
  steps: every phase is seen within 128 steps, and (position mod period) is exact in int64 however long the
  stream runs, where position * frequency in float32 blurs after a few hours. Absolute phases, taken at
  insertion, give relative ones in the product, so cached keys never need to be turned again.
- The other half carries content alone, so that a far key can be found whatever its phase.
- A learned bias of -slope * log(1 + distance) for each head (KERPLE's logarithmic kernel, arXiv 2205.09921)
  tells far from near without a horizon. ALiBi's linear bias would silence anything some hundred steps back; a
  rotation with long periods would meet new phases.
- Queries grow with the log of the number of keys (scalable softmax, arXiv 2501.19399), so that attention on
  one key among 10,000 can be as sharp as among 1,000.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenturing.baselines.chunked import ChunkedBaseline
from tokenturing.baselines.history import Reach, Timeline, reach, store, trim
from tokenturing.errors import OptionError
from tokenturing.layers.attention import split_heads
from tokenturing.layers.feedforward import FeedForward

SHORTEST, LONGEST = 4, 128
"""periods of the rotations, in steps"""


class CacheState(NamedTuple):
    """Keys and values of the steps a row has seen."""

    cache: Tensor
    """[B, S, L, 2, D]: the rotated keys and the values of each layer; zeros where there is none"""
    steps: Tensor
    """[B] int64, of the row's history"""


class View(NamedTuple):
    """What every layer needs to know of places."""

    reach: Reach
    log_distance: Tensor
    """[B, 1, T, S + T]"""
    log_keys: Tensor
    """[B, 1, T, 1], log of the number of keys a query sees"""
    cosine: Tensor
    """[B, 1, T, pairs], of the rotation at each new step"""
    sine: Tensor


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn the first 2 * pairs channels of x [B, heads, T, d] by the phases [B, 1, T, pairs]."""
    pairs = cosine.shape[-1]
    first, second, rest = x.split([pairs, pairs, x.shape[-1] - 2 * pairs], dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine, rest], dim=-1)


class CausalBlock(nn.Module):
    """x + attention(norm(x)) to itself and the past, then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.slope = nn.Parameter(torch.linspace(0.0, 2.0, heads).view(heads, 1, 1))
        self.sharpness = nn.Parameter(torch.full((heads, 1, 1), 0.1))

    def forward(self, x: Tensor, cache: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """x [B, T, D], cache [B, S, 2, D] -> x and the new steps' entries [B, T, 2, D]"""
        query, key, value = self.query_key_value(self.attention_norm(x)).chunk(3, dim=-1)
        query = rotate(split_heads(query, self.heads), view.cosine, view.sine)
        key = rotate(split_heads(key, self.heads), view.cosine, view.sine)
        mixed = self.attend(query, key, split_heads(value, self.heads), cache, view)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        entries = torch.stack([key.transpose(1, 2).flatten(2), value], dim=2)
        return x + self.dropout(self.mlp(self.mlp_norm(x))), entries

    def attend(self, query: Tensor, key: Tensor, value: Tensor, cache: Tensor, view: View) -> Tensor:
        """All [B, heads, T, d] but the cache, which is not copied: scores are joined, not keys."""
        old_key, old_value = (split_heads(part, self.heads) for part in cache.unbind(2))
        query = query * ((1 + self.sharpness * view.log_keys) / math.sqrt(query.shape[-1]))
        scores = torch.cat([query @ old_key.transpose(-1, -2), query @ key.transpose(-1, -2)], dim=-1)
        scores = scores - self.slope * view.log_distance
        weights = scores.masked_fill(~view.reach.visible.unsqueeze(1), -math.inf).softmax(-1)
        old, new = weights.split([old_key.shape[2], key.shape[2]], dim=-1)
        return old @ old_value + new @ value


class CausalTransformer(ChunkedBaseline):
    """The Transformer of `WindowTransformer` and `FullTransformer`; `window` None: the whole history."""

    periods: Tensor

    def __init__(self, arguments: dict):
        super().__init__(arguments)
        options = self.config
        self.window: int | None = options.get("window")
        heads = options["heads"]
        if self.width % heads:
            raise OptionError(
                f"width={self.width} cannot be split into heads={heads}: choose a divisor of the width"
            )
        self.blocks = nn.ModuleList(
            CausalBlock(self.width, heads, options["hidden"] or 4 * self.width, options["dropout"])
            for _ in range(options["layers"])
        )
        pairs = self.width // heads // 4
        ratio = (LONGEST / SHORTEST) ** (1 / max(pairs - 1, 1))
        periods = [round(SHORTEST * ratio**pair) for pair in range(pairs)]
        self.register_buffer("periods", torch.tensor(periods, dtype=torch.int64), persistent=False)

    def initial_state(self, batch_size: int) -> CacheState:
        like = next(self.parameters())
        cache = like.new_zeros(batch_size, self.window or 0, len(self.blocks), 2, self.width)
        return CacheState(cache, torch.zeros(batch_size, dtype=torch.int64, device=like.device))

    def trim(self, state: CacheState) -> CacheState:
        return state if self.window else CacheState(trim(state.cache, state.steps), state.steps)

    def view(self, state: CacheState, times: Timeline, dtype: torch.dtype) -> View:
        """Masks, distances and phases for one chunk."""
        reached = reach(state.steps, state.cache.shape[1], times, self.window)
        keys = times.position + 1 if self.window is None else (times.position + 1).clamp(max=self.window)
        turns = (times.position.unsqueeze(-1) % self.periods).float() / self.periods
        phase = (2 * math.pi * turns).unsqueeze(1)
        return View(
            reached,
            reached.distance.float().log1p().to(dtype).unsqueeze(1),
            keys.float().log().to(dtype)[:, None, :, None],
            phase.cos().to(dtype),
            phase.sin().to(dtype),
        )

    def chunk(self, x: Tensor, state: CacheState, times: Timeline) -> tuple[Tensor, CacheState]:
        view = self.view(state, times, x.dtype)
        entries = []
        for layer, block in enumerate(self.blocks):
            x, entry = block(x, state.cache[:, :, layer], view)
            entries.append(entry)
        cache, steps = store(state.cache, torch.stack(entries, dim=2), state.steps, times, self.window)
        return self.head(x), CacheState(cache, steps)
