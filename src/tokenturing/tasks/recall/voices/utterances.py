"""Spoken digits as sound: synthesised in many voices, or read from a folder of recordings."""

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tokenturing.errors import MissingExtraError, OptionError, choose
from tokenturing.media.clock import SAMPLE_RATE
from tokenturing.tasks.recall.voices.reporting import reported
from tokenturing.tasks.recall.voices.resample import resample
from tokenturing.tasks.recall.voices.synthesis import digit_word, synthesize, trim_silence, voices

if TYPE_CHECKING:
    from tokenturing.tasks.contract import Report

RATES = (120, 230)
"""words a minute, drawn for synthesised words"""
PITCHES = (20, 80)
COUNT_PER_VOICE = {"train": 3, "validation": 4, "test": 4}
"""how often a voice says each digit"""
MIN_WORD_SECONDS, MAX_WORD_SECONDS = 0.05, 3.0
RECORDING_RATES = (1_000, 768_000)
"""samples a second that a recording may have; others are damaged headers"""
FILE_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)\.wav")


@dataclass(frozen=True)
class Utterance:
    """One spoken digit, without the silence around it."""

    digit: int
    speaker: str
    samples: np.ndarray
    """float32 [S], 16 kHz mono"""


class Recordings(NamedTuple):
    """The words in a folder, and why its other wav files were skipped."""

    utterances: list[Utterance]
    skipped: list[str]
    """"file name: reason" """


def synthesised(split: str, *, seed: int, count_per_voice: int | None = None, report: "Report | None" = None) -> list[Utterance]:
    """Each digit spoken by each voice of a split, `count_per_voice` times, at random rates and pitches."""
    choose("split", split, COUNT_PER_VOICE)
    count = COUNT_PER_VOICE[split] if count_per_voice is None else count_per_voice
    jobs = [
        (digit, voice, rate, pitch)
        for speaker, voice in enumerate(voices(split))
        for digit in range(10)
        for rate, pitch in islice(_manners(np.random.default_rng([seed, 0, speaker, digit])), count)
    ]
    return [
        Utterance(digit, voice, synthesize(digit_word(digit), voice, rate, pitch))
        for digit, voice, rate, pitch in reported(jobs, len(jobs), f"speaking ({split})", report)
    ]


def _manners(rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    """Endless random pairs of rate (words a minute) and pitch."""
    while True:
        yield rng.uniform(*RATES), rng.uniform(*PITCHES)


def recorded(folder: str | os.PathLike[str]) -> list[Utterance]:
    """Digits from wav files `{digit}_{speaker}_{index}.wav`, with a warning about files that had to be skipped."""
    utterances, skipped = read_recordings(folder)
    if skipped:
        listed = "; ".join(skipped[:5]) + ("; ..." if len(skipped) > 5 else "")
        warnings.warn(f"skipped {len(skipped)} of the wav files in {folder}: {listed}", stacklevel=2)
    return utterances


def read_recordings(folder: str | os.PathLike[str]) -> Recordings:
    """As `recorded`, with the reasons for skipped files as a value instead of a warning."""
    found, paths, soundfile = Recordings([], []), wav_files(folder), _soundfile_package()
    for path in paths:
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            found.skipped.append(f"{path.name}: not named {{digit}}_{{speaker}}_{{index}}.wav")
            continue
        try:
            sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
            samples = _word(sound, rate)
        except (OSError, soundfile.SoundFileError, OptionError) as error:
            found.skipped.append(f"{path.name}: {error}")
            continue
        found.utterances.append(Utterance(int(match["digit"]), match["speaker"], samples))
    if not found.utterances:
        reasons = "".join(f"\n  {reason}" for reason in found.skipped[:5])
        raise OptionError(
            f"no spoken digits in {folder}: expected wav files named {{digit}}_{{speaker}}_{{index}}.wav, "
            f"for example 7_george_0.wav{reasons}"
        )
    return found


def speakers(utterances: Iterable[Utterance]) -> tuple[str, ...]:
    """The speakers, in alphabetical order, each once."""
    return tuple(sorted({utterance.speaker for utterance in utterances}))


def wav_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The wav files of a folder, sorted by name."""
    if not Path(folder).is_dir():
        raise OptionError(f"{folder} is not a folder: expected one with wav files {{digit}}_{{speaker}}_{{index}}.wav")
    return sorted(path for path in Path(folder).iterdir() if path.suffix.lower() == ".wav" and path.is_file())


def _soundfile_package() -> ModuleType:
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtraError("soundfile", "speech") from error
    return soundfile


def _word(sound: np.ndarray, rate: int) -> np.ndarray:
    """Sound [S, channels] of any rate -> float32 [S], 16 kHz mono, trimmed, with 5 ms fades; an OptionError if it is no word."""
    if not RECORDING_RATES[0] <= rate <= RECORDING_RATES[1]:
        raise OptionError(f"{rate} samples a second, expected {RECORDING_RATES[0]} to {RECORDING_RATES[1]}")
    waveform = sound.mean(axis=1)
    if not np.isfinite(waveform).all():
        raise OptionError("NaN or infinite samples")
    if rate != SAMPLE_RATE:
        waveform = resample(waveform, rate, SAMPLE_RATE)
    word = trim_silence(waveform.astype(np.float32))
    if not MIN_WORD_SECONDS * SAMPLE_RATE <= len(word) <= MAX_WORD_SECONDS * SAMPLE_RATE:
        seconds = len(word) / SAMPLE_RATE
        raise OptionError(f"{seconds:.2f} s of sound, a word lasts {MIN_WORD_SECONDS} to {MAX_WORD_SECONDS} s")
    fade = np.linspace(0, 1, SAMPLE_RATE // 200, dtype=np.float32)
    word[: len(fade)] *= fade  # the recording's own noise must not begin and end with a click
    word[-len(fade) :] *= fade[::-1]
    return word
