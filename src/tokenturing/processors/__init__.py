"""What thinks about the tokens that were read: [B, R, D] -> [B, R, D]."""

from torch import nn

from tokenturing.errors import choose
from tokenturing.processors.mixer import MixerProcessor
from tokenturing.processors.mlp import MLPProcessor
from tokenturing.processors.tokenformer import TokenFormerProcessor
from tokenturing.processors.transformer import TransformerProcessor

PROCESSORS = ("transformer", "mixer", "mlp", "tokenformer")


def build_processor(kind: str, *, width: int, tokens: int, layers: int, heads: int, hidden: int, dropout: float) -> nn.Module:
    """The processor of that name for `tokens` read tokens."""
    choose("processor", kind, PROCESSORS)
    if kind == "transformer":
        return TransformerProcessor(width, layers, heads, hidden, dropout)
    if kind == "mixer":
        return MixerProcessor(width, tokens, layers, hidden, dropout)
    if kind == "mlp":
        return MLPProcessor(width, layers, hidden, dropout)
    return TokenFormerProcessor(width, layers, heads, hidden)
