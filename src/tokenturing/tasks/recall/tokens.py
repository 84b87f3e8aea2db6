"""Frame tokens in place of frames: what a frozen perception makes of images, perceived once and for all."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tokenturing.tasks.contract import Report, device_of
from tokenturing.tasks.recall.eyes.perception import FRAME_TOKENS, Perception
from tokenturing.tasks.recall.model import PerceivedInput
from tokenturing.tasks.recall.voices.bank import SpeechBank
from tokenturing.tasks.recall.world.plans import RecallConfig, Stream
from tokenturing.tasks.recall.world.render import Renderer
from tokenturing.tasks.recall.world.scenes import random_sighting
from tokenturing.tasks.recall.world.streams import RecallInput

LONGEST_SIGHTING = 10
CALL = 100
"""plans perceived at a time"""


class TokenRenderer(Renderer):
    """Renders frame tokens in place of frames, out of a bank of sightings and backgrounds that were perceived before.

    The perception is frozen and sees one frame at a time, so nothing is lost but the draw of the clutter behind a
    sighting; a step of training is spared the rendering and a convolutional network.

    Args:
        perception: the frozen eyes.
        split: of the images.
        bank: of voices.
        config: what the streams are like.
        seed: of the bank of sightings.
        sightings: perceived of each image.
        backgrounds: frames without a digit.
        report: told how far this is.
    """

    def __init__(
        self,
        perception: Perception,
        bank: SpeechBank,
        config: RecallConfig,
        seed: int = 0,
        *,
        sightings: int = 10,
        backgrounds: int = 10_000,
        report: Report | None = None,
    ):
        super().__init__(config.split, bank, seed)
        self.sightings = sightings
        rng = np.random.default_rng([seed, 31])
        plans = [self._scene(rng, config, None) for _ in range(backgrounds // LONGEST_SIGHTING)]
        total = len(plans) + len(self.images) * sightings
        self.background = self._perceive(perception, plans, rng, report, 0, total).flatten(0, 1)
        done = len(plans)
        plans = [self._scene(rng, config, index % len(self.images)) for index in range(len(self.images) * sightings)]
        self.sighted = self._perceive(perception, plans, rng, report, done, total)

    @staticmethod
    def _scene(rng: np.random.Generator, config: RecallConfig, image: int | None) -> Stream:
        steps = int(rng.integers(4, LONGEST_SIGHTING + 1))
        sightings = [] if image is None else [random_sighting(rng, 0, steps, -1, image)]
        return Stream(
            LONGEST_SIGHTING,
            sightings,
            [],
            [(0, int(rng.integers(1 << 30)), float(rng.uniform(0, 0.8)))],
            float(rng.uniform(0, config.noise)),
            0,
            0,
            True,
            False,
            np.zeros((0, 2)),
            np.zeros((0, 0)),
        )

    @torch.no_grad()
    def _perceive(
        self,
        perception: Perception,
        plans: Sequence[Stream],
        rng: np.random.Generator,
        report: Report | None,
        done: int,
        total: int,
    ) -> Tensor:
        """[K, steps, tokens, D] float16"""
        found = []
        for at in range(0, len(plans), CALL):
            part = plans[at : at + CALL]
            frames = super().frames(part, [0] * len(part), LONGEST_SIGHTING, rng)
            found.append(perception.frames(frames.to(device_of(perception))).half().cpu())
            if report:
                report("perceiving images", done + at + len(part), total)
        return torch.cat(found)

    def frames(self, plans: Sequence[Stream], starts: Sequence[int], steps: int, rng: np.random.Generator) -> Tensor:
        """[B, T, tokens, D]: the frame tokens of T steps of each plan from its start on."""
        picked = torch.from_numpy(rng.integers(0, len(self.background), (len(plans), steps)))
        tokens = self.background[picked]
        for row, (plan, start) in enumerate(zip(plans, starts, strict=True)):
            for sighting in plan.sightings:
                low, high = max(sighting.first, start), min(sighting.last + 1, start + steps)
                if low < high:
                    draw = hash((sighting.size, sighting.start)) % self.sightings
                    seen = self.sighted[sighting.image + draw * len(self.images)]
                    tokens[row, low - start : high - start] = seen[low - sighting.first : high - sighting.first]
        return tokens.float()


def perceived(inputs: RecallInput, perception: Perception) -> PerceivedInput:
    """What the model's memory sees of a batch of frame tokens."""
    with torch.no_grad():
        tokens = torch.cat([inputs.frames, perception.sound(inputs.sound)], dim=-2)
    assert tokens.shape[-2] == FRAME_TOKENS + 1
    return PerceivedInput(tokens, inputs.has_frame, inputs.has_sound)
