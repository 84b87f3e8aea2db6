"""The gradients of weights: sums over all steps, taken of as many steps at once as make a product of large matrices."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokenturing.models.fast.backward import Gradients, LayerGradients
from tokenturing.models.fast.tape import LayerTape, Sizes, Tape
from tokenturing.models.fast.weights import LayerWeights, Weights

DEEP = 512
"""tokens that make a product deep: more gain nothing, and are no longer in the cache"""
Product = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def linear(gradient: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
    """Of weight and bias, from [n, out] and [n, in]."""
    return gradient.t() @ tokens, gradient.sum(0)


def scale(gradient: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
    """Of a norm's weight and bias."""
    return (gradient * tokens).sum(0), gradient.sum(0)


class Sum:
    """The sum of products of gradients and tokens over all steps."""

    def __init__(self, product: Product = linear):
        self.product = product
        self.found: tuple[Tensor, ...] = ()
        self.waiting: list[tuple[Tensor, Tensor]] = []
        self.tokens = 0

    def add(self, gradient: Tensor, tokens: Tensor) -> None:
        """Of one step."""
        self.waiting.append((gradient, tokens))
        self.tokens += len(gradient)
        if self.tokens >= DEEP:
            self._settle()

    def result(self) -> tuple[Tensor, ...]:
        """Of all steps."""
        if self.waiting:
            self._settle()
        return self.found

    def _settle(self) -> None:
        gradient, tokens = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*self.waiting, strict=True))
        self.waiting, self.tokens = [], 0
        found = self.product(gradient, tokens)
        self.found = tuple(a.add_(b) for a, b in zip(self.found, found, strict=True)) if self.found else found


class LayerSums:
    """Of one Transformer block."""

    def __init__(self) -> None:
        self.qkv, self.out, self.up, self.down = Sum(), Sum(), Sum(), Sum()

    def add(self, at: LayerTape, of: LayerGradients) -> None:
        """One step."""
        self.qkv.add(of.qkv, at.first.normed)
        self.out.add(of.out, at.mixed)
        self.up.add(of.up, at.second.normed)
        self.down.add(of.down, at.bent)

    def result(self) -> LayerWeights:
        """Of all steps."""
        return LayerWeights(*self.qkv.result(), *self.out.result(), *self.up.result(), *self.down.result())


class Sums:
    """Of all weights."""

    def __init__(self, w: Weights, z: Sizes):
        def of_slots(gradient: Tensor, ages: Tensor) -> tuple[Tensor, ...]:
            of_ages = torch.ops.aten.embedding_dense_backward.default(gradient, ages, len(w.ages), -1, False)
            return of_ages, gradient.view(-1, z.slots, z.width).sum(0)

        self.w = w
        self.kind, self.counts, self.slots = Sum(), Sum(lambda g, x: (g.t() @ x,)), Sum(of_slots)
        self.hidden, self.query, self.gate_part = Sum(), Sum(), Sum()
        self.score, self.last, self.output_kind = Sum(), Sum(scale), Sum(lambda g, _: (g.sum(0),))
        self.key_value, self.candidate, self.candidate_gate = Sum(), Sum(), Sum()
        self.gate, self.oldest = Sum(lambda g, x: (x.t() @ g, g.sum(0, keepdim=True))), Sum(lambda g, x: (g @ x,))
        self.layers = [LayerSums() for _ in w.layers]

    def add(self, at: Tape, of: Gradients) -> None:
        """One step."""
        look, write = at.look, at.write
        self.kind.add(of.kind, look.memory)
        self.counts.add(of.tokens, look.hats)
        self.slots.add(of.tokens, look.ages)
        self.hidden.add(of.hidden, look.slots.normed)
        self.query.add(of.query, look.slots.normed)
        self.gate_part.add(of.gate_hidden, look.slots.normed)
        self.score.add(of.score, look.bent)
        self.last.add(of.last, at.last.normed)
        self.output_kind.add(of.output_kind, of.output_kind)
        self.key_value.add(of.key_value, write.written.normed)
        self.candidate.add(of.candidate, write.mixed)
        self.candidate_gate.add(of.gate_hidden, write.mixed)
        self.gate.add(of.gate, write.gate_bent)
        self.oldest.add(of.gate, write.oldest)
        for layer, layer_at, layer_of in zip(self.layers, at.layers, of.layers, strict=True):
            layer.add(layer_at, layer_of)

    def result(self) -> Weights:
        """Of all steps; those of constants are zeros."""
        slot, slot_bias = _joined(self.hidden, self.query, self.gate_part)
        candidate, candidate_bias = _joined(self.candidate, self.candidate_gate)
        of: dict[str, Any] = {name: None for name in ("bins", "falls", "ones")}
        of["kind"], of["kind_bias"] = self.kind.result()
        (of["counts"],) = self.counts.result()
        of["ages"], of["places"] = self.slots.result()
        of["score"], of["score_bias"] = self.score.result()
        of["last_scale"], of["last_shift"] = self.last.result()
        (of["output_kind"],) = self.output_kind.result()
        of["key_value"], of["key_value_bias"] = self.key_value.result()
        of["gate"], of["gate_bias"] = self.gate.result()
        (of["oldest"],) = self.oldest.result()
        return Weights(
            slot=slot,
            slot_bias=slot_bias,
            candidate=candidate,
            candidate_bias=candidate_bias,
            layers=tuple(layer.result() for layer in self.layers),
            **of,
        )


def _joined(*sums: Sum) -> tuple[Tensor, Tensor]:
    weights, biases = zip(*(one.result() for one in sums), strict=True)
    return torch.cat(weights), torch.cat(biases)
