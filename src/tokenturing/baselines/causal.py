"""A causal Transformer over step embeddings with a key-value cache: whole history or sliding window.

Positions. A model that is trained on histories of up to about 1,000 steps should still know what came before
what 10,000 steps later, so nothing in it may take values there that training never showed:

- Each head adds to its scores a learned mix of log(1 + distance) (KERPLE's logarithmic kernel, arXiv
  2205.09921), which tells far from near without a horizon and starts at slopes from 0 (all times alike) to 2,
  and of four decays exp(-distance / 1, 4, 16, 64), which tell near steps apart and are gone where it is far.
- Queries grow with the log of the number of keys (scalable softmax, arXiv 2501.19399), so that attention on
  one key among 10,000 can be as sharp as among 1,000.
- Nothing else: only distances count, so that a billion steps in is as exact as the beginning.

Measured on "which was the second last of three symbols in noise", trained 700 steps on lengths 8 to 64,
accuracy at 64 / 256 / 640 steps: this 0.89 / 0.77 / 0.70; without the decays 0.84 / 0.77 / 0.71, but it
learns much more slowly; half of the channels rotated (RoPE) at whole-number periods of 4 to 128 steps in
place of the decays 0.95 / 0.39 / 0.35. ALiBi's linear bias silences what is some hundred steps back by its
form. One seed each.
"""

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from tokenturing.baselines.chunked import ChunkedBaseline
from tokenturing.baselines.history import Reach, Timeline, reach, store, trim
from tokenturing.errors import OptionError
from tokenturing.layers.attention import split_heads
from tokenturing.layers.feedforward import FeedForward
from tokenturing.models.arguments import check_batch_size
from tokenturing.state import grows, out_of_range

DECAYS = (1.0, 4.0, 16.0, 64.0)
"""steps after which each kernel of near distances has fallen to 1 / e"""


@grows("cache")
class CacheState(NamedTuple):
    """Keys and values of all steps a row has seen."""

    cache: Tensor
    """[B, S, L, 2, D]: the keys and the values of each layer; zeros where there is none"""
    steps: Tensor
    """[B] int64, of the row's history"""

    def fault(self) -> str | None:
        return out_of_range("steps", self.steps, self.cache.shape[1], "what the cache has room for")


class RingState(NamedTuple):
    """Keys and values of the newest steps."""

    cache: Tensor
    """[B, W, L, 2, D], that of step p in column p mod W"""
    steps: Tensor
    """[B] int64, of the row's history"""

    def fault(self) -> str | None:
        return out_of_range("steps", self.steps)


Held = TypeVar("Held", CacheState, RingState)


class View(NamedTuple):
    """What every layer needs to know of places."""

    reach: Reach
    kernels: Tensor
    """[B, 1 + len(DECAYS), T, S + T], of the distance"""
    log_keys: Tensor
    """[B, 1, T, 1], log of the number of keys a query sees"""


def distance_kernels(distance: Tensor) -> Tensor:
    """int64 [B, T, P] steps back -> float32 [B, 1 + len(DECAYS), T, P]"""
    steps = distance.float()
    return torch.stack([steps.log1p(), *(torch.exp(-steps / decay) for decay in DECAYS)], dim=1)


def finite(x: Tensor) -> Tensor:
    """Zeros in place of NaN and infinities."""
    return torch.where(x.isfinite(), x, 0.0)


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
        self.kernel = nn.Parameter(torch.zeros(heads, 1 + len(DECAYS)))
        self.kernel.data[:, 0] = -torch.linspace(0.0, 2.0, heads)
        self.sharpness = nn.Parameter(torch.full((heads, 1, 1), 0.1))

    def forward(self, x: Tensor, cache: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """x [B, T, D], cache [B, S, 2, D] -> x and the new steps' entries [B, T, 2, D]"""
        query, key, value = self.query_key_value(self.attention_norm(x)).chunk(3, dim=-1)
        mixed = self.attend(query, key, value, cache, view)
        x = x + self.dropout(self.out(mixed))
        return x + self.dropout(self.mlp(self.mlp_norm(x))), torch.stack([key, value], dim=2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, cache: Tensor, view: View) -> Tensor:
        """[B, T, D] each -> [B, T, D]. The cache is not copied: scores are joined, not keys."""
        old_key, old_value = (split_heads(part, self.heads) for part in cache.unbind(2))
        query, key, value = (split_heads(part, self.heads) for part in (query, key, value))
        query = query * ((1 + self.sharpness * view.log_keys) / math.sqrt(query.shape[-1]))
        scores = torch.cat([query @ old_key.transpose(-1, -2), query @ key.transpose(-1, -2)], dim=-1)
        scores = scores + torch.einsum("hk,bktp->bhtp", self.kernel, view.kernels)
        weights = scores.masked_fill(~view.reach.visible.unsqueeze(1), -math.inf).softmax(-1)
        old, new = weights.split([old_key.shape[2], key.shape[2]], dim=-1)
        if query.shape[2] > 1:
            # Side by side, a step meets keys it must not see: weight zero times NaN would be NaN. A step that does
            # see such a step is NaN all the same, by its key.
            old_value, value = finite(old_value), finite(value)
        return (old @ old_value + new @ value).transpose(1, 2).flatten(2)


class CausalTransformer(ChunkedBaseline):
    """The Transformer of `WindowTransformer` and `FullTransformer`; `window` None: the whole history."""

    def __init__(self, arguments: dict):
        super().__init__(arguments)
        options = self.config
        self.window: int | None = options.get("window")
        heads = options["heads"]
        if self.width % heads:
            raise OptionError(f"width={self.width} cannot be split into heads={heads}: choose a divisor of the width")
        self.blocks = nn.ModuleList(
            CausalBlock(self.width, heads, options["hidden"] or 4 * self.width, options["dropout"])
            for _ in range(options["layers"])
        )

    def initial_state(self, batch_size: int) -> CacheState | RingState:
        check_batch_size(batch_size)
        like = next(self.parameters())
        cache = like.new_zeros(batch_size, self.window or 0, len(self.blocks), 2, self.width)
        kind = RingState if self.window else CacheState
        return kind(cache, torch.zeros(batch_size, dtype=torch.int64, device=like.device))

    def trim(self, state: Held) -> Held:
        return state if self.window else state._replace(cache=trim(state.cache, state.steps))

    def view(self, state: CacheState | RingState, times: Timeline, dtype: torch.dtype) -> View:
        """Masks and distances for one chunk."""
        reached = reach(state.steps, state.cache.shape[1], times, self.window)
        keys = times.position + 1 if self.window is None else (times.position + 1).clamp(max=self.window)
        return View(
            reached,
            distance_kernels(reached.distance).to(dtype),
            keys.float().log().to(dtype)[:, None, :, None],
        )

    def chunk(self, x: Tensor, state: Held, times: Timeline) -> tuple[Tensor, Held]:
        view = self.view(state, times, x.dtype)
        entries = []
        for layer, block in enumerate(self.blocks):
            x, entry = block(x, state.cache[:, :, layer], view)
            entries.append(entry)
        cache, steps = store(state.cache, torch.stack(entries, dim=2), state.steps, times, self.window)
        return self.head(x), state._replace(cache=cache, steps=steps)
