"""Frames -> tokens: a small convolutional network and a summariser over its grid of patch tokens."""

import torch.nn.functional as F
from torch import Tensor, nn

from tokenturing.memory.summarize import MLPSummarizer


class FrameEncoder(nn.Module):
    """Grey frames [..., H, W] -> tokens [..., k, D].

    Three convolutions of stride 2 give a grid of patch tokens, 4 x 4 for a frame of 32 x 32; a learned summariser (paper
    section 3.1) makes k tokens of them.

    Args:
        width: D.
        tokens: k.
        channels: output channels of the first two convolutions.
    """

    def __init__(self, width: int, tokens: int = 2, channels: tuple[int, int] = (24, 48)):
        super().__init__()
        first, second = channels
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, first, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(second, width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.summarizer = MLPSummarizer(width, tokens)
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))

    def forward(self, frames: Tensor) -> Tensor:
        leading = frames.shape[:-2]
        grid = self.convolutions(frames.reshape(-1, 1, *frames.shape[-2:]))
        tokens = self.summarizer(grid.flatten(2).transpose(1, 2))
        return self.out(F.relu(tokens)).unflatten(0, leading)
