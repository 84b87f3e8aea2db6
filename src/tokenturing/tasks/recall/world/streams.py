"""The recall task: streams of digits seen and heard among background, with questions at any step.

`RecallStreams` gives chunks of streams that go on from chunk to chunk. A row's stream is drawn whole from (seed, row,
number of the stream), so the iterator's own state is two integers a row, and a run that was killed goes on the same.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenturing.tasks.contract import Batch
from tokenturing.tasks.recall.voices.bank import SpeechBank
from tokenturing.tasks.recall.world.plans import Planner, RecallConfig, Stream
from tokenturing.tasks.recall.world.render import Renderer

CHUNKS = 1 << 21
"""tells the random numbers of chunks from those of plans"""


class RecallInput(NamedTuple):
    """What comes in, [B, T, ...] for many steps or [B, ...] for one."""

    frames: Tensor
    """[B, T, 32, 32] float32 in [0, 1] (or what another renderer makes of them)"""
    sound: Tensor
    """[B, T, 96] speech embedding"""
    has_frame: Tensor
    """bool [B, T]"""
    has_sound: Tensor
    """bool [B, T]"""


class RecallTargets(NamedTuple):
    """What is true."""

    question: Tensor
    """int64 [B, T], drawn at random; -1: none"""
    answer: Tensor
    """int64 [B, T], of that question; -1 where nothing is asked"""
    facts: Tensor
    """int64 [B, T, FACTS]"""


class RecallStreams:
    """An endless seeded iterator over chunks [B, T] of streams that go on from chunk to chunk.

    Args:
        rows: the global rows, B of them.
        steps: T.
        bank: the spoken digits and background sounds of the split.
        config: what the streams are like.
        seed: of everything drawn.
        renderer: what makes pictures and sound of the plans.
    """

    def __init__(
        self,
        rows: range,
        steps: int,
        bank: SpeechBank,
        config: RecallConfig | None = None,
        seed: int = 0,
        renderer: Renderer | None = None,
    ):
        config = config or RecallConfig()
        self.rows, self.steps, self.seed = rows, steps, seed
        self.planner = Planner(config, bank)
        self.renderer = renderer or Renderer(config.split, bank)
        self.chunk = 0
        self.position = dict.fromkeys(rows, (0, 0))
        """(number of the stream, step in it) of each row"""
        self.plans: dict[int, Stream] = {}

    def state(self) -> dict:
        """Where the iterator stands, as plain numbers: "rows" are (number of the stream, step in it)."""
        return {"chunk": self.chunk, "rows": [list(self.position[row]) for row in self.rows]}

    def restore(self, state: dict) -> None:
        """Go on from where `state()` was taken, of all rows from the first."""
        self.chunk = state["chunk"]
        self.position = {row: tuple(state["rows"][row]) for row in self.rows}
        self.plans = {}

    def _plan(self, row: int) -> Stream:
        return self.planner.draw(np.random.default_rng([self.seed, row, number := self.position[row][0]]), number)

    def __iter__(self) -> "RecallStreams":
        return self

    def __next__(self) -> Batch:
        if not self.plans:
            self.plans = {row: self._plan(row) for row in self.rows}
        rows = [self._row(row) for row in self.rows]
        self.chunk += 1
        inputs, targets, resets = zip(*rows, strict=True)
        return Batch(
            RecallInput(*map(torch.stack, zip(*inputs, strict=True))),
            RecallTargets(*map(torch.stack, zip(*targets, strict=True))),
            torch.stack(resets),
        )

    def _row(self, row: int) -> tuple[RecallInput, RecallTargets, Tensor]:
        """One row's chunk, [T, ...]; moves the row on."""
        rng = np.random.default_rng([self.seed, CHUNKS, row, self.chunk])
        pieces, left = [], self.steps
        while left:
            number, step = self.position[row]
            length = min(left, self.plans[row].steps - step)
            pieces.append((self.plans[row], step, length))
            left -= length
            self.position[row] = (number, step + length)
            if step + length == self.plans[row].steps:
                self.position[row] = (number + 1, 0)
                self.plans[row] = self._plan(row)
        return self._piece(pieces, rng)

    def _piece(
        self, pieces: list[tuple[Stream, int, int]], rng: np.random.Generator
    ) -> tuple[RecallInput, RecallTargets, Tensor]:
        """Stretches of plans, one after the other."""
        inputs, targets, resets = [], [], []
        for plan, start, steps in pieces:
            asked = torch.from_numpy(plan.questions[start : start + steps])
            resets.append(torch.arange(start, start + steps) == 0)
            inputs.append(
                RecallInput(
                    self.renderer.frames([plan], [start], steps, rng)[0],
                    self.renderer.sound([plan], [start], steps)[0],
                    torch.full((steps,), plan.has_frames),
                    torch.full((steps,), plan.has_sound),
                )
            )
            targets.append(RecallTargets(asked[:, 0], asked[:, 1], torch.from_numpy(plan.facts[start : start + steps])))
        return (
            RecallInput(*map(torch.cat, zip(*inputs, strict=True))),
            RecallTargets(*map(torch.cat, zip(*targets, strict=True))),
            torch.cat(resets),
        )
