"""A model behind the face of `tokenturing.runtime` without an export: numpy in and out, PyTorch within."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tokenturing.export.step import StepGraph, growing
from tokenturing.runtime.engines import Array
from tokenturing.runtime.machine import Runtime


def eager(model: nn.Module) -> Runtime:
    """The twin of an export, for any model that streams, those whose state grows too.

    Raises:
        OptionError: the model is none that streams.
    """
    graph = StepGraph(model)
    initial = {name: leaf.detach().numpy() for name, leaf in graph.initial_leaves(1).items()}
    description = graph.description("float32") | {"grows": growing(graph) is not None}
    return Runtime(description, initial, EagerEngine(graph))


class EagerEngine:
    """PyTorch as an engine."""

    def __init__(self, graph: StepGraph):
        self._graph = graph
        self._names = [part["name"] for part in graph.description("float32")["inputs"]]
        self.inputs: Sequence[str] = [*self._names, *graph.names]

    @torch.inference_mode()
    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        arrays = {name: torch.from_numpy(feed[name]) for name in self.inputs}
        inputs = tuple(arrays[name] for name in self._names)
        return [part.numpy() for part in self._graph(inputs, tuple(arrays[name] for name in self._graph.names))]
