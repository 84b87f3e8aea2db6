"""Multi-head attention over tokens, some of which may be masked out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenturing.errors import OptionError
from tokenturing.layers.linear import Linear


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[..., P, D] -> [..., heads, P, D / heads]"""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


ABSENT = -1e30
"""score of a masked token: its weight is 0, and gradients stay finite where all tokens are masked"""
FEW = 4096
"""query tokens times tokens, up to which attention may be written out on a CPU"""


def scaled_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of heads [B, H, Q, D / H], with a mask bool [B, 1, 1, P] (false: absent).

    PyTorch's fused kernel, except for few tokens on a CPU: in bfloat16, where its backward takes twenty times as long as that of
    the equations written out, and under a compiler, which cannot fuse anything with it.
    """
    if not _written_out(query, key):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is None:
        return scores.softmax(-1) @ value
    weights = scores.masked_fill(~mask, ABSENT).softmax(-1)
    return (weights * mask) @ value  # zeros where all tokens are absent


def _written_out(query: Tensor, key: Tensor) -> bool:
    # An exported graph holds for any number of tokens, so it must not depend on the number.
    if torch.compiler.is_exporting() or query.device.type != "cpu":
        return False
    if not torch.compiler.is_compiling() and query.dtype != torch.bfloat16:
        return False
    return query.shape[-2] * key.shape[-2] <= FEW


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """Scaled dot-product attention. query [B, Q, D], key and value [B, P, D], mask bool [B, P] -> [B, Q, D].

    A row whose tokens are all absent gets zeros, not NaN.
    """
    q, k, v = split_heads(query, heads), split_heads(key, heads), split_heads(value, heads)
    bias = None if mask is None else mask[:, None, None, :]
    out = scaled_attention(q, k, v, bias)
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
            raise OptionError(f"width={width} cannot be split into heads={heads}: choose a divisor of the width")
        self.heads = heads
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.out = Linear(width, width)

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """queries [B, Q, D], tokens [B, P, D], mask bool [B, P] (false: absent) -> [B, Q, D]"""
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        return self.out(attend(self.query(queries), key, value, mask, self.heads))
