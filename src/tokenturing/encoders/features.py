"""Feature vectors (a speech embedding, sensor channels, scores of another model) -> one token per step."""

import torch
from torch import Tensor, nn


class FeatureEncoder(nn.Module):
    """Vectors [..., F] -> tokens [..., 1, D].

    Args:
        features: F.
        width: D.
        hidden: width of the MLP.
        dropout: of the MLP.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, width: int, hidden: int = 128, dropout: float = 0.0):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.mlp = nn.Sequential(
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.LayerNorm(width),
        )

    def normalize_by(self, examples: Tensor) -> None:
        """Set the normalisation from training examples [n, F]."""
        self.mean.copy_(examples.mean(0))
        self.scale.copy_(examples.std(0).clamp(min=1e-3))

    def forward(self, features: Tensor) -> Tensor:
        return self.mlp((features - self.mean) / self.scale).unsqueeze(-2)
