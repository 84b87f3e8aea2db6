"""An MLP-Mixer over the read tokens (paper section 3.4)."""

from torch import Tensor, nn

from tokenturing.layers.feedforward import FeedForward

TOKEN_HIDDEN = 128
"""width of the token-mixing MLP, as in the paper's code"""


class MixerBlock(nn.Module):
    """x + tokenMLP(norm(x)) over tokens, then x + channelMLP(norm(x)) over channels."""

    def __init__(self, width: int, tokens: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.token_norm = nn.LayerNorm(width)
        self.token_mlp = FeedForward(tokens, TOKEN_HIDDEN, dropout=dropout)
        self.channel_norm = nn.LayerNorm(width)
        self.channel_mlp = FeedForward(width, hidden, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, R, D] -> [B, R, D]"""
        x = x + self.token_mlp(self.token_norm(x).transpose(-1, -2)).transpose(-1, -2)
        return x + self.channel_mlp(self.channel_norm(x))


class MixerProcessor(nn.Module):
    """Mixer blocks and a last LayerNorm: [B, R, D] -> [B, R, D]."""

    def __init__(self, width: int, tokens: int, layers: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.blocks = nn.Sequential(*(MixerBlock(width, tokens, hidden, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.blocks(tokens))
