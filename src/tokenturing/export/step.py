"""A model's step with flat inputs and outputs, and what a program without the model has to know of it."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tokenturing import state as states
from tokenturing.checkpoint import fingerprint
from tokenturing.errors import OptionError
from tokenturing.models.contract import RecurrentModel
from tokenturing.runtime.machine import FORMAT_VERSION, MASK
from tokenturing.tasks.recall.eyes.perception import SOUND_FEATURES
from tokenturing.tasks.recall.model import RecallInput, RecallModel
from tokenturing.tasks.recall.world.scenes import SIZE

KEPT_NOTES = ("human_speakers",)
"""what is kept of a model's notes on its training: who must not be tested on"""

PERCEIVED = ("seen", "heard")
"""what a model of the recall task perceives at a step: shares [B, 11] of the ten digits and of none"""


class StepGraph(nn.Module):
    """One step with flat inputs and outputs: (inputs ..., leaves of the state ...) -> (y, leaves ..., perceived ...).

    It holds a copy of the model, in evaluation mode and without the head that only training needs.

    Raises:
        OptionError: the model is none that streams.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        if not isinstance(model, RecallModel | RecurrentModel):
            raise OptionError(f"a {type(model).__name__} cannot be exported: expected a recurrent model")
        self.fingerprint = fingerprint(model)
        self.notes = {k: v for k, v in getattr(model, "notes", {}).items() if k in KEPT_NOTES}
        self.model = model.without_facts() if isinstance(model, RecallModel) else copy.deepcopy(model).eval()
        self.like = self.model.initial_state(1)
        self.names = [name for name, _ in states.leaves(self.like)]
        self.perceived = PERCEIVED if isinstance(model, RecallModel) else ()

    def forward(self, inputs: tuple[Tensor, ...], leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        state = states.rebuild(self.like, dict(zip(self.names, leaves, strict=True)))
        if isinstance(self.model, RecallModel):
            here = self.model.perceive(RecallInput(*inputs))
            y, state = self.model.step(here, state)
            noticed = [logits.softmax(-1) for logits in self.model.perception.classify(here.tokens)]
        else:
            y, state = self.model.step(inputs[0], state, token_mask=inputs[1])
            noticed = []
        return (y, *(leaf for _, leaf in states.leaves(state)), *noticed)

    def initial_leaves(self, rows: int) -> dict[str, Tensor]:
        """The state before the first step, by name: [B, ...]."""
        return {name: leaf.contiguous() for name, leaf in states.leaves(self.model.initial_state(rows))}

    def description(self, precision: str) -> dict[str, Any]:
        """What `tokenturing.runtime` has to know."""
        free = isinstance(self.model, RecurrentModel) and self.model.input_tokens is None
        inputs = [
            {
                "name": name,
                "shape": ["B", *(("N", *part.shape[2:]) if free else part.shape[1:])],
                "dtype": str(part.dtype).removeprefix("torch."),
            }
            for name, part in example(self.model).items()
        ]
        return {
            "format_version": FORMAT_VERSION,
            "class_name": type(self.model).__name__,
            "precision": precision,
            "fingerprint": self.fingerprint,
            "inputs": inputs,
            "state": self.names,
            "perceived": list(self.perceived),
            "notes": self.notes,
        }


@torch.no_grad()
def growing(graph: StepGraph) -> str | None:
    """The first leaf of the state that is larger after a step, if there is one."""
    inputs = example(graph.model)
    before = graph.initial_leaves(len(next(iter(inputs.values()))))
    after = graph(tuple(inputs.values()), tuple(before.values()))[1:]
    sizes = zip(graph.names, before.values(), after, strict=False)  # what is perceived comes last
    return next((name for name, first, second in sizes if first.shape != second.shape), None)


def example(model: nn.Module, rows: int = 2) -> dict[str, Tensor]:
    """Inputs of chance, by name."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(model, RecallModel):
        return {
            "frames": torch.rand(rows, SIZE, SIZE, generator=generator),
            "sound": torch.randn(rows, SOUND_FEATURES, generator=generator),
            "question": torch.arange(rows) - 1,
            "has_frame": torch.ones(rows, dtype=torch.bool),
            "has_sound": torch.ones(rows, dtype=torch.bool),
        }
    assert isinstance(model, RecurrentModel)
    tokens = model.input_tokens or 3
    return {
        "x": torch.randn(rows, tokens, model.width, generator=generator),
        MASK: torch.ones(rows, tokens, dtype=torch.bool),
    }
