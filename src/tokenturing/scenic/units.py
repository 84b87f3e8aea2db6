"""The official units' building blocks, parameter for parameter (google-research/scenic, Flax).

Every module and parameter carries its Flax name and every parameter its Flax shape, hence odd names and
transposed kernels: the path "a/b/kernel" there is the parameter "a.b.kernel" here, and so is its gradient.
Whoever builds something new wants `layers`, `memory` and `processors`; these serve imported weights only.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenturing.memory.summarize import Summarizer

EPSILON = 1e-6
"""of Flax's LayerNorm"""
BOTTLENECK = 64
"""hidden width of the official summarisers and of the official erase-and-add write, whatever D is"""
QUERY_HEADS = 8
"""heads of the official latent-query summariser, whatever `num_heads` is"""
TOKEN_HIDDEN = 128
"""width of the official Mixer's token-mixing MLP, whatever `mlp_dim` is"""
WRITE_HEADS = 8
"""write heads of the official erase-and-add, whatever `process_size` is"""


def _kernel(*shape: int, inputs: int) -> nn.Parameter:
    """A kernel of that shape, of which `inputs` numbers enter; Xavier-uniform as if flattened to two axes."""
    outputs = math.prod(shape) // inputs
    bound = math.sqrt(6 / (inputs + outputs))
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class Dense(nn.Module):
    """x @ kernel + bias: [..., in] -> [..., out]."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.kernel = _kernel(inputs, outputs, inputs=inputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.kernel.t(), self.bias)


class LayerNorm(nn.Module):
    """Over the last axis."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        # Behind a norm, gradients of some biases are sums that nearly cancel; rounded to float32 on the way they would be
        # further from the official ones than these are from the truth.
        if x.device.type == "cpu" and x.dtype == torch.float32:
            scale, bias = self.scale.double(), self.bias.double()
            return F.layer_norm(x.double(), scale.shape, scale, bias, EPSILON).float()
        return F.layer_norm(x, self.scale.shape, self.scale, self.bias, EPSILON)


class MlpBlock(nn.Module):
    """Dense, GELU (tanh approximation), dropout, Dense, dropout: [..., in] -> [..., out]."""

    def __init__(self, inputs: int, hidden: int, outputs: int, dropout: float = 0.0):
        super().__init__()
        self.Dense_0 = Dense(inputs, hidden)
        self.Dense_1 = Dense(hidden, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.gelu(self.Dense_0(x), approximate="tanh"))
        return self.dropout(self.Dense_1(hidden))


