"""The task of the eyes and ears: digits on single steps, before any memory stands behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenturing.options import number
from tokenturing.tasks.contract import Batch, Report, Task, device_of, mean
from tokenturing.tasks.digits import digit_images
from tokenturing.tasks.recall.eyes.perception import Perception
from tokenturing.tasks.recall.voices.bank import SpeechBank
from tokenturing.tasks.recall.voices.choice import SpeechOptions, training_banks, validation_bank
from tokenturing.tasks.recall.world.plans import TAIL
from tokenturing.tasks.recall.world.questions import NOTHING
from tokenturing.tasks.recall.world.scenes import NoisePool, clutter_bank, random_sighting, render_digits

BLOCK = 16
"""rows drawn together"""
UNCLEAR = -1
CLEAR = 3
"""steps after the end of a word in which it is to be recognised"""
FADED = 5
"""steps after the end of a word from which on nothing is to be recognised"""
ALMOST = 1
"""steps before the end of a word in which it may be recognised; before these nothing is, so that a word is one short event"""


class Glances:
    """Single frames, some with a digit.

    Args:
        split: of the images.
        seed: of clutter and noise.
        noise: standard deviation of the pixel noise, at most.
    """

    def __init__(self, split: str, seed: int = 0, noise: float = 0.12):
        images, labels = digit_images(split)
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
        self.clutter, self.pool, self.noise = clutter_bank(seed), NoisePool(seed), noise

    def draw(self, count: int, rng: np.random.Generator, share: float = 0.5) -> tuple[Tensor, Tensor]:
        """frames [count, 32, 32] and the digit in each, NOTHING where there is none."""
        index = rng.integers(0, len(self.labels), count)
        seen = [random_sighting(rng, 0, 8, -1, int(i)) for i in index]
        digits = render_digits(
            self.images[index],
            torch.tensor([s.centre(int(step)) for s, step in zip(seen, rng.integers(0, 8, count), strict=True)]),
            torch.tensor([s.size for s in seen]),
            torch.tensor([s.turn for s in seen]),
        ) * torch.tensor([s.brightness for s in seen]).view(-1, 1, 1)
        present = torch.from_numpy(rng.random(count) < share)

        def strength(most: float) -> Tensor:
            return torch.from_numpy(rng.uniform(0, most, (count, 1, 1)).astype(np.float32))

        scene = self.clutter[rng.integers(0, len(self.clutter), count)] * strength(0.8)
        scene = scene + self.pool.draw(count, rng) * strength(self.noise)
        frames = torch.where(present.view(-1, 1, 1), torch.maximum(scene, digits + 0.3 * scene), scene)
        return frames.clamp(0, 1), torch.where(present, self.labels[index], NOTHING)


def draw_sounds(banks: Sequence[SpeechBank], count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Speech embeddings [count, 96] and the digit just heard, NOTHING for none, -1 where it is not clear.

    Each bank gives an equal share; half of it is taken in and after words, half from the background.
    """
    sounds, labels = [], []
    half = count // len(banks) // 2
    for bank in banks:
        clips = rng.integers(0, len(bank.digit), half)
        step = rng.integers(0, bank.length[clips] + TAIL)
        after = step - bank.length[clips]
        label = np.where((after >= 0) & (after < CLEAR), bank.digit[clips], -1)
        labels.append(np.where((after >= FADED) | (after < -ALMOST), NOTHING, label))
        sounds.append(bank.clips[clips, step].astype(np.float32))
        kinds, length = bank.ambient.shape[:2]
        labels.append(np.full(half, NOTHING))
        sounds.append(bank.ambient[rng.integers(0, kinds, half), rng.integers(0, length, half)].astype(np.float32))
    return torch.from_numpy(np.concatenate(sounds)), torch.from_numpy(np.concatenate(labels))


class GlanceInput(NamedTuple):
    """What there is to see and hear, [B, T, ...], each step by itself."""

    frames: Tensor
    """[B, T, 32, 32]"""
    sound: Tensor
    """[B, T, 2, 96]"""


class GlanceTargets(NamedTuple):
    """What it is."""

    visible: Tensor
    """int64 [B, T], NOTHING for none"""
    spoken: Tensor
    """int64 [B, T, 2], NOTHING for none, -1 where it is not clear"""


class GlanceBatches:
    """Single steps, drawn in blocks of rows so that a row is the same whatever other rows there are.

    Args:
        banks: of voices, each drawn from equally often.
        split: of the images.
        rows: the global rows.
        steps: T.
        seed: of everything drawn.
    """

    def __init__(self, banks: Sequence[SpeechBank], split: str, rows: range, steps: int, seed: int):
        self.banks, self.rows, self.steps, self.seed = banks, rows, steps, seed
        self.glances = Glances(split, seed)
        self.number = 0

    def __iter__(self) -> "GlanceBatches":
        return self

    def __next__(self) -> Batch:
        first, last = self.rows.start // BLOCK, -(-self.rows.stop // BLOCK)
        blocks = [self._block(block) for block in range(first, last)]
        here = slice(self.rows.start - first * BLOCK, self.rows.stop - first * BLOCK)
        frames, visible, sound, spoken = (torch.cat(parts)[here] for parts in zip(*blocks, strict=True))
        self.number += 1
        reset = torch.ones(frames.shape[:2], dtype=torch.bool)
        return Batch(GlanceInput(frames, sound), GlanceTargets(visible, spoken), reset)

    def _block(self, block: int) -> tuple[Tensor, ...]:
        """BLOCK rows: frames, visible, sound, spoken."""
        rng = np.random.default_rng([self.seed, block, self.number])
        count = BLOCK * self.steps
        frames, visible = self.glances.draw(count, rng)
        sound, spoken = draw_sounds(self.banks, 2 * count, rng)
        shape = BLOCK, self.steps
        order = torch.from_numpy(rng.permutation(len(sound)))
        return (
            frames.unflatten(0, shape),
            visible.unflatten(0, shape),
            sound[order].unflatten(0, (*shape, 2)),
            spoken[order].unflatten(0, (*shape, 2)),
        )

    def state(self) -> dict[str, int]:
        """How many batches were drawn."""
        return {"number": self.number}

    def restore(self, state: dict[str, int]) -> None:
        """Go on from where `state()` was taken."""
        self.number = state["number"]


