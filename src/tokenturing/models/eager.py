"""A model behind the face of `tokenturing.runtime` without an export: numpy in and out, PyTorch within."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tokenturing.models.flat import FlatAsk, FlatStep
from tokenturing.runtime.engines import Array
from tokenturing.runtime.machine import ASKED, Runtime


def eager(model: nn.Module) -> Runtime:
    """The twin of an export, for any model that streams, those whose state grows too.

    Raises:
        OptionError: the model is none that streams.
    """
    graph = FlatStep(model)
    initial = {name: leaf.detach().numpy() for name, leaf in graph.initial_leaves(1).items()}
    description = graph.description("float32") | {"grows": bool(graph.growing)}
    return Runtime(description, initial, EagerEngine(graph), EagerAnswers(graph) if graph.queries else None)


class EagerEngine:
    """PyTorch as an engine of steps."""

    def __init__(self, graph: FlatStep):
        self._graph = graph
        self.inputs: Sequence[str] = [*graph.signature, *graph.names]

    @torch.inference_mode()
    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        arrays = {name: torch.from_numpy(feed[name]) for name in self.inputs}
        inputs = tuple(arrays[name] for name in self._graph.signature)
        return [part.numpy() for part in self._graph(inputs, tuple(arrays[name] for name in self._graph.names))]


class EagerAnswers:
    """PyTorch as an engine of answers."""

    inputs: Sequence[str] = ASKED

    def __init__(self, graph: FlatStep):
        self._ask = FlatAsk(graph)

    @torch.inference_mode()
    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        return [self._ask(*(torch.from_numpy(feed[name]) for name in self.inputs)).numpy()]
