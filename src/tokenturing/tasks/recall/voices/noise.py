"""Background sounds without speech."""

import numpy as np

from tokenturing.errors import choose
from tokenturing.media.clock import SAMPLE_RATE

BACKGROUNDS = ("silence", "white", "pink", "fan", "hum", "crackle")
NOISE_LEVELS = (-75.0, -35.0)
"""dBFS"""


def background_noise(kind: str, seconds: float, rng: np.random.Generator, level: float | None = None) -> np.ndarray:
    """A background without speech: float32 [16000 x seconds], its power `level` dBFS (None: drawn from NOISE_LEVELS)."""
    choose("background", kind, BACKGROUNDS)
    level = rng.uniform(*NOISE_LEVELS) if level is None else level
    count = round(seconds * SAMPLE_RATE)
    if kind == "silence" or count == 0:
        return np.zeros(count, np.float32)
    make = {"white": _white, "pink": _pink, "fan": _fan, "hum": _hum, "crackle": _crackle}[kind]
    noise = make(count, rng)
    return (noise * (10 ** (level / 20) / power(noise))).astype(np.float32)


def _white(count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(count)


def _pink(count: int, rng: np.random.Generator, slope: float = 0.5) -> np.ndarray:
    """Noise whose amplitude falls with frequency ** slope above 30 Hz (0.5 is pink, 1 is brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum / np.maximum(frequency, 30.0) ** slope, count)
    return noise / power(noise)


def _fan(count: int, rng: np.random.Generator) -> np.ndarray:
    """A rumble with the tone of the blades in it, swelling slowly."""
    times = np.arange(count) / SAMPLE_RATE
    blades = np.sin(2 * np.pi * (rng.uniform(80, 250) * times + rng.random()))
    swell = 1 + 0.3 * np.sin(2 * np.pi * (rng.uniform(0.2, 1.5) * times + rng.random()))
    return swell * (_pink(count, rng, slope=1.0) + rng.uniform(0.1, 0.6) * blades)


def _hum(count: int, rng: np.random.Generator) -> np.ndarray:
    """Mains hum: 50 or 60 Hz with overtones, and a little hiss."""
    times = np.arange(count) / SAMPLE_RATE
    base = rng.choice([50.0, 60.0])
    tones = [rng.random() / overtone * np.sin(2 * np.pi * (overtone * base * times + rng.random())) for overtone in range(1, 17)]
    hum = np.sum(tones, axis=0)
    return hum + 0.05 * power(hum) * rng.standard_normal(count)


def _crackle(count: int, rng: np.random.Generator) -> np.ndarray:
    """Clicks of 1 to 5 ms at random times, like an old record, over soft pink noise."""
    crackle = np.zeros(count + SAMPLE_RATE // 50)
    per_second = rng.uniform(3, 15)
    for start in rng.integers(0, count, rng.poisson(per_second * count / SAMPLE_RATE) + 1):
        decay = np.exp(-np.arange(SAMPLE_RATE // 50) / (rng.uniform(0.001, 0.005) * SAMPLE_RATE / 3))
        crackle[start : start + len(decay)] += rng.exponential() * decay * rng.standard_normal(len(decay))
    crackle = crackle[:count]
    return crackle + 0.2 * power(crackle) * _pink(count, rng)


def power(waveform: np.ndarray) -> float:
    """Root mean square of a waveform [S], never 0."""
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) or 1e-9
