"""A model behind the face of `tokenturing.runtime` without an export: numpy in and out, PyTorch within."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tokenturing.models.flat import FlatStep
from tokenturing.runtime.engines import Array
from tokenturing.runtime.machine import Runtime


def eager(model: nn.Module) -> Runtime:
    """The twin of an export, for any model that streams, those whose state grows too.

    Raises:
        OptionError: the model is none that streams.
    """
    graph = FlatStep(model)
    initial = {name: leaf.detach().numpy() for name, leaf in graph.initial_leaves(1).items()}
    description = graph.description("float32") | {"grows": bool(graph.growing)}
    return Runtime(description, initial, EagerEngine(graph))


class EagerEngine:
    """PyTorch as an engine."""

    def __init__(self, graph: FlatStep):
        self._graph = graph
        self.inputs: Sequence[str] = [*graph.signature, *graph.names]

    @torch.inference_mode()
    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        arrays = {name: torch.from_numpy(feed[name]) for name in self.inputs}
        inputs = tuple(arrays[name] for name in self._graph.signature)
        return [part.numpy() for part in self._graph(inputs, tuple(arrays[name] for name in self._graph.names))]
