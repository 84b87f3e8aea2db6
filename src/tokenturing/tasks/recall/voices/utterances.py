"""Spoken digits as sound: synthesised in many voices, or read from a folder of recordings."""

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenturing.media.clock import SAMPLE_RATE
from tokenturing.tasks.recall.voices.synthesis import digit_word, synthesize, trim_silence, voices
from tokenturing.tasks.waiting import track

RATES = (120, 230)  # words a minute, drawn for synthesised words
PITCHES = (20, 80)
COUNT_PER_VOICE = {"train": 3, "validation": 4, "test": 4}  # words of each digit
MAX_WORD_SECONDS = 3.0
FILE_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)\.wav")


@dataclass(frozen=True)
class Utterance:
    """One spoken digit, without the silence around it."""

    digit: int
    speaker: str
    samples: np.ndarray  # float32 [S], 16 kHz mono


class Recordings(NamedTuple):
    """What a folder held: its words, and why its other wav files were passed over."""

    utterances: list[Utterance]
    skipped: list[str]


def synthesised(split: str, *, seed: int, count_per_voice: int | None = None, progress: bool = True) -> list[Utterance]:
    """Digits spoken by a split's voices: each `count_per_voice` times, at random rates and pitches."""
    count = COUNT_PER_VOICE[split] if count_per_voice is None else count_per_voice
    jobs = [
        (digit, voice, rate, pitch)
        for speaker, voice in enumerate(voices(split))
        for digit in range(10)
        for rate, pitch in islice(_manners(np.random.default_rng([seed, 0, speaker, digit])), count)
    ]
    return [
        Utterance(digit, voice, synthesize(digit_word(digit), voice, rate, pitch))
        for digit, voice, rate, pitch in track(jobs, len(jobs), f"speaking ({split})", progress)
    ]


def _manners(rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    """Rates (words a minute) and pitches without end."""
    while True:
        yield rng.uniform(*RATES), rng.uniform(*PITCHES)


def recorded(folder: str | os.PathLike[str]) -> list[Utterance]:
    """Digits from wav files `{digit}_{speaker}_{index}.wav`; warns of the files that it had to skip."""
    utterances, skipped = read_recordings(folder)
    if skipped:
        listed = "; ".join(skipped[:5]) + ("; ..." if len(skipped) > 5 else "")
        warnings.warn(f"skipped {len(skipped)} of the wav files in {folder}: {listed}", stacklevel=2)
    return utterances


def read_recordings(folder: str | os.PathLike[str]) -> Recordings:
    """As `recorded`, with the reasons for skipped files as a value instead of a warning."""
    found = Recordings([], [])
    for path in wav_files(folder):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            found.skipped.append(f"{path.name}: not named {{digit}}_{{speaker}}_{{index}}.wav")
            continue
        try:
            samples = _read_word(path)
        except (OSError, RuntimeError, ValueError) as error:
            found.skipped.append(f"{path.name}: {error}")
            continue
        found.utterances.append(Utterance(int(match["digit"]), match["speaker"], samples))
    if not found.utterances:
        reasons = "".join(f"\n  {reason}" for reason in found.skipped[:5])
        raise ValueError(
            f"no spoken digits in {folder}: expected wav files named {{digit}}_{{speaker}}_{{index}}.wav, "
            f"for example 7_george_0.wav{reasons}"
        )
    return found


def speakers(utterances: Iterable[Utterance]) -> tuple[str, ...]:
    """Who speaks in them, each once, in alphabetical order."""
    return tuple(sorted({utterance.speaker for utterance in utterances}))


def wav_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The wav files of a folder, in order."""
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is not a folder: expected one with wav files {{digit}}_{{speaker}}_{{index}}.wav")
    return sorted(path for path in Path(folder).iterdir() if path.suffix.lower() == ".wav")


def _read_word(path: Path) -> np.ndarray:
    """A wav file of any rate and number of channels -> float32 [S], 16 kHz, trimmed, with 5 ms fades."""
    import soundfile
    from scipy.signal import resample_poly

    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    waveform = sound.mean(axis=1)
    if rate != SAMPLE_RATE:
        divisor = np.gcd(rate, SAMPLE_RATE)
        waveform = resample_poly(waveform, SAMPLE_RATE // divisor, rate // divisor)
    word = trim_silence(waveform.astype(np.float32))
    if not 0.05 * SAMPLE_RATE <= len(word) <= MAX_WORD_SECONDS * SAMPLE_RATE:
        seconds = len(word) / SAMPLE_RATE
        raise ValueError(f"{seconds:.2f} s of sound, a word lasts 0.05 to {MAX_WORD_SECONDS} s")
    fade = np.linspace(0, 1, SAMPLE_RATE // 200, dtype=np.float32)
    word[: len(fade)] *= fade  # the recording's own noise must not begin and end with a click
    word[-len(fade) :] *= fade[::-1]
    return word
