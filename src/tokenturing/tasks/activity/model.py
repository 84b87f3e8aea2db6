"""A model that says at each step what goes on: features made even, any recurrent model as its memory, and a head."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenturing.checkpoint.hub import HubMixin
from tokenturing.errors import OptionError, choose
from tokenturing.models.contract import Input, RecurrentModel
from tokenturing.registry import find_class, register

EMBEDS, POOLS = ("linear", "relu", "mlp"), ("mean", "flat")
STATISTICS = 5
"""of each channel in a token: mean, deviation, least, largest, mean change from sample to sample"""


@register
class ActivityModel(HubMixin):
    """Features [N, F] a step -> N tokens; a memory; its output tokens -> scores of C activities.

    Args:
        memory: class name of the recurrent model.
        options: its constructor's arguments.
        classes: names of the activities.
        features: [N, F] of a step.
        multi_label: whether several activities may go on at once.
        source: what made the features, so that others can be made like them.
        samples: of a sensor in each token, [samples, channels] flattened; 0: other features.
        statistics: whether a token sees the statistics of its samples too.
        embed: how features become a token: "linear"; "relu", with a ReLU behind it as MiniROAD has; "mlp", with a hidden layer.
        dropout: on the tokens that go in and on what the head sees.
        pool: what the head sees of the output tokens: their "mean", which has few weights to learn from few videos; "flat": all
            side by side.
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
        statistics: bool = False,
        embed: str = "linear",
        dropout: float = 0.0,
        pool: str = "mean",
    ):
        super().__init__()
        self.config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        choose("embed", embed, EMBEDS)
        choose("pool", pool, POOLS)
        tokens, columns = features
        if samples and columns % samples:
            raise OptionError(f"samples={samples} for {columns} features: expected a divisor")
        self.classes, self.samples, self.statistics, self.pool = len(classes), samples, statistics and bool(samples), pool
        self.memory: RecurrentModel = find_class(memory)(**options, input_tokens=tokens)  # type: ignore[assignment]
        width = self.memory.width
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("deviation", torch.ones(columns))
        seen = columns + (STATISTICS * columns // samples if self.statistics else 0)
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

    @property
    def growing(self) -> frozenset[str]:
        """The memory's."""
        return self.memory.growing

    def normalise_by(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        """Take the mean and standard deviation [F] of the training features."""
        self.mean.copy_(torch.from_numpy(mean))
        self.deviation.copy_(torch.from_numpy(deviation))

    def initial_state(self, rows: int) -> Any:
        """The memory's."""
        return self.memory.initial_state(rows)

    def signature(self) -> dict[str, Input]:
        """The features of a step."""
        return {"features": Input(tuple(self.config["features"]), torch.float32)}

    def step(self, features: Tensor, state: Any) -> tuple[Tensor, Any]:
        """features [B, N, F] -> logits [B, C] and the next state."""
        y, state = self.memory.step(self.tokens(features), state)
        return self.scores(y), state

    def forward(
        self, features: Tensor, state: Any = None, reset: Tensor | None = None, active: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Any]:
        """features [B, T, N, F] -> logits [B, T, C] and the state; options as in RecurrentModel."""
        y, state = self.memory(self.tokens(features), state, reset, active, **options)
        return self.scores(y), state

    def tokens(self, features: Tensor) -> Tensor:
        """[..., N, F] -> [..., N, D]"""
        even = (features - self.mean) / self.deviation
        if self.statistics:
            even = torch.cat([even, self._statistics(even.unflatten(-1, (self.samples, -1)))], dim=-1)
        return self.embed(even)

    def scores(self, y: Tensor) -> Tensor:
        """Output tokens [..., R, D] -> logits [..., C]"""
        return self.head(y.mean(-2) if self.pool == "mean" else y)

    @staticmethod
    def _statistics(samples: Tensor) -> Tensor:
        """[..., samples, channels] -> [..., STATISTICS * channels]"""
        mean = samples.mean(-2)
        spread = (samples - mean.unsqueeze(-2)).square().mean(-2).clamp(min=1e-8).sqrt()
        change = (samples[..., 1:, :] - samples[..., :-1, :]).abs().mean(-2) if samples.shape[-2] > 1 else torch.zeros_like(mean)
        return torch.cat([mean, spread, samples.amin(-2), samples.amax(-2), change], dim=-1)
