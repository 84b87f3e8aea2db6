"""A chunk of steps as one operation of autograd."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokenturing.models.fast.backward import step_back
from tokenturing.models.fast.forward import step
from tokenturing.models.fast.products import Sums
from tokenturing.models.fast.tape import Seen, Sizes, filled, form_of, leaves
from tokenturing.models.fast.weights import Weights

SEEN = len(Seen._fields)


class Steps(torch.autograd.Function):
    """(sizes, reset, active, memory, age, fresh memory, fresh age, what is seen of the inputs, weights) -> outputs [T, B, R, D],
    the last memory and its ages, and the gates [T, B, M]. There are no second derivatives: `fast = False` has them."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Sizes,
        reset: Tensor | None,
        active: Tensor | None,
        memory: Tensor,
        age: Tensor,
        fresh_memory: Tensor,
        fresh_age: Tensor,
        *others: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        w = Weights.of_flat(others[SEEN:]).turned()
        steps = [Seen(*parts) for parts in zip(*(_each(part, len(others[0])) for part in others[:SEEN]), strict=True)]
        ctx.resets, ctx.pauses = _when(reset), _when(None if active is None else ~active)
        outputs, tapes = [], []
        memory = memory.contiguous()
        for t, seen in enumerate(steps):
            if t in ctx.resets:
                assert reset is not None
                memory = torch.where(reset[t, :, None, None], fresh_memory, memory)
                age = torch.where(reset[t, :, None], fresh_age, age)
            output, following, following_age, tape = step(memory, age, seen, w, z)
            if t in ctx.pauses:
                assert active is not None
                following = torch.where(active[t, :, None, None], following, memory)
                following_age = torch.where(active[t, :, None], following_age, age)
            memory, age = following, following_age
            outputs.append(output)
            tapes.append(tape)
        ctx.sizes, ctx.form, ctx.weights = z, [form_of(tapes[0])] * len(tapes), len(others) - SEEN
        ctx.save_for_backward(reset, active, *others[SEEN:], *leaves(tapes))
        ctx.mark_non_differentiable(age)
        gates = torch.stack([tape.write.gate for tape in tapes]).view(len(steps), z.rows, z.slots)
        return torch.stack(outputs), memory, age, gates

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_output: Tensor, of_memory: Tensor, _: Any, of_gate: Tensor) -> tuple[Tensor | None, ...]:
        reset, active, *saved = ctx.saved_tensors
        w, tapes = Weights.of_flat(saved[: ctx.weights]), filled(ctx.form, iter(saved[ctx.weights :]))
        openings = torch.stack([tape.write.opening for tape in tapes])
        slopes = torch.ops.aten.hardsigmoid_backward.default(torch.ones_like(openings), openings).unbind(0)
        of_fresh, of_seen, sums = torch.zeros_like(of_memory), [], Sums(w, ctx.sizes)
        for t in reversed(range(len(tapes))):
            kept = None
            if t in ctx.pauses:
                runs = active[t, :, None, None]
                kept, of_memory = torch.where(runs, 0.0, of_memory), torch.where(runs, of_memory, 0.0)
            of_memory, seen, found = step_back(of_output[t], of_memory, of_gate[t], slopes[t], tapes[t], w, ctx.sizes)
            sums.add(tapes[t], found)
            of_seen.append(seen)
            if kept is not None:
                of_memory = of_memory + kept
            if t in ctx.resets:
                which = reset[t, :, None, None]
                of_fresh += torch.where(which, of_memory, 0.0)
                of_memory = torch.where(which, 0.0, of_memory)
        of_inputs = (torch.stack(parts) for parts in zip(*reversed(of_seen), strict=True))
        return None, None, None, of_memory, None, of_fresh, None, *of_inputs, None, *sums.result().flat()


def _each(part: Tensor | None, steps: int) -> Any:
    return [None] * steps if part is None else part.unbind(0)


def _when(flags: Tensor | None) -> frozenset[int]:
    """The steps of bool [T, B] in which any row is concerned."""
    return frozenset() if flags is None else frozenset(flags.any(1).nonzero().flatten().tolist())
