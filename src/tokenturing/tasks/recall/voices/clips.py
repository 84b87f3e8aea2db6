"""Words embedded in a background noise, as they are stitched into streams."""

from typing import NamedTuple

import numpy as np

from tokenturing.encoders.sound import SpeechEmbedding
from tokenturing.media.clock import SAMPLE_RATE, STEP_SAMPLES
from tokenturing.tasks.recall.voices.noise import BACKGROUNDS, background_noise, power
from tokenturing.tasks.recall.voices.resample import resample
from tokenturing.tasks.recall.voices.utterances import Utterance

TAIL_STEPS = 10
"""steps after a word in which the embedding's window of 775 ms still holds some of it"""
LEAD_STEPS = 13
"""steps of noise before a word (1.04 s), more than the window holds"""
PEAK_LEVELS = (-20.0, -3.0)
"""dBFS of a word's peak"""
SIGNAL_TO_NOISE = (15.0, 40.0)
"""dB"""
NARROW_SHARE = 0.5
"""of the clips, whose word is band-limited like a telephone's"""


def clip_length(samples: int, offset: int) -> int:
    """Steps that hold samples of a word that begins `offset` samples into the first of them."""
    return (offset + samples - 1) // STEP_SAMPLES + 1


def embed_clip(embedding: SpeechEmbedding, word: np.ndarray, noise: np.ndarray, offset: int) -> np.ndarray:
    """A word in its background -> float32 [length + TAIL_STEPS, 96].

    `noise` [1280 (LEAD_STEPS + length + TAIL_STEPS)] surrounds the word, which begins `offset` samples after LEAD_STEPS.
    """
    start = LEAD_STEPS * STEP_SAMPLES
    mixed = noise.copy()
    mixed[start + offset : start + offset + len(word)] += word
    vectors, _ = embedding.advance(mixed[start:], embedding.state_after(mixed[:start]))
    return vectors


class Clip(NamedTuple):
    """One word in one background."""

    vectors: np.ndarray
    """float16 [length + TAIL_STEPS, 96]"""
    background: int
    """index into BACKGROUNDS"""
    length: int
    """steps that hold samples of the word"""


def clips_of(job: tuple[int, Utterance], embedding: SpeechEmbedding, conditions: int, seed: int) -> list[Clip]:
    """One utterance in `conditions` backgrounds, with random levels, offsets and noise; `job` is (index, utterance)."""
    index, utterance = job
    rng = np.random.default_rng([seed, 1, index])
    kinds = np.resize(rng.permutation(len(BACKGROUNDS)), conditions)
    return [_clip(embedding, utterance.samples, int(kind), rng) for kind in kinds]


def _clip(embedding: SpeechEmbedding, samples: np.ndarray, kind: int, rng: np.random.Generator) -> Clip:
    offset = int(rng.integers(STEP_SAMPLES))
    if rng.random() < NARROW_SHARE:
        samples = _narrow(samples)
    word = samples * (10 ** (rng.uniform(*PEAK_LEVELS) / 20) / max(float(np.abs(samples).max()), 1e-6))
    level = 20 * np.log10(power(word)) - rng.uniform(*SIGNAL_TO_NOISE)
    length = clip_length(len(word), offset)
    seconds = (LEAD_STEPS + length + TAIL_STEPS) * STEP_SAMPLES / SAMPLE_RATE
    noise = background_noise(BACKGROUNDS[kind], seconds, rng, level)
    return Clip(embed_clip(embedding, word, noise, offset).astype(np.float16), kind, length)


def _narrow(samples: np.ndarray) -> np.ndarray:
    """The same without frequencies above 4 kHz, which telephones and many recordings lack."""
    half = resample(samples, SAMPLE_RATE, SAMPLE_RATE // 2)
    return resample(half, SAMPLE_RATE // 2, SAMPLE_RATE)[: len(samples)].astype(np.float32)
