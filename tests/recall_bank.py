"""Spoken digits for tests: a bank of seeded vectors that encode their digit, so that it can be learned, and real words."""

import numpy as np

from tokenturing.tasks.recall.voices import synthesis
from tokenturing.tasks.recall.voices.bank import SpeechBank
from tokenturing.tasks.recall.voices.noise import BACKGROUNDS
from tokenturing.tasks.recall.world.plans import TAIL


def tiny_bank(seed: int = 0, words: int = 2) -> SpeechBank:
    """`words` clips of each digit in each background."""
    rng = np.random.default_rng(seed)
    kinds = len(BACKGROUNDS)
    digit = np.tile(np.repeat(np.arange(10), words), kinds)
    background = np.repeat(np.arange(kinds), 10 * words)
    length = rng.integers(3, 7, len(digit))
    clips = rng.normal(0, 0.3, (len(digit), 6 + TAIL, 96)).astype(np.float16)
    for clip, spoken, steps in zip(clips, digit, length, strict=True):
        clip[steps - 1 : steps + 4, spoken] += 3
    ambient = rng.normal(0, 0.3, (kinds, 200, 96)).astype(np.float16)
    return SpeechBank(clips, digit, np.zeros(len(digit), np.int64), background, length, ambient, ("somebody",))


def spoken(digit: int) -> np.ndarray:
    """A digit as the synthesiser says it, float32 [samples]."""
    return synthesis.synthesize(synthesis.digit_word(digit), "en-us+m3")
