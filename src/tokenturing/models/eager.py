"""A model behind the face of `tokenturing.runtime` without an export: numpy in and out, PyTorch within."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tokenturing.models.flat import FlatAsk, FlatStep
from tokenturing.runtime.engines import Array
from tokenturing.runtime.machine import ASKED, Runtime


def eager(model: nn.Module, device: str | torch.device | None = None) -> Runtime:
    """The twin of an export, for any model that streams, those whose state grows too.

    Args:
        model: one that streams.
        device: where its copy is to work; None: where the model is.

    Raises:
        OptionError: the model is none that streams.
    """
    there = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    place = there if device is None else torch.device(device)
    graph = FlatStep(model if there.type == "cpu" else copy.deepcopy(model).cpu())
    graph.model.to(place)
    initial = {name: leaf.detach().cpu().numpy() for name, leaf in graph.initial_leaves(1).items()}
    description = graph.description("float32") | {"grows": bool(graph.growing)}
    answers = EagerAnswers(graph, place) if graph.queries else None
    return Runtime(description, initial, EagerEngine(graph, place), answers)


class EagerEngine:
    """PyTorch as an engine of steps."""

    def __init__(self, graph: FlatStep, device: torch.device):
        self._graph, self._device = graph, device
        self.inputs: Sequence[str] = [*graph.signature, *graph.names]

    @torch.inference_mode()
    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        arrays = {name: torch.from_numpy(feed[name]).to(self._device) for name in self.inputs}
        inputs = tuple(arrays[name] for name in self._graph.signature)
        outputs = self._graph(inputs, tuple(arrays[name] for name in self._graph.names))
        return [part.cpu().numpy() for part in outputs]


class EagerAnswers:
    """PyTorch as an engine of answers."""

    inputs: Sequence[str] = ASKED

    def __init__(self, graph: FlatStep, device: torch.device):
        self._ask, self._device = FlatAsk(graph), device

    @torch.inference_mode()
    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        return [self._ask(*(torch.from_numpy(feed[name]).to(self._device) for name in self.inputs)).cpu().numpy()]
