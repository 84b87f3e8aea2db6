"""One update out of parts of a batch's rows, computed one after another: the graph of one part is held, not that of all."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from tokenturing import state as states
from tokenturing.tasks.contract import Batch, Part, Task


def batch_parts(task: Task, batch: Batch, parts: int) -> Iterator[Batch]:
    """Equal parts of the rows in their order, each with what the means over all rows are to be divided by."""
    if parts == 1:
        yield batch
        return
    counts = {name: count / parts for name, count in task.counts(batch).items()}
    size = len(batch.reset) // parts
    for start in range(0, len(batch.reset), size):
        some = slice(start, start + size)
        yield Part.of(tree_map(lambda leaf, some=some: leaf[some] if isinstance(leaf, Tensor) else leaf, batch), counts)


def state_parts(state: Any, parts: int) -> list[Any]:
    """The same rows of a state [B, ...]; None: each part is at its beginning."""
    if state is None or parts == 1:
        return [state] * parts
    size = states.rows(state) // parts
    return [states.map_state(lambda leaf, at=at: leaf[at * size : (at + 1) * size], state) for at in range(parts)]


def state_of(parts: Sequence[Any]) -> Any:
    """The state of all rows, out of those of all parts."""
    return parts[0] if len(parts) == 1 or parts[0] is None else states.stack(parts)


def mean_of(losses: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean over the parts, by name."""
    return {name: torch.stack([part[name].float() for part in losses]).mean(0) for name in losses[0]}
