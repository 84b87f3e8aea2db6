"""The tokens of a step as one vector, for the baselines that see one vector a step."""

import torch
from torch import Tensor, nn

from tokenturing.layers.feedforward import FeedForward
from tokenturing.layers.positions import learned


class StepEmbedding(nn.Module):
    """The tokens of a step -> one vector: [..., N, D] -> [..., D].

    Where N is fixed, all N tokens side by side go through one linear layer, so that nothing is lost that a
    linear layer can keep; an absent token adds a learned vector of its place instead. Where N varies, the
    vector is the mean over the tokens that are present of an MLP of each, or a learned vector if there are
    none. A residual MLP follows.

    Args:
        width: D.
        input_tokens: N where it is fixed, else None.
    """

    def __init__(self, width: int, input_tokens: int | None = None):
        super().__init__()
        self.join = FeedForward(width, 4 * width) if input_tokens is None else nn.Linear(input_tokens * width, width)
        self.absent = learned(input_tokens or 1, width)
        self.fixed = input_tokens is not None
        self.norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, 2 * width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [..., N, D] (absent tokens are zeros), mask bool [..., N] -> [..., D]"""
        joined = self._side_by_side(x, mask) if self.fixed else self._mean(x, mask)
        return joined + self.mlp(self.norm(joined))

    def _side_by_side(self, x: Tensor, mask: Tensor | None) -> Tensor:
        joined = self.join(x.flatten(-2))
        return joined if mask is None else joined + (~mask).to(x.dtype) @ self.absent

    def _mean(self, x: Tensor, mask: Tensor | None) -> Tensor:
        tokens = self.join(x)
        if not x.shape[-2]:
            return self.absent[0].to(tokens.dtype).expand(tokens.shape[:-2] + tokens.shape[-1:])
        if mask is None:
            return tokens.mean(-2)
        present = mask.to(x.dtype).unsqueeze(-1)
        mean = (tokens * present).sum(-2) / present.sum(-2).clamp(min=1)
        return torch.where(mask.any(-1, keepdim=True), mean, self.absent[0])
