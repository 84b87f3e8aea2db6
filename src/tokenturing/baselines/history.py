"""Caches over each row's own history: which step stands where, who sees whom, how entries are kept.

Every row has its own clock: after a reset or while it is inactive, its history is shorter than its
neighbours'. A cache [B, S, ...] keeps the entry of the row's step p in column p (it grows) or in column p mod
W (a ring); columns that hold nothing are zeros, and the row's count of steps says which those are.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Timeline(NamedTuple):
    """Where T steps, computed side by side, stand in each row's history."""

    position: Tensor
    """int64 [B, T], the number of steps before it in the row's history"""
    segment: Tensor | None
    """int64 [B, T], resets so far in this call; None: neither resets nor inactive steps"""
    active: Tensor | None
    """bool [B, T], or None with `segment`"""


def timeline(count: Tensor, steps: int, reset: Tensor | None = None, active: Tensor | None = None) -> Timeline:
    """count int64 [B], steps before this call; reset and active bool [B, T] -> the timeline of T steps."""
    if reset is None and active is None:
        return Timeline(count.unsqueeze(1) + torch.arange(steps, device=count.device), None, None)
    shape = count.shape[0], steps
    active = count.new_ones(shape, dtype=torch.bool) if active is None else active
    reset = count.new_zeros(shape, dtype=torch.bool) if reset is None else reset
    segment = reset.long().cumsum(1)
    earlier = active.long().cumsum(1) - active.long()
    at_reset = torch.where(reset, earlier, 0).cummax(1).values
    begun = torch.where(segment == 0, count.unsqueeze(1), 0)
    return Timeline(begun + earlier - at_reset, segment, active)


def held_positions(count: Tensor, columns: int, window: int | None) -> Tensor:
    """The position whose entry each column holds, negative if none: count [B] -> int64 [B, S]."""
    column = torch.arange(columns, device=count.device)
    last = count.unsqueeze(1) - 1
    if window is None:
        return torch.where(column <= last, column, -1)
    return last - (last - column) % window


class Reach(NamedTuple):
    """What T queries see of S cached and T new keys."""

    visible: Tensor
    """bool [B, T, S + T]; a query always sees itself"""
    distance: Tensor
    """int64 [B, T, S + T], steps back in the row's history, at least 0"""


def reach(count: Tensor, columns: int, times: Timeline, window: int | None = None) -> Reach:
    """Each step sees those before it in its row since the last reset, the newest `window` with itself."""
    rows, steps = times.position.shape
    held = held_positions(count, columns, window)
    cached = (held >= 0).unsqueeze(1).expand(-1, steps, -1)
    new = torch.ones(steps, steps, dtype=torch.bool, device=count.device).tril().expand(rows, -1, -1)
    if times.segment is not None and times.active is not None:
        cached = cached & (times.segment == 0).unsqueeze(2)
        itself = torch.eye(steps, dtype=torch.bool, device=count.device)
        same = times.segment.unsqueeze(2) == times.segment.unsqueeze(1)
        new = new & same & (times.active.unsqueeze(1) | itself)
    visible = torch.cat([cached, new], dim=2)
    distance = times.position.unsqueeze(2) - torch.cat([held, times.position], dim=1).unsqueeze(1)
    if window is not None:
        visible = visible & (distance < window)
    return Reach(visible, distance.clamp(min=0))


def store(cache: Tensor, entries: Tensor, count: Tensor, times: Timeline, window: int | None = None) -> tuple[Tensor, Tensor]:
    """Write the T entries [B, T, ...] of a call into the cache [B, S, ...] -> the next cache and count.

    A growing cache gets T more columns. Steps that were inactive, or before the row's last reset, or that a
    ring has overwritten since, leave nothing behind.
    """
    steps, entries = entries.shape[1], entries.to(cache.dtype)
    position, row = times.position, torch.arange(count.shape[0], device=count.device).unsqueeze(1)
    if window is None:
        cache = _append_columns(cache, steps)
    if times.segment is None or times.active is None:
        kept, following = None, position[:, -1] + 1
    else:
        last = times.segment[:, -1:]
        kept, following = times.active & (times.segment == last), position[:, -1] + times.active[:, -1].long()
        cache = torch.where((last == 0).view(-1, *[1] * (cache.dim() - 1)), cache, 0.0)
    if window is not None and steps > window:
        fresh = position >= (following - window).unsqueeze(1)
        kept = fresh if kept is None else kept & fresh
    column = position if window is None else position % window
    if kept is None:
        return cache.index_put((row, column), entries), following
    width = cache.shape[1]
    dropped_here = _append_columns(cache, 1)
    column = torch.where(kept, column, width)
    return dropped_here.index_put((row, column), entries)[:, :width].clone(), following  # without the column of the dropped


def _append_columns(cache: Tensor, columns: int) -> Tensor:
    return F.pad(cache, [0, 0] * (cache.dim() - 2) + [0, columns])


def trim(cache: Tensor, count: Tensor, least: int = 0) -> Tensor:
    """The cache without the columns that no row uses, but with at least `least`.

    It looks at the values of `count`, so it is no part of a step: a call trims the state it gets, when not
    compiled and where there are values: not on the meta device.
    """
    if count.is_meta:
        return cache
    longest = max(int(count.max()), least) if count.numel() else least
    return cache[:, :longest] if longest < cache.shape[1] else cache
