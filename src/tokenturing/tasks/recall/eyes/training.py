"""Training of the eyes and ears on single steps, before any memory stands behind them."""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenturing.tasks.digits import digit_images
from tokenturing.tasks.recall.eyes.perception import Perception
from tokenturing.tasks.recall.voices.bank import SpeechBank
from tokenturing.tasks.recall.world.plans import TAIL
from tokenturing.tasks.recall.world.questions import NOTHING
from tokenturing.tasks.recall.world.scenes import NoisePool, clutter_bank, random_sighting, render_digits

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


def train_perception(
    banks: Sequence[SpeechBank],
    *,
    updates: int = 2500,
    seed: int = 0,
    rate: float = 2e-3,
    width: int = 64,
    report: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Perception:
    """Train frames and sound to tell digits, noise and clutter on single steps.

    Args:
        banks: of training voices, each drawn from equally often.
        updates: of 256 frames and 512 sounds each.
        seed: of everything drawn.
        rate: peak learning rate.
        width: D of the tokens.
        report: called with (updates done, in all, metrics).
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    glances = Glances("train", seed)
    model = Perception(width)
    model.sound.normalize_by(draw_sounds(banks, 8192, rng)[0])
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.02)
    began = time.perf_counter()
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (update + 1) / 50) * 0.5 * (1 + math.cos(math.pi * update / updates))
        frames, visible = glances.draw(256, rng)
        sounds, spoken = draw_sounds(banks, 512, rng)
        # Voices differ more than those at hand: noise on the features keeps the ears from learning these by heart.
        strength = 0.5 * torch.rand(len(sounds), 1) * model.sound.scale
        sounds = sounds + strength * torch.randn(sounds.shape)
        seen = model.seen(model.frames(frames).flatten(-2))
        heard = model.heard(model.sound(sounds).squeeze(-2))
        loss = F.cross_entropy(seen, visible, label_smoothing=0.02)
        loss = loss + F.cross_entropy(heard, spoken, ignore_index=-1, label_smoothing=0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if report:
            report(update + 1, updates, {"loss": loss.item(), "seconds": time.perf_counter() - began})
    return model.eval()


@torch.no_grad()
def perception_figures(model: Perception, bank: SpeechBank, split: str, count: int = 8192) -> dict[str, float]:
    """Shares on single steps of a split: digits told right, digits missed, nothing taken for a digit."""
    rng = np.random.default_rng(5)
    frames, visible = Glances(split, 1).draw(count, rng)
    sounds, spoken = draw_sounds([bank], count, rng)
    seen = model.seen(model.frames(frames).flatten(-2)).argmax(-1)
    heard = model.heard(model.sound(sounds).squeeze(-2)).argmax(-1)
    figures = {}
    for name, found, truth in (("seen", seen, visible), ("heard", heard, spoken)):
        digit, nothing = (truth >= 0) & (truth < NOTHING), truth == NOTHING
        figures[f"{name} right"] = float((found == truth)[digit].float().mean())
        figures[f"{name} missed"] = float((found == NOTHING)[digit].float().mean())
        figures[f"{name} false alarms"] = float((found != NOTHING)[nothing].float().mean())
    return figures
