"""Training on several processes that torchrun started: each has some of the rows, and all have the same weights.

Each draws its own rows of the batch, and the mean of their gradients is the gradient of the whole batch.
A checkpoint holds the states of all rows, so a run may go on with another number of processes.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenturing import state as states
from tokenturing.errors import OptionError

CPU = torch.device("cpu")


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def own_device(device: torch.device) -> torch.device:
    """Where this process trains: of several on "cuda", each on the GPU that torchrun numbers for it.

    Raises:
        OptionError: several processes cannot train there.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise OptionError(
            f"--device {device}: the processes that torchrun starts train on the CPU, a core each, or with --device cuda on a "
            f"GPU each; expected one of these, or one process on {device}, without torchrun"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


class Workers:
    """The processes of this run; without torchrun one.

    Args:
        rows: of the whole batch.
        device: where this process trains.

    Raises:
        OptionError: the rows cannot be shared out evenly.
    """

    def __init__(self, rows: int, device: torch.device = CPU):
        self.count, self.rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        if rows % self.count:
            raise OptionError(f"train.rows={rows} cannot be shared by {self.count} processes: expected a multiple")
        if self.count > 1 and not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        share = rows // self.count
        self.rows = range(self.rank * share, (self.rank + 1) * share)
        """the global rows of this process"""

    def close(self) -> None:
        """Wait for the others and part from them; called by all processes when the run has reached its end.

        A process that ends while another still talks to it aborts instead of exiting.
        """
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process goes ahead; the others follow when it is done."""
        if not self.first:
            dist.barrier()
        yield
        if self.first and self.count > 1:
            dist.barrier()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """The mean over the processes, in one message."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        parts = (together / self.count).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def average(self, *values: Tensor | float) -> list[float]:
        """Means over the processes."""
        device = next((value.device for value in values if isinstance(value, Tensor)), torch.device("cpu"))
        together = torch.stack([torch.as_tensor(value).detach().float().to(device) for value in values])
        if self.count > 1:
            dist.all_reduce(together)
            together /= self.count
        return together.tolist()

    def whole_streams(self, state: dict[str, Any]) -> dict[str, Any]:
        """Where the streams of all rows stand, out of every process's own."""
        if self.count == 1 or "rows" not in state:
            return state
        own = torch.frombuffer(bytearray(json.dumps(state["rows"]).encode()), dtype=torch.uint8)
        length = torch.tensor(len(own))
        lengths = [torch.empty_like(length) for _ in range(self.count)]
        dist.all_gather(lengths, length)
        padded = torch.zeros(int(max(lengths)), dtype=torch.uint8)
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(parts, padded)
        texts = [bytes(part[: int(size)].tolist()) for part, size in zip(parts, lengths, strict=True)]
        return state | {"rows": [row for text in texts for row in json.loads(text)]}

    def own(self, state: Any) -> Any:
        """This process's rows of a state of all rows."""
        return states.map_state(lambda leaf: leaf[self.rows.start : self.rows.stop].clone(), state)

    def whole(self, state: Any) -> Any:
        """The state of all rows, out of every process's own."""
        return state if self.count == 1 else states.map_state(self._gather, state)

    def _gather(self, leaf: Tensor) -> Tensor:
        """[B / processes, ...] -> [B, ...]; leaves that grow may have grown to different lengths."""
        if leaf.dim() > 1:
            length = torch.tensor(leaf.shape[1])
            dist.all_reduce(length, dist.ReduceOp.MAX)
            missing = int(length) - leaf.shape[1]
            leaf = torch.cat([leaf, leaf.new_zeros(leaf.shape[0], missing, *leaf.shape[2:])], dim=1)
        leaf = leaf.contiguous()
        parts = [torch.empty_like(leaf) for _ in range(self.count)]
        dist.all_gather(parts, leaf)
        return torch.cat(parts)
