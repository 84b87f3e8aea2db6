"""The recall task: streams of digits seen and heard among background, with questions at any step.

`RecallStreams` gives chunks of streams that go on from chunk to chunk. A row's stream is drawn whole from (seed, row,
number of the stream), so the iterator's own state is two integers a row, and a run that was killed goes on the same.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from tokenturing.tasks.recall.voices.bank import SpeechBank
from tokenturing.tasks.recall.world.plans import Planner, RecallConfig, Stream
from tokenturing.tasks.recall.world.render import Renderer


@dataclass
class Batch:
    """Chunks of B streams, T steps each."""

    frames: Tensor
    """[B, T, 32, 32] float32 (or what another renderer makes of them)"""
    sound: Tensor
    """[B, T, 96] float32"""
    has_frame: Tensor
    """bool [B, T]"""
    has_sound: Tensor
    """bool [B, T]"""
    question: Tensor
    """[B, T] int64, -1: none"""
    answer: Tensor
    """[B, T] int64, -1: none"""
    facts: Tensor
    """[B, T, FACTS] int64"""
    reset: Tensor
    """bool [B, T], true at the first step of a stream"""
    visible: Tensor
    """[B, T] the digit in the frame, NOTHING where there is none"""

    def take(self, rows: slice) -> "Batch":
        """Some of the streams."""
        return Batch(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


class RecallStreams:
    """An endless seeded iterator over chunks [B, T] of streams that go on from chunk to chunk.

    Args:
        rows: B.
        steps: T.
        bank: the spoken digits and background sounds of the split.
        config: what the streams are like.
        seed: of everything drawn.
        renderer: what makes pictures and sound of the plans.
    """

    def __init__(
        self,
        rows: int,
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
        self.position = [(0, 0)] * rows
        """(number of the stream, step in it) of each row"""
        self.plans: list[Stream] = []

    def state(self) -> dict:
        """Where the iterator stands, as plain numbers."""
        return {"chunk": self.chunk, "position": [list(p) for p in self.position]}

    def restore(self, state: dict) -> None:
        """Go on from where `state()` was taken."""
        self.chunk = state["chunk"]
        self.position = [(number, step) for number, step in state["position"]]
        self.plans = []

    def _plan(self, row: int) -> Stream:
        return self.planner.draw(np.random.default_rng([self.seed, row, number := self.position[row][0]]), number)

    def __iter__(self) -> "RecallStreams":
        return self

    def __next__(self) -> Batch:
        if not self.plans:
            self.plans = [self._plan(row) for row in range(self.rows)]
        rng = np.random.default_rng([self.seed, 1 << 21, self.chunk])
        parts = [self._row(row) for row in range(self.rows)]
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
        rows = [self._piece(pieces, rng) for pieces in parts]
        return Batch(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    def _piece(self, pieces: list[tuple[Stream, int, int]], rng: np.random.Generator) -> dict[str, Tensor]:
        made = []
        for plan, start, steps in pieces:
            asked = torch.from_numpy(plan.questions[start : start + steps])
            reset = torch.zeros(steps, dtype=torch.bool)
            reset[0] = start == 0
            made.append(
                {
                    "frames": self.renderer.frames([plan], [start], steps, rng)[0],
                    "sound": self.renderer.sound([plan], [start], steps)[0],
                    "has_frame": torch.full((steps,), plan.has_frames),
                    "has_sound": torch.full((steps,), plan.has_sound),
                    "question": asked[:, 0],
                    "answer": asked[:, 1],
                    "facts": torch.from_numpy(plan.facts[start : start + steps]),
                    "reset": reset,
                    "visible": self.renderer.visible([plan], [start], steps)[0],
                }
            )
        return {name: torch.cat([piece[name] for piece in made]) for name in made[0]}
