"""The weights that a run gives in the end: the last, their moving average, or those of the best validation."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tokenturing.errors import OptionError, choose
from tokenturing.train.recipe import TrainOptions

AVERAGE, BEST = "average.", "best."
"""begin the names of these weights in a run's file"""
YOUNG = 10
"""the average of u updates weighs the newest 9 in u + YOUNG at least, so that it does not remember the untrained weights"""


class Kept:
    """Weights beside those that are trained.

    Args:
        options: of the recipe.
        model: untrained.
    """

    def __init__(self, options: TrainOptions, model: nn.Module):
        self.decay, self.wants_best, self.by = options.average, options.keep == "best", options.best_by
        self.average: dict[str, Tensor] = _copied(model) if self.decay else {}
        self.best: dict[str, Tensor] = {}
        self.update = 0
        """after which the best validation was"""
        self.validation: dict[str, float] = {}

    @torch.no_grad()
    def follow(self, model: nn.Module, update: int) -> None:
        """So many updates are done."""
        decay = min(self.decay, update / (update + YOUNG - 1))
        for name, tensor in model.state_dict().items() if self.average else ():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)
            else:
                self.average[name].copy_(tensor)

    @contextmanager
    def within(self, model: nn.Module) -> Iterator[None]:
        """The model has its average weights meanwhile, where the recipe wants them."""
        if not self.average:
            yield
            return
        trained = _copied(model)
        model.load_state_dict(self.average)
        try:
            yield
        finally:
            model.load_state_dict(trained)

    def see(self, update: int, validation: dict[str, float], model: nn.Module) -> None:
        """A validation of these weights after so many updates.

        Raises:
            OptionError: it has no figure of that name.
        """
        if not self.wants_best:
            return
        if not validation:
            raise OptionError(
                'train.keep="best": the validation found no figure to choose by (no validation data with known labels, or a '
                'task that validates nothing); expected more of them, or train.keep="last"'
            )
        by = choose("train.best_by", self.by, validation) if self.by else next(iter(validation))
        if not self.validation or validation[by] > self.validation[by]:
            self.update, self.validation, self.best = update, dict(validation), _copied(model)

    def put_into(self, model: nn.Module) -> None:
        """Give the model the weights that the run gives in the end."""
        if weights := self.best or self.average:
            model.load_state_dict(weights)

    def notes(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best_update": self.update} if self.best else {}

    def tensors(self) -> dict[str, Tensor]:
        """All weights, for a run's file."""
        parts = ((AVERAGE, self.average), (BEST, self.best))
        return {f"{prefix}{name}": tensor for prefix, weights in parts for name, tensor in weights.items()}

    def to_json(self) -> dict[str, Any]:
        """All but the weights."""
        return {"update": self.update, "validation": self.validation}

    def restore(self, kept: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what a run's file has."""
        if self.average:
            self.average = {name: tensors[f"{AVERAGE}{name}"].to(old.device) for name, old in self.average.items()}
        self.update, self.validation = kept.get("update", 0), kept.get("validation", {})
        self.best = {name.removeprefix(BEST): tensor for name, tensor in tensors.items() if name.startswith(BEST)}


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
