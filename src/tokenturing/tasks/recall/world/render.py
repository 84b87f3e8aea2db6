"""Plans of streams rendered as frames and sound."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tokenturing.encoders.sound import EMBEDDING_WIDTH
from tokenturing.tasks.digits import digit_images
from tokenturing.tasks.recall.voices.bank import SpeechBank
from tokenturing.tasks.recall.world.plans import Stream, audible
from tokenturing.tasks.recall.world.scenes import SIZE, NoisePool, clutter_bank, render_digits


class Renderer:
    """Renders stretches of plans as frames, sound and labels."""

    def __init__(self, split: str, bank: SpeechBank, seed: int = 0):
        self.images = torch.from_numpy(digit_images(split)[0])
        self.bank = bank
        self.clutter = clutter_bank(seed if split == "train" else seed + 1)
        self.noise = NoisePool(seed)

    def frames(self, plans: Sequence[Stream], starts: Sequence[int], steps: int, rng: np.random.Generator) -> Tensor:
        """[B, T, 32, 32]: T steps of each plan, from its start on."""
        frames = self.noise.draw(len(plans) * steps, rng).view(len(plans), steps, SIZE, SIZE)
        frames = frames * torch.tensor([plan.noise for plan in plans]).view(-1, 1, 1, 1)
        places, shown = [], []
        for row, (plan, start) in enumerate(zip(plans, starts, strict=True)):
            ends = [scene[0] for scene in plan.clutter[1:]] + [1 << 60]
            for (first, image, strength), end in zip(plan.clutter, ends, strict=True):
                low, high = max(first - start, 0), min(end - start, steps)
                if low < high:
                    frames[row, low:high] += strength * self.clutter[image % len(self.clutter)]
            for sighting in plan.sightings:
                for step in range(max(sighting.first, start), min(sighting.last + 1, start + steps)):
                    places.append((row, step - start))
                    shown.append((sighting, step))
        if shown:
            digits = render_digits(
                self.images[[s.image for s, _ in shown]],
                torch.tensor([s.centre(step) for s, step in shown]),
                torch.tensor([s.size for s, _ in shown]),
                torch.tensor([s.turn for s, _ in shown]),
            )
            rows, columns = torch.tensor(places).unbind(1)
            digits = digits * torch.tensor([s.brightness for s, _ in shown]).view(-1, 1, 1)
            frames[rows, columns] = torch.maximum(frames[rows, columns], digits + 0.3 * frames[rows, columns])
        return frames.clamp_(0, 1)

    def sound(self, plans: Sequence[Stream], starts: Sequence[int], steps: int) -> Tensor:
        """[B, T, 96]: the speech embedding of T steps of each plan, from its start on."""
        sound = np.empty((len(plans), steps, EMBEDDING_WIDTH), np.float32)
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
