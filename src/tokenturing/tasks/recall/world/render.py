"""Plans of streams turned into what is seen and heard."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tokenturing.tasks.digits import digit_images
from tokenturing.tasks.recall.voices.bank import SpeechBank
from tokenturing.tasks.recall.world.plans import Stream, audible
from tokenturing.tasks.recall.world.scenes import SIZE, NoisePool, clutter_bank, render_digits


class Renderer:
    """Turns stretches of plans into what is seen and heard."""

    def __init__(self, split: str, bank: SpeechBank, seed: int = 0):
        self.images = torch.from_numpy(digit_images(split)[0])
        self.bank = bank
        self.clutter = clutter_bank(seed if split == "train" else seed + 1)
        self.noise = NoisePool(seed)

    def frames(self, plans: Sequence[Stream], starts: Sequence[int], steps: int, rng: np.random.Generator) -> Tensor:
        """[B, T, 32, 32]: T steps of each plan from its start on."""
        frames = self.noise.draw(len(plans) * steps, rng).view(len(plans), steps, SIZE, SIZE)
        frames = frames * torch.tensor([plan.noise for plan in plans]).view(-1, 1, 1, 1)
        where, what = [], []
        for row, (plan, start) in enumerate(zip(plans, starts, strict=True)):
            ends = [scene[0] for scene in plan.clutter[1:]] + [1 << 60]
            for (first, image, strength), end in zip(plan.clutter, ends, strict=True):
                low, high = max(first - start, 0), min(end - start, steps)
                if low < high:
                    frames[row, low:high] += strength * self.clutter[image % len(self.clutter)]
            for sighting in plan.sightings:
                for step in range(max(sighting.first, start), min(sighting.last + 1, start + steps)):
                    where.append((row, step - start))
                    what.append((sighting, step))
        if what:
            digits = render_digits(
                self.images[[s.image for s, _ in what]],
                torch.tensor([s.centre(step) for s, step in what]),
                torch.tensor([s.size for s, _ in what]),
                torch.tensor([s.turn for s, _ in what]),
            )
            rows, columns = torch.tensor(where).unbind(1)
            digits = digits * torch.tensor([s.brightness for s, _ in what]).view(-1, 1, 1)
            frames[rows, columns] = torch.maximum(frames[rows, columns], digits + 0.3 * frames[rows, columns])
        return frames.clamp_(0, 1)

    def sound(self, plans: Sequence[Stream], starts: Sequence[int], steps: int) -> Tensor:
        """[B, T, 96]: the speech embedding of T steps of each plan from its start on."""
        sound = np.empty((len(plans), steps, 96), np.float32)
        for row, (plan, start) in enumerate(zip(plans, starts, strict=True)):
            ambient = self.bank.ambient[plan.background]
            at = (plan.ambient_offset + start + np.arange(steps)) % len(ambient)
            sound[row] = ambient[at]
            for word in plan.spoken:
                first, end = audible(word, plan.pace)
                low, high = max(first, start), min(end, start + steps)
                if low < high:
                    sound[row, low - start : high - start] = self.bank.clips[word.clip, low - word.first : high - word.first]
        return torch.from_numpy(sound)
