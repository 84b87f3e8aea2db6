"""What each input place knows of its own past, step by step: from the inputs alone, so for all steps at once."""

import torch
from torch import Tensor

from tokenturing.layers.look_back import Past

CHANGE = 0.1
"""how much of a token's length must change for the token to count as new"""


def unchanged(before: Tensor, x: Tensor) -> Tensor:
    """Whether tokens [..., D] are what they were before, but for a tenth of their length: bool [...].

    Not to the bit: between two updates of a training run even the token of an empty place moves by a few hundredths.
    """
    return (x - before).detach().norm(dim=-1) <= CHANGE * x.detach().norm(dim=-1)


def look_back(past: Past, never: int, x: Tensor, reset: Tensor | None, active: Tensor | None) -> tuple[Past, Past]:
    """What is known of the past at each of T steps: of the active steps since the last reset.

    Args:
        past: before the first of these steps: [B, K, N, D] and [B, N].
        never: what the clock of a place shows before its first step.
        x: [B, T, N, D]
        reset: bool [B, T] or None.
        active: bool [B, T] or None.

    Returns:
        The past at each step, [B, T, K, N, D] and [B, T, N], and after the last one.
    """
    (rows, back), steps = past.recent.shape[:2], x.shape[1]
    everything = torch.cat([past.recent, x, x.new_zeros(rows, 1, *x.shape[2:])], dim=1)
    nothing = back + steps
    index = torch.arange(back, device=x.device).expand(rows, back)
    row, quiet = torch.arange(rows, device=x.device), past.quiet
    found, silences = [], []
    for t in range(steps):
        if reset is not None:
            index = index.masked_fill(reset[:, t, None], nothing)
            quiet = quiet.masked_fill(reset[:, t, None], never)
        found.append(index)
        silences.append(unchanged(everything[row, index[:, -1]], x[:, t]) * (quiet + 1))
        following = torch.cat([index[:, 1:], index.new_full((rows, 1), back + t)], dim=1)
        index = following if active is None else torch.where(active[:, t, None], following, index)
        quiet = silences[t] if active is None else torch.where(active[:, t, None], silences[t], quiet)
    before = everything[row[:, None, None], torch.stack(found, dim=1)]
    return Past(before, torch.stack(silences, dim=1)), Past(everything[row[:, None], index], quiet)
