"""Multi-head attention over tokens with a mask of the tokens that are absent."""

import torch.nn.functional as F
from torch import Tensor, nn

from tokenturing.errors import OptionError


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[..., P, D] -> [..., heads, P, D / heads]"""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """Scaled dot-product attention. query [B, Q, D], key and value [B, P, D], mask bool [B, P] -> [B, Q, D].

    A row whose tokens are all absent gets zeros, not NaN (PyTorch's own safe softmax).
    """
    q, k, v = split_heads(query, heads), split_heads(key, heads), split_heads(value, heads)
    bias = None if mask is None else mask[:, None, None, :]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return out.transpose(-3, -2).flatten(-2)


class Attention(nn.Module):
    """Multi-head attention of queries [B, Q, D] over tokens [B, P, D].

    Args:
        width: D, divisible by `heads`.
        heads: the number of heads.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        if heads < 1 or width % heads:
            raise OptionError(
                f"width={width} cannot be split into heads={heads}: choose a divisor of the width"
            )
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """queries [B, Q, D], tokens [B, P, D], mask bool [B, P] (false: absent) -> [B, Q, D]"""
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        return self.out(attend(self.query(queries), key, value, mask, self.heads))
