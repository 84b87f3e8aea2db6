"""A model that says at each step what goes on: features made even, any recurrent model as its memory, and a head."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenturing.errors import OptionError, choose
from tokenturing.models.contract import Input
from tokenturing.registry import find_class
from tokenturing.tasks.around import AroundMemory

EMBEDS, POOLS = ("linear", "relu", "mlp"), ("mean", "flat")
SEES = ("samples", "statistics", "both")
SEVERAL = ("binary", "shares")
CHANGES = 3.0
"""by which changes from sample to sample are made as large as the rest"""


class ActivityModel(AroundMemory):
    """Features [N, F] a step -> N tokens; a memory; its output tokens -> scores of C activities.

    Args:
        memory: class name of the recurrent model.
        options: its constructor's arguments.
        classes: names of the activities.
        features: [N, F] of a step.
        multi_label: whether several activities may go on at once.
        source: what made the features, so that others can be made like them.
        samples: of a sensor in each token, [samples, channels] flattened; 0: other features.
        sees: of a sensor: a token's "samples", in their order; their "statistics", from which few subjects teach more: each
            channel's mean, deviation and mean change from sample to sample, and the covariances of all pairs; or "both".
        embed: how features become a token: "linear"; "relu", with a ReLU behind it as MiniROAD has; "mlp", with a hidden layer.
        dropout: on the tokens that go in and on what the head sees.
        pool: what the head sees of the output tokens: their "mean", which has few weights to learn from few videos; "flat": all
            side by side.
        skip: whether a linear layer leads from the features of a step past the memory to its scores.
        several: how the scores of several at once become probabilities: "binary", each by itself; "shares", of one.
    """

    def __init__(
        self,
        memory: str,
        options: dict[str, Any],
        classes: list[str],
        features: list[int],
        multi_label: bool = False,
        source: dict[str, Any] | None = None,
        *,
        samples: int = 0,
        sees: str = "samples",
        embed: str = "linear",
        dropout: float = 0.0,
        pool: str = "mean",
        several: str = "binary",
        skip: bool = False,
    ):
        super().__init__()
        self.config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        choose("embed", embed, EMBEDS)
        choose("pool", pool, POOLS)
        choose("sees", sees, SEES)
        choose("several", several, SEVERAL)
        tokens, columns = features
        if samples and columns % samples:
            raise OptionError(f"samples={samples} for {columns} features: expected a divisor")
        self.samples, self.sees, self.pool = samples, sees if samples else "samples", pool
        self.memory = find_class(memory)(**options, input_tokens=tokens)  # type: ignore[assignment]
        width = self.memory.width
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("deviation", torch.ones(columns))
        seen = columns if self.sees != "statistics" else 0
        if self.sees != "samples":
            channels = columns // samples
            seen += 3 * channels + channels * (channels - 1) // 2
        layers: list[nn.Module] = [nn.Linear(seen, width)]
        if embed == "mlp":
            layers += [nn.GELU(), nn.Linear(width, width)]
        layers += [nn.LayerNorm(width), *([nn.ReLU()] if embed == "relu" else []), nn.Dropout(dropout)]
        self.embed = nn.Sequential(*layers)
        out = getattr(self.memory, "output_width", width)
        self.head = (
            nn.Sequential(nn.LayerNorm(out), nn.Dropout(dropout), nn.Linear(out, len(classes)))
            if pool == "mean"
            else nn.Sequential(
                nn.LayerNorm(out), nn.Flatten(-2), nn.Dropout(dropout), nn.Linear(out * self.memory.output_tokens, len(classes))
            )
        )

        self.skip = nn.Linear(tokens * seen, len(classes), bias=False) if skip else None
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)

    def normalise_by(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        """Take the mean and standard deviation [F] of the training features."""
        self.mean.copy_(torch.from_numpy(mean))
        self.deviation.copy_(torch.from_numpy(deviation))

    def signature(self) -> dict[str, Input]:
        """The features of a step."""
        return {"features": Input(tuple(self.config["features"]), torch.float32)}

    def step(self, features: Tensor, state: Any) -> tuple[Tensor, Any]:
        """features [B, N, F] -> logits [B, C] and the next state."""
        even = self.even(features)
        y, state = self.memory.step(self.embed(even), state)
        return self.scores(y, even), state

    def forward(
        self, features: Tensor, state: Any = None, reset: Tensor | None = None, active: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Any]:
        """features [B, T, N, F] -> logits [B, T, C] and the state; options as in RecurrentModel."""
        even = self.even(features)
        y, state = self.memory(self.embed(even), state, reset, active, **options)
        return self.scores(y, even), state

    def even(self, features: Tensor) -> Tensor:
        """[..., N, F] -> what tokens are made of, in the same measure everywhere"""
        even = (features - self.mean) / self.deviation
        if self.sees != "samples":
            statistics = self._statistics(even.unflatten(-1, (self.samples, -1)))
            even = statistics if self.sees == "statistics" else torch.cat([even, statistics], dim=-1)
        return even

    def scores(self, y: Tensor, even: Tensor) -> Tensor:
        """Output tokens [..., R, D] -> logits [..., C]"""
        logits = self.head(y.mean(-2) if self.pool == "mean" else y)
        return logits if self.skip is None else logits + self.skip(even.flatten(-2))

    def _statistics(self, samples: Tensor) -> Tensor:
        """[..., samples, channels] -> [..., 3 channels + pairs of them]"""
        mean = samples.mean(-2)
        around = samples - mean.unsqueeze(-2)
        spread = around.square().mean(-2).clamp(min=1e-6).sqrt()
        # Counted out at each call: a buffer that is not saved would hold anything after a model was built on the meta device.
        one, other = torch.triu_indices(samples.shape[-1], samples.shape[-1], 1, device=samples.device)
        together = (around[..., one] * around[..., other]).mean(-2)
        change = (samples[..., 1:, :] - samples[..., :-1, :]).abs().sum(-2) * (CHANGES / self.samples)
        return torch.cat([mean, spread, change, together], dim=-1)
