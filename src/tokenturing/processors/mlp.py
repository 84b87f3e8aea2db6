"""A residual MLP on each read token by itself: the paper's weakest processor, for ablations."""

from torch import Tensor, nn

from tokenturing.layers.feedforward import FeedForward


class MLPProcessor(nn.Module):
    """x + MLP(norm(x)), `layers` times, and a last LayerNorm: [B, R, D] -> [B, R, D]."""

    def __init__(self, width: int, layers: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), FeedForward(width, hidden, dropout=dropout)) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return self.norm(tokens)