class HeadsIn(nn.Module):
    """[..., D] -> [..., heads, D / heads]; kernel [D, heads, D / heads]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.kernel = _kernel(width, heads, width // heads, inputs=width)
        self.bias = nn.Parameter(torch.zeros(heads, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.kernel.flatten(1).t(), self.bias.flatten()).unflatten(-1, self.bias.shape)


class HeadsOut(nn.Module):
    """[..., heads, D / heads] -> [..., D]; kernel [heads, D / heads, D]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.kernel = _kernel(heads, width // heads, width, inputs=width)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(-2), self.kernel.flatten(0, 1).t(), self.bias)


class MultiHeadDotProductAttention(nn.Module):
    """Attention of tokens [B, P, D] to one another.

    Written out, as the backward pass of PyTorch's fused attention on the CPU loses precision where tokens are
    much alike: after a latent-query read, gradients of query and key were off the official ones by over 1e-5.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.query = HeadsIn(width, heads)
        self.key = HeadsIn(width, heads)
        self.value = HeadsIn(width, heads)
        self.out = HeadsOut(width, heads)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part(x).transpose(-3, -2) for part in (self.query, self.key, self.value))
        scores = query / math.sqrt(query.shape[-1]) @ key.transpose(-1, -2)
        mixed = self.dropout(scores.softmax(dim=-1)) @ value
        return self.out(mixed.transpose(-3, -2))


class AddPositionEmbs(nn.Module):
    """A learned position of each of P places: `pos_embedding` [1, P, D]."""

    def __init__(self, places: int, width: int):
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, places, width) * 0.02)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Tokens [..., n, D] that stand at the places from `start` on -> [..., n, D]"""
        return x + self.pos_embedding[0, start : start + x.shape[-2]]


class Encoder1DBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.LayerNorm_0 = LayerNorm(width)
        self.MultiHeadDotProductAttention_0 = MultiHeadDotProductAttention(width, heads, dropout)
        self.LayerNorm_1 = LayerNorm(width)
        self.MlpBlock_0 = MlpBlock(width, hidden, width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.MultiHeadDotProductAttention_0(self.LayerNorm_0(x)))
        return x + self.MlpBlock_0(self.LayerNorm_1(x))


class Encoder(nn.Module):
    """The ViT's encoder. Quirk: it adds learned positions of its own to the P tokens, so P is fixed."""

    def __init__(self, width: int, tokens: int, layers: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.layers = layers
        self.posembed_input = AddPositionEmbs(tokens, width)
        for i in range(layers):
            self.add_module(f"encoderblock_{i}", Encoder1DBlock(width, heads, hidden, dropout))
        self.encoder_norm = LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, P, D] -> [B, P, D]"""
        x = self.dropout(self.posembed_input(x))
        for i in range(self.layers):
            x = self.get_submodule(f"encoderblock_{i}")(x)
        return self.encoder_norm(x)


class MixerBlock(nn.Module):
    """x + MLP over tokens, then x + MLP over channels, each after a norm."""

    def __init__(self, width: int, tokens: int, hidden: int, dropout: float):
        super().__init__()
        self.LayerNorm_0 = LayerNorm(width)
        self.token_mixing = MlpBlock(tokens, TOKEN_HIDDEN, tokens, dropout)
        self.LayerNorm_1 = LayerNorm(width)
        self.channel_mixing = MlpBlock(width, hidden, width, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, P, D] -> [B, P, D]"""
        x = x + self.token_mixing(self.LayerNorm_0(x).transpose(-1, -2)).transpose(-1, -2)
        return x + self.channel_mixing(self.LayerNorm_1(x))


class TokenLearnerModuleV11(Summarizer):
    """w = softmax over tokens of MLP(LayerNorm(V)); z = w V (TokenLearner v1.1): P tokens -> k."""

    def __init__(self, width: int, tokens: int, dropout: float = 0.0):
        super().__init__()
        self.LayerNorm_0 = LayerNorm(width)
        self.token_masking = MlpBlock(width, BOTTLENECK, tokens, dropout)

    def score(self, tokens: Tensor) -> Tensor:
        return self.token_masking(self.LayerNorm_0(tokens))


class QueryAttention(nn.Module):
    """The parameters of the latent-query summariser's attention; `TokenLearnerMHA` uses them."""

    def __init__(self, width: int):
        super().__init__()
        self.query = HeadsIn(width, QUERY_HEADS)
        self.key = HeadsIn(width, QUERY_HEADS)
        self.value = HeadsIn(width, QUERY_HEADS)
        self.out = HeadsOut(width, QUERY_HEADS)


class TokenLearnerMHA(Summarizer):
    """Attention of k learned queries `tokens` [1, k, D] to P tokens, which are not normalised first.

    The queries see no token, so that scores and values of the inputs are known before the loop over time.
    """

    heads = QUERY_HEADS

    def __init__(self, width: int, tokens: int):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.attn = QueryAttention(width)

    def score(self, tokens: Tensor) -> Tensor:
        query = self.attn.query(self.tokens[0])
        query = query / math.sqrt(query.shape[-1])
        return torch.einsum("...phd,khd->...phk", self.attn.key(tokens), query).flatten(-2)

    def value(self, tokens: Tensor) -> Tensor:
        return self.attn.value(tokens).flatten(-2)

    def project(self, summary: Tensor) -> Tensor:
        return self.attn.out(summary.unflatten(-1, (QUERY_HEADS, -1)))


class TokenAddEraseWrite(nn.Module):
    """The official "TL-AddErase": 8 write heads made from the R output tokens, addressed by the memory alone.

    Quirks: the erase vector has no sigmoid; mean(1 - w a) is added where the NTM adds sum(w a), so that the
    memory drifts by almost 1 at each step; no field of the unit changes its heads, hidden width or dropout.
    """

    def __init__(self, width: int, output_tokens: int):
        super().__init__()
        for i in range(3):
            self.add_module(f"LayerNorm_{i}", LayerNorm(width))
        vectors = ((output_tokens, WRITE_HEADS), (width, width))
        for i, (inputs, outputs) in enumerate([(width, WRITE_HEADS), *vectors, *vectors]):
            self.add_module(f"MlpBlock_{i}", MlpBlock(inputs, BOTTLENECK, outputs))

    def forward(self, memory: Tensor, output: Tensor) -> Tensor:
        """memory [B, M, D], output [B, R, D] -> the next memory [B, M, D]"""
        scores = self.get_submodule("MlpBlock_0")(self.get_submodule("LayerNorm_0")(memory))
        where = scores.softmax(dim=-2).transpose(-1, -2)
        erase, add = self._vectors(output, 1), self._vectors(output, 2)
        kept = torch.ones_like(memory)
        for w, e in zip(where.unbind(-2), erase.unbind(-2), strict=True):
            kept = kept * (1 - w.unsqueeze(-1) * e.unsqueeze(-2))
        return memory * kept + (1 - where.transpose(-1, -2) @ add / WRITE_HEADS)

    def _vectors(self, output: Tensor, which: int) -> Tensor:
        """Output tokens [B, R, D] -> the erase (1) or the add (2) vectors [B, heads, D]."""
        tokens = self.get_submodule(f"LayerNorm_{which}")(output).transpose(-1, -2)
        heads = self.get_submodule(f"MlpBlock_{2 * which - 1}")(tokens).transpose(-1, -2)
        return self.get_submodule(f"MlpBlock_{2 * which}")(heads)
