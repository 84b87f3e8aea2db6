"""A TokenFormer over the read tokens: every linear layer is attention to parameter tokens (arXiv 2410.23168)."""

from torch import Tensor, nn

from tokenturing.errors import OptionError
from tokenturing.layers.attention import scaled_attention, split_heads
from tokenturing.layers.feedforward import Pattention


class TokenFormerBlock(nn.Module):
    """A pre-norm Transformer block whose projections and feed-forward are Pattention layers (eq. 6-9)."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        if heads < 1 or width % heads:
            raise OptionError(f"width={width} cannot be split into heads={heads}: choose a divisor of the width")
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = Pattention(width, width, width)
        self.key = Pattention(width, width, width)
        self.value = Pattention(width, width, width)
        self.out = Pattention(width, width, width)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = Pattention(width, width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, R, D] -> [B, R, D]"""
        normed = self.attention_norm(x)
        query, key, value = (split_heads(p(normed), self.heads) for p in (self.query, self.key, self.value))
        mixed = scaled_attention(query, key, value).transpose(-3, -2).flatten(-2)
        x = x + self.out(mixed)
        return x + self.feedforward(self.feedforward_norm(x))


class TokenFormerProcessor(nn.Module):
    """TokenFormer blocks and a final LayerNorm: [B, R, D] -> [B, R, D]."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int):
        super().__init__()
        self.blocks = nn.Sequential(*(TokenFormerBlock(width, heads, hidden) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.blocks(tokens))
