"""A model's step with flat inputs and outputs, and what a program without the model has to know of it."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tokenturing import state as states
from tokenturing.checkpoint import fingerprint
from tokenturing.errors import OptionError, a
from tokenturing.models.contract import Input, StreamModel, step_by_name
from tokenturing.runtime.machine import FORMAT_VERSION

LEFT_OUT_NOTES = ("figures", "validation")
"""what is not kept of a model's notes: it was measured on the model as it was trained"""
ROWS, FREE = 2, 3
"""of an example: B, and what stands for a free letter"""


class FlatStep(nn.Module):
    """One step with flat inputs and outputs: (inputs ..., leaves of the state ...) -> (y, leaves ..., observed ...).

    It holds a copy of the model, in evaluation mode. Four methods are used of a model that has them: `for_streaming()` gives
    that copy, without what only training needs; `observe(inputs)` gives the inputs as a step takes them too, and arrays by name
    that say what is in them; `step_and_watch(these, state)` is a step that gives arrays by name besides, which say what it did
    to the memory; `ask(y, queries)`, of a model with so many `queries`, answers them from a step's y. Of outputs that are a
    NamedTuple the first is y and the others are observed.

    Raises:
        OptionError: the model is none that streams.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        if not isinstance(model, StreamModel):
            raise OptionError(
                f"{a(type(model))} cannot be exported: expected a model that streams, with initial_state, step, "
                "signature and growing"
            )
        self.fingerprint = fingerprint(model)
        self.notes = streaming_notes(model)
        for_streaming = getattr(model, "for_streaming", None)
        self.model: Any = for_streaming() if for_streaming else copy.deepcopy(model).eval()
        self.signature: dict[str, Input] = self.model.signature()
        self.growing: frozenset[str] = self.model.growing
        self.like = self.model.initial_state(1)
        self.names = [name for name, _ in states.leaves(self.like)]
        self.queries: int = getattr(self.model, "queries", 0) if hasattr(self.model, "ask") else 0
        self.observed: list[str] = []
        with torch.no_grad():
            y, _, observed = self._step(example(self.signature), self.model.initial_state(ROWS))
        self.output, self.observed = y, list(observed)

    def forward(self, inputs: tuple[Tensor, ...], leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        state = states.rebuild(self.like, dict(zip(self.names, leaves, strict=True)))
        y, state, observed = self._step(dict(zip(self.signature, inputs, strict=True)), state)
        return (y, *(leaf for _, leaf in states.leaves(state)), *observed.values())

    def _step(self, inputs: dict[str, Tensor], state: Any) -> tuple[Tensor, Any, dict[str, Tensor]]:
        observed: dict[str, Tensor] = {}
        if observe := getattr(self.model, "observe", None):
            here, observed = observe(_Named(inputs))
            if watched := getattr(self.model, "step_and_watch", None):
                y, state, happened = watched(here, state)
                return y, state, observed | happened
            outputs, state = self.model.step(here, state)
        else:
            outputs, state = step_by_name(self.model, inputs, state)
        if isinstance(outputs, Tensor):
            return outputs, state, observed
        y, *others = outputs
        return y, state, dict(zip(outputs._fields[1:], others, strict=True)) | observed

    def initial_leaves(self, rows: int) -> dict[str, Tensor]:
        """The state before the first step, by name: [B, ...]."""
        return {name: leaf.contiguous() for name, leaf in states.leaves(self.model.initial_state(rows))}

    def description(self, precision: str) -> dict[str, Any]:
        """What `tokenturing.runtime` has to know."""
        inputs = [
            {"name": name, "shape": ["B", *one.shape], "dtype": str(one.dtype).removeprefix("torch.")}
            for name, one in self.signature.items()
        ]
        return {
            "format_version": FORMAT_VERSION,
            "class_name": type(self.model).__name__,
            "precision": precision,
            "fingerprint": self.fingerprint,
            "inputs": inputs,
            "state": self.names,
            "perceived": self.observed,
            "queries": self.queries,
            "output": list(self.output.shape[1:]),
            "notes": self.notes,
        }


class FlatAsk(nn.Module):
    """What a model answers: (y [B, ...] of one step, queries int64 [B, Q]) -> logits [B, Q, C]."""

    def __init__(self, step: FlatStep):
        super().__init__()
        self.model = step.model

    def forward(self, y: Tensor, queries: Tensor) -> Tensor:
        return self.model.ask(y, queries)


def streaming_notes(model: nn.Module) -> dict[str, Any]:
    """What is kept of a model's notes: how it was made, and for which task."""
    notes = {key: value for key, value in getattr(model, "notes", {}).items() if key not in LEFT_OUT_NOTES}
    task = getattr(model, "task", None)
    return notes if task is None else {"recipe": {"task": task}} | notes


class _Named:
    """Inputs as attributes, as a NamedTuple of the model's own would have them."""

    def __init__(self, inputs: dict[str, Tensor]):
        self.__dict__.update(inputs)


def example(signature: dict[str, Input], rows: int = ROWS) -> dict[str, Tensor]:
    """Random inputs, by name; whole numbers are 0, and all that may be absent is there."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, one in signature.items():
        shape = (rows, *(size if isinstance(size, int) else FREE for size in one.shape))
        if one.dtype.is_floating_point:
            found[name] = torch.randn(shape, generator=generator).to(one.dtype)
        else:
            found[name] = torch.full(shape, one.dtype == torch.bool).to(one.dtype)
    return found
