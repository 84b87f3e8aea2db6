"""What is not finite goes no further than it must: pauses and resets end it, for outputs, states and gradients.

A selection (`torch.where`) keeps NaN out of the outputs, but not out of the gradients: on the way back 0 times NaN is NaN, and
the gradient of a weight is a sum over all rows and steps. So what can't matter is taken out before anything is computed of it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenturing import state as states


class Treated(NamedTuple):
    """A call's inputs as they are safe to compute with, and what its results must show of what was taken out."""

    x: Tensor
    """[B, T, N, D]; zeros in steps that pause, and in ill ones that a later reset of the call cuts off"""
    state: Any
    """as new in rows that are ill and never go on from it"""
    lost: Tensor | None
    """bool [B, T], the active steps from an ill one to the next reset: their outputs are NaN"""
    untouched: Tensor | None
    """bool [B], ill rows that pause throughout"""
    before: Any
    """the state as it came"""

    def show(self, y: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The results of the treated inputs -> those of the inputs as they came."""
        if self.lost is not None:
            y = torch.where(self.lost[:, :, None, None], torch.nan, y)
        if self.untouched is not None:
            state = states.merge(self.untouched, self.before, state)
        return y, state


def treat(x: Tensor, state: Any, fresh: Any, reset: Tensor | None, active: Tensor | None) -> Treated:
    """Take out what resets and pauses of a call cut off.

    NaN that nothing cuts off stays: whoever trains on it should see it.

    Args:
        x: [B, T, N, D]
        state: of B rows.
        fresh: the initial state of B rows.
        reset: bool [B, T] or None.
        active: bool [B, T] or None.
    """
    before, lost, untouched = state, None, None
    if active is not None:
        x = torch.where(active[:, :, None, None], x, 0.0)
    ill = _ill(state)
    unused = torch.zeros_like(ill) if reset is None else reset.any(1)
    if active is not None:
        untouched = ill & ~active.any(1) & ~unused
        unused = unused | untouched
    state = states.merge(ill & unused, fresh, state)
    if reset is not None:
        x, lost = _cut_off(x, ill, reset)
        lost = lost if active is None else lost & active
    return Treated(x, state, lost, untouched, before)


def _ill(state: Any) -> Tensor:
    """bool [B], whether anything of the row is not finite."""
    floating = [leaf for _, leaf in states.leaves(state) if leaf.is_floating_point()]
    return ~torch.stack([leaf.isfinite().flatten(1).all(1) for leaf in floating]).all(0)


def _cut_off(x: Tensor, ill: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
    """x without its ill steps before a row's last reset; and bool [B, T], from where on and until when they are felt."""
    lives = reset.long().cumsum(1)
    ended = lives < lives[:, -1:]
    bad = ended & ~x.isfinite().flatten(2).all(-1)
    earlier = bad.long().cumsum(1) - bad.long() + ill.long().unsqueeze(1)
    before_life = torch.where(reset, earlier, 0).cummax(1).values
    return torch.where(bad[:, :, None, None], 0.0, x), ended & (earlier + bad.long() > before_life)
