"""A pre-norm Transformer over the read tokens."""

from torch import Tensor, nn

from tokenturing.errors import OptionError
from tokenturing.layers.attention import scaled_attention, split_heads
from tokenturing.layers.feedforward import FeedForward
from tokenturing.layers.linear import Linear


class SelfAttention(nn.Module):
    """Multi-head attention of tokens [B, R, D] to one another; query, key and value in one projection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if heads < 1 or width % heads:
            raise OptionError(f"width={width} cannot be split into heads={heads}: choose a divisor of the width")
        self.heads = heads
        self.query_key_value = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = (split_heads(part, self.heads) for part in self.query_key_value(x).chunk(3, dim=-1))
        bias = None if mask is None else mask[:, None, None, :]
        mixed = scaled_attention(query, key, value, bias)
        return self.out(mixed.transpose(-3, -2).flatten(-2))


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, R, D], mask bool [B, R] -> [B, R, D]"""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class TransformerProcessor(nn.Module):
    """Transformer blocks and a last LayerNorm: [B, R, D] -> [B, R, D] (paper section 3.4)."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.norm(tokens)