@dataclass(frozen=True)
class PerceptionOptions:
    """The recipe of a perception."""

    width: int = number(64, 1)
    """D of the tokens"""
    speech: SpeechOptions = SpeechOptions()


class RecallPerception(Task):
    """Train frames and sound to tell digits, noise and clutter on single steps; there is no state.

    Args:
        options: of the recipe.
        seed: of weights and data.
        report: told of work that takes long.
    """

    Config = PerceptionOptions
    extras = ("speech", "tasks")

    def __init__(self, options: PerceptionOptions | None = None, seed: int = 0, report: Report | None = None):
        self.options, self.seed, self.report = options or PerceptionOptions(), seed, report
        self._voices: tuple[list[SpeechBank], tuple[str, ...]] | None = None

    def voices(self) -> tuple[list[SpeechBank], tuple[str, ...]]:
        """The banks to train on, and the names of the human speakers in them."""
        if self._voices is None:
            self._voices = training_banks(self.options.speech, self.report)
        return self._voices

    def build(self) -> Perception:
        """The untrained eyes and ears, which know how loud and how varied sounds are."""
        model = Perception(self.options.width)
        model.sound.normalize_by(draw_sounds(self.voices()[0], 8192, np.random.default_rng(self.seed))[0])
        return model

    def batches(self, split: str, rows: range, steps: int, model: nn.Module) -> GlanceBatches:
        """Frames and sounds, half of them with a digit."""
        return GlanceBatches(self.voices()[0], split, rows, steps, self.seed)

    def losses(self, model: nn.Module, batch: Batch, state: Any) -> tuple[dict[str, Tensor], Any]:
        """Of what is seen and of what is heard."""
        assert isinstance(model, Perception)
        sound = batch.inputs.sound
        if model.training:
            # Voices differ more than those at hand: noise on the features keeps the ears from learning these by heart.
            strength = 0.5 * torch.rand(*sound.shape[:-1], 1, device=sound.device) * model.sound.scale
            sound = sound + strength * torch.randn(sound.shape, device=sound.device)
        seen = model.seen(model.frames(batch.inputs.frames).flatten(-2))
        heard = model.heard(model.sound(sound).squeeze(-2))
        counts = batch.counts or self.counts(batch)
        found = {
            "seen": mean(_loss(seen, batch.targets.visible), counts["seen"]),
            "heard": mean(_loss(heard, batch.targets.spoken), counts["heard"]),
        }
        return {"loss": found["seen"] + found["heard"], **found}, None

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many pictures and sounds are clear."""
        targets: GlanceTargets = batch.targets
        return {"seen": (targets.visible != UNCLEAR).sum(), "heard": (targets.spoken != UNCLEAR).sum()}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Shares on single steps of validation images and voices."""
        assert isinstance(model, Perception)
        return perception_figures(model, validation_bank(self.options.speech, self.report), "validation")

    def notes(self) -> dict[str, Any]:
        """Who must not be tested on."""
        return {"human_speakers": list(self.voices()[1])}


def _loss(logits: Tensor, truth: Tensor) -> Tensor:
    """The sum of the cross-entropies of what is clear in `truth`."""
    return F.cross_entropy(logits.flatten(0, -2), truth.flatten(), ignore_index=UNCLEAR, label_smoothing=0.02, reduction="sum")


@torch.no_grad()
def perception_figures(model: Perception, bank: SpeechBank, split: str, count: int = 8192) -> dict[str, float]:
    """Shares on single steps of a split: digits told right, digits missed, nothing taken for a digit."""
    rng = np.random.default_rng(5)
    frames, visible = Glances(split, 1).draw(count, rng)
    sounds, spoken = draw_sounds([bank], count, rng)
    place = device_of(model)
    seen = model.seen(model.frames(frames.to(place)).flatten(-2)).argmax(-1).cpu()
    heard = model.heard(model.sound(sounds.to(place)).squeeze(-2)).argmax(-1).cpu()
    figures = {}
    for name, found, truth in (("seen", seen, visible), ("heard", heard, spoken)):
        digit, nothing = (truth >= 0) & (truth < NOTHING), truth == NOTHING
        figures[f"{name} right"] = float((found == truth)[digit].float().mean())
        figures[f"{name} missed"] = float((found == NOTHING)[digit].float().mean())
        figures[f"{name} false alarms"] = float((found != NOTHING)[nothing].float().mean())
    return figures
