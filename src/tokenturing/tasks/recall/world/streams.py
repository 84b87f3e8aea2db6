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


class RecallInput(NamedTuple):
    """What comes in, [B, T, ...] for many steps or [B, ...] for one."""

    frames: Tensor
    """[B, T, 32, 32] float32 in [0, 1] (or what another renderer makes of them)"""
    sound: Tensor
    """[B, T, 96] speech embedding"""
    question: Tensor
    """int64 [B, T], -1: none"""
    has_frame: Tensor
    """bool [B, T]"""
    has_sound: Tensor
    """bool [B, T]"""


class RecallTargets(NamedTuple):
    """What is true."""

    answer: Tensor
    """int64 [B, T], of the question; -1 where nothing is asked"""
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
        self.position = [(0, 0)] * rows.stop
        """(number of the stream, step in it) of each row"""
        self.plans: list[Stream] = []

    def state(self) -> dict:
        """Where the iterator stands, as plain numbers: "rows" are (number of the stream, step in it)."""
        return {"chunk": self.chunk, "rows": [list(self.position[row]) for row in self.rows]}

    def restore(self, state: dict) -> None:
        """Go on from where `state()` was taken, of all rows from the first."""
        self.chunk = state["chunk"]
        self.position = [(number, step) for number, step in state["rows"][: self.rows.stop]]
        self.plans = []

    def _plan(self, row: int) -> Stream:
        return self.planner.draw(np.random.default_rng([self.seed, row, number := self.position[row][0]]), number)

    def __iter__(self) -> "RecallStreams":
        return self

    def __next__(self) -> Batch:
        if not self.plans:
            self.plans = [self._plan(row) for row in range(self.rows.stop)]
        rng = np.random.default_rng([self.seed, 1 << 21, self.chunk])
        parts = [self._row(row) for row in range(self.rows.stop)]
        batch = self._render(parts, rng)
        self.chunk += 1
        return batch

    def _row(self, row: int) -> list[tuple[Stream, int, int]]:
        """(plan, start, steps) of the pieces that make up this row's chunk; moves the row on."""
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
        return pieces

    def _render(self, parts: list[list[tuple[Stream, int, int]]], rng: np.random.Generator) -> Batch:
        rows = [self._piece(pieces, rng) for pieces in parts][self.rows.start :]
        inputs, targets, resets = zip(*rows, strict=True)
        return Batch(
            RecallInput(*map(torch.stack, zip(*inputs, strict=True))),
            RecallTargets(*map(torch.stack, zip(*targets, strict=True))),
            torch.stack(resets),
        )

    def _piece(
        self, pieces: list[tuple[Stream, int, int]], rng: np.random.Generator
    ) -> tuple[RecallInput, RecallTargets, Tensor]:
        """One row, [T, ...]."""
        inputs, targets, resets = [], [], []
        for plan, start, steps in pieces:
            asked = torch.from_numpy(plan.questions[start : start + steps])
            resets.append(torch.arange(start, start + steps) == 0)
            inputs.append(
                RecallInput(
                    self.renderer.frames([plan], [start], steps, rng)[0],
                    self.renderer.sound([plan], [start], steps)[0],
                    asked[:, 0],
                    torch.full((steps,), plan.has_frames),
                    torch.full((steps,), plan.has_sound),
                )
            )
            targets.append(RecallTargets(asked[:, 1], torch.from_numpy(plan.facts[start : start + steps])))
        return (
            RecallInput(*map(torch.cat, zip(*inputs, strict=True))),
            RecallTargets(*map(torch.cat, zip(*targets, strict=True))),
            torch.cat(resets),
        )
