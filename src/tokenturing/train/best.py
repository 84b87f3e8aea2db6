"""The weights of the best validation so far, for recipes that keep those and not the last."""

from typing import Any

from torch import Tensor, nn

from tokenturing.errors import OptionError, choose
from tokenturing.train.recipe import TrainOptions


class Best:
    """What was the best so far; nothing where the recipe keeps the last.

    Args:
        options: of the recipe.
    """

    def __init__(self, options: TrainOptions):
        self.wanted, self.by = options.keep == "best", options.best_by
        self.update = 0
        self.validation: dict[str, float] = {}
        self.weights: dict[str, Tensor] = {}

    def see(self, update: int, validation: dict[str, float], model: nn.Module) -> None:
        """A validation after so many updates.

        Raises:
            OptionError: it has no figure of that name.
        """
        if not self.wanted:
            return
        if not validation:
            raise OptionError('train.keep="best": the task validates nothing; expected "last"')
        by = choose("train.best_by", self.by, validation) if self.by else next(iter(validation))
        if not self.validation or validation[by] > self.validation[by]:
            self.update, self.validation = update, dict(validation)
            self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def put_into(self, model: nn.Module) -> None:
        """Give the model the best weights, where they are kept."""
        if self.weights:
            model.load_state_dict(self.weights)

    def notes(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best_update": self.update} if self.weights else {}

    def to_json(self) -> dict[str, Any]:
        """All but the weights."""
        return {"update": self.update, "validation": self.validation}

    def restore(self, kept: dict[str, Any] | None, weights: dict[str, Tensor]) -> None:
        """Go on from what a run has kept."""
        if self.wanted and kept and weights:
            self.update, self.validation, self.weights = kept["update"], kept["validation"], weights
