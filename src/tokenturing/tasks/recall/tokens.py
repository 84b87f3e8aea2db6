"""The streams and voices of a recipe, perceived once and for all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tokenturing.tasks.recall.eyes.perception import FRAME_TOKENS, Perception
from tokenturing.tasks.recall.model import PerceivedInput
from tokenturing.tasks.recall.voices.bank import SpeechBank, cached_bank
from tokenturing.tasks.recall.voices.utterances import recorded, speakers
from tokenturing.tasks.recall.world.plans import RecallConfig, Stream
from tokenturing.tasks.recall.world.render import Renderer
from tokenturing.tasks.recall.world.scenes import random_sighting
from tokenturing.tasks.recall.world.streams import Batch, RecallStreams

if TYPE_CHECKING:
    from tokenturing.train.recipe import Recipe

SIGHTINGS_PER_IMAGE = 10
LONGEST_SIGHTING = 10
BACKGROUND_FRAMES = 10000


def training_banks(recipe: "Recipe") -> tuple[list[SpeechBank], tuple[str, ...]]:
    """The voices to train on, synthesised and human, and the names of the human speakers."""
    synthesised = cached_bank("train")
    if not recipe.speech.folder:
        return [synthesised], ()
    names = speakers(recorded(recipe.speech.folder))
    kept = tuple(name for name in names if name not in recipe.speech.leave_out)
    return [synthesised, cached_bank("train", recipe.speech.folder, kept)], kept


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
    """

    def __init__(self, perception: Perception, bank: SpeechBank, config: RecallConfig, seed: int = 0):
        super().__init__(config.split, bank, seed)
        rng = np.random.default_rng([seed, 31])
        self.background = self._perceive(
            perception, [self._scene(rng, config, None) for _ in range(BACKGROUND_FRAMES // 10)], rng
        )
        self.background = self.background.flatten(0, 1)
        count = len(self.images) * SIGHTINGS_PER_IMAGE
        plans = [self._scene(rng, config, index % len(self.images)) for index in range(count)]
        self.sighted = self._perceive(perception, plans, rng)

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
    def _perceive(self, perception: Perception, plans: Sequence[Stream], rng: np.random.Generator) -> Tensor:
        """[K, steps, tokens, D] float16"""
        found = []
        for at in range(0, len(plans), 100):
            part = plans[at : at + 100]
            frames = super().frames(part, [0] * len(part), LONGEST_SIGHTING, rng)
            found.append(perception.frames(frames).half())
        return torch.cat(found)

    def frames(self, plans: Sequence[Stream], starts: Sequence[int], steps: int, rng: np.random.Generator) -> Tensor:
        """[B, T, tokens, D]: the frame tokens of T steps of each plan from its start on."""
        picked = torch.from_numpy(rng.integers(0, len(self.background), (len(plans), steps)))
        tokens = self.background[picked]
        for row, (plan, start) in enumerate(zip(plans, starts, strict=True)):
            for sighting in plan.sightings:
                low, high = max(sighting.first, start), min(sighting.last + 1, start + steps)
                if low < high:
                    draw = hash((sighting.size, sighting.start)) % SIGHTINGS_PER_IMAGE
                    seen = self.sighted[sighting.image + draw * len(self.images)]
                    tokens[row, low - start : high - start] = seen[low - sighting.first : high - sighting.first]
        return tokens.float()


def training_streams(recipe: "Recipe", bank: SpeechBank, perception: Perception) -> RecallStreams:
    """The seeded streams to train on."""
    renderer = TokenRenderer(perception, bank, recipe.data)
    return RecallStreams(
        recipe.train.rows,
        recipe.train.steps,
        bank,
        recipe.data,
        seed=recipe.train.seed + 1,
        renderer=renderer,
    )


def perceived(batch: Batch, perception: Perception) -> PerceivedInput:
    """What the model's memory sees of a batch of frame tokens."""
    with torch.no_grad():
        tokens = torch.cat([batch.frames, perception.sound(batch.sound)], dim=-2)
    assert tokens.shape[-2] == FRAME_TOKENS + 1
    return PerceivedInput(tokens, batch.question, batch.has_frame, batch.has_sound)
