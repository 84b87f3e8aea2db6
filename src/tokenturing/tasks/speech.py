"""Spoken digits as banks of embedded clips, from which endless streams are stitched for the recall task.

Embedding sound is too slow to do while training, so it is done once: a `SpeechBank` holds words that were
embedded in a background noise, and long stretches of each background with no speech. A stream with
background c is `ambient[c]` everywhere, and a clip's vectors while its word lasts and for TAIL_STEPS more:
what embedding the mixed sound would give, up to the draw of the noise.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tokenturing.encoders.sound import EMBEDDING_WIDTH, SAMPLE_RATE, STEP_SAMPLES, SpeechEmbedding
from tokenturing.tasks.synthesis import digit_word, synthesize, trim_silence, voices

BACKGROUNDS = ("silence", "white", "pink", "fan", "hum", "crackle")
TAIL_STEPS = 10  # after so many steps the embedding's 775 ms window holds nothing of the word
LEAD_STEPS = 13  # 1.04 s of noise before a word fill the window
RATES = (120, 230)  # words a minute, drawn for synthesised words
PITCHES = (20, 80)
PEAK_LEVELS = (-20.0, -3.0)  # dBFS of a word's peak
SIGNAL_TO_NOISE = (15.0, 40.0)  # dB
NOISE_LEVELS = (-75.0, -35.0)  # dBFS, as the two above give them
COUNT_PER_VOICE = {"train": 3, "validation": 4, "test": 4}  # words of each digit
NARROW_SHARE = 0.5  # of the clips whose word is cut to the band of a telephone
MAX_WORD_SECONDS = 3.0
FILE_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)\.wav")
BANK_VERSION = 2  # counts up with every change here, in synthesis or in the embedding that changes a bank
PACKAGES = ("pyopen-wakeword", "espeakng-loader", "scipy", "soundfile")  # whose versions a bank depends on

Item = TypeVar("Item")


# --- words


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


def synthesised(
    split: str, *, seed: int, count_per_voice: int | None = None, progress: bool = True
) -> list[Utterance]:
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
        for digit, voice, rate, pitch in _track(jobs, len(jobs), f"speaking ({split})", progress)
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
    for path in _wav_files(folder):
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


def _wav_files(folder: str | os.PathLike[str]) -> list[Path]:
    if not Path(folder).is_dir():
        raise ValueError(
            f"{folder} is not a folder: expected one with wav files {{digit}}_{{speaker}}_{{index}}.wav"
        )
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


# --- backgrounds


def background_noise(
    kind: str, seconds: float, rng: np.random.Generator, level: float | None = None
) -> np.ndarray:
    """A background with no speech: float32 [16000 x seconds], its power `level` dBFS (none given: drawn)."""
    if kind not in BACKGROUNDS:
        raise ValueError(f"unknown background {kind!r}: expected one of {', '.join(BACKGROUNDS)}")
    level = rng.uniform(*NOISE_LEVELS) if level is None else level
    count = round(seconds * SAMPLE_RATE)
    if kind == "silence" or count == 0:
        return np.zeros(count, np.float32)
    make = {"white": _white, "pink": _pink, "fan": _fan, "hum": _hum, "crackle": _crackle}[kind]
    noise = make(count, rng)
    return (noise * (10 ** (level / 20) / _power(noise))).astype(np.float32)


def _white(count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(count)


def _pink(count: int, rng: np.random.Generator, slope: float = 0.5) -> np.ndarray:
    """Noise whose amplitude falls with frequency ** slope above 30 Hz (0.5 is pink, 1 is brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum / np.maximum(frequency, 30.0) ** slope, count)
    return noise / _power(noise)


def _fan(count: int, rng: np.random.Generator) -> np.ndarray:
    """A rumble, the blades' tone in it, that swells slowly."""
    times = np.arange(count) / SAMPLE_RATE
    blades = np.sin(2 * np.pi * (rng.uniform(80, 250) * times + rng.random()))
    swell = 1 + 0.3 * np.sin(2 * np.pi * (rng.uniform(0.2, 1.5) * times + rng.random()))
    return swell * (_pink(count, rng, slope=1.0) + rng.uniform(0.1, 0.6) * blades)


def _hum(count: int, rng: np.random.Generator) -> np.ndarray:
    """The mains: 50 or 60 Hz with overtones, a little hiss."""
    times = np.arange(count) / SAMPLE_RATE
    base = rng.choice([50.0, 60.0])
    tones = [
        rng.random() / overtone * np.sin(2 * np.pi * (overtone * base * times + rng.random()))
        for overtone in range(1, 17)
    ]
    hum = np.sum(tones, axis=0)
    return hum + 0.05 * _power(hum) * rng.standard_normal(count)


def _crackle(count: int, rng: np.random.Generator) -> np.ndarray:
    """Clicks of 1 to 5 ms at random, like an old record, on a soft pink floor."""
    crackle = np.zeros(count + SAMPLE_RATE // 50)
    per_second = rng.uniform(3, 15)
    for start in rng.integers(0, count, rng.poisson(per_second * count / SAMPLE_RATE) + 1):
        decay = np.exp(-np.arange(SAMPLE_RATE // 50) / (rng.uniform(0.001, 0.005) * SAMPLE_RATE / 3))
        crackle[start : start + len(decay)] += rng.exponential() * decay * rng.standard_normal(len(decay))
    crackle = crackle[:count]
    return crackle + 0.2 * _power(crackle) * _pink(count, rng)


def _power(waveform: np.ndarray) -> float:
    """Root mean square of [S], never 0."""
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) or 1e-9


# --- clips


def clip_length(samples: int, offset: int) -> int:
    """Steps from the one in which a word begins, `offset` samples into it, to its last, inclusive."""
    return (offset + samples - 1) // STEP_SAMPLES + 1


def embed_clip(embedding: SpeechEmbedding, word: np.ndarray, noise: np.ndarray, offset: int) -> np.ndarray:
    """A word in its background -> float32 [length + TAIL_STEPS, 96].

    `noise` [1280 (LEAD_STEPS + length + TAIL_STEPS)] surrounds the word, which begins `offset` samples after
    LEAD_STEPS.
    """
    start = LEAD_STEPS * STEP_SAMPLES
    mixed = noise.copy()
    mixed[start + offset : start + offset + len(word)] += word
    vectors, _ = embedding.advance(mixed[start:], embedding.state_after(mixed[:start]))
    return vectors


class _Clip(NamedTuple):
    vectors: np.ndarray  # float16 [length + TAIL_STEPS, 96]
    background: int
    length: int


def _clips_of(
    job: tuple[int, Utterance], embedding: SpeechEmbedding, conditions: int, seed: int
) -> list[_Clip]:
    """One utterance in `conditions` backgrounds, at random levels, offsets and noise."""
    index, utterance = job
    rng = np.random.default_rng([seed, 1, index])
    kinds = np.resize(rng.permutation(len(BACKGROUNDS)), conditions)
    return [_clip(embedding, utterance.samples, int(kind), rng) for kind in kinds]


def _clip(embedding: SpeechEmbedding, samples: np.ndarray, kind: int, rng: np.random.Generator) -> _Clip:
    offset = int(rng.integers(STEP_SAMPLES))
    if rng.random() < NARROW_SHARE:
        samples = _narrow(samples)
    word = samples * (10 ** (rng.uniform(*PEAK_LEVELS) / 20) / max(float(np.abs(samples).max()), 1e-6))
    level = 20 * np.log10(_power(word)) - rng.uniform(*SIGNAL_TO_NOISE)
    length = clip_length(len(word), offset)
    seconds = (LEAD_STEPS + length + TAIL_STEPS) * STEP_SAMPLES / SAMPLE_RATE
    noise = background_noise(BACKGROUNDS[kind], seconds, rng, level)
    return _Clip(embed_clip(embedding, word, noise, offset).astype(np.float16), kind, length)


def _narrow(samples: np.ndarray) -> np.ndarray:
    """The same without what lies above 4 kHz, as telephones and many recordings have it."""
    from scipy.signal import resample_poly

    return resample_poly(resample_poly(samples, 1, 2), 2, 1)[: len(samples)].astype(np.float32)


# --- banks


@dataclass(frozen=True)
class SpeechBank:
    """Embedded words and backgrounds. K clips, up to L steps each, A steps of each background."""

    clips: np.ndarray  # float16 [K, L, 96], zeros after length + TAIL_STEPS
    digit: np.ndarray  # int64 [K]
    speaker: np.ndarray  # int64 [K], into `speakers`
    background: np.ndarray  # int64 [K], into `backgrounds`
    length: np.ndarray  # int64 [K]: steps with the word's samples in them; TAIL_STEPS more follow
    ambient: np.ndarray  # float16 [backgrounds, A, 96]: no speech
    speakers: tuple[str, ...]
    backgrounds: tuple[str, ...] = BACKGROUNDS

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an npz file, all of it or nothing."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SpeechBank":
        """Read what `save` wrote."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays: dict[str, Any] = {field.name: file[field.name] for field in fields(cls)}
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is no speech bank ({error}): delete it, build it again") from error
        for name in ("speakers", "backgrounds"):
            arrays[name] = tuple(str(text) for text in arrays[name])
        return cls(**arrays)


def join_banks(banks: Sequence[SpeechBank]) -> SpeechBank:
    """All words of several banks, which must know the same backgrounds."""
    names = sorted({name for bank in banks for name in bank.speakers})
    if len({bank.backgrounds for bank in banks}) != 1:
        raise ValueError("join_banks: the banks have different backgrounds; build them again")
    longest = max(bank.clips.shape[1] for bank in banks)
    return SpeechBank(
        np.concatenate([np.pad(b.clips, ((0, 0), (0, longest - b.clips.shape[1]), (0, 0))) for b in banks]),
        np.concatenate([bank.digit for bank in banks]),
        np.concatenate(
            [np.array([names.index(name) for name in bank.speakers])[bank.speaker] for bank in banks]
        ),
        np.concatenate([bank.background for bank in banks]),
        np.concatenate([bank.length for bank in banks]),
        np.concatenate([bank.ambient for bank in banks], axis=1),
        tuple(names),
        banks[0].backgrounds,
    )


def build_bank(
    utterances: Sequence[Utterance],
    *,
    conditions_per_utterance: int = 2,
    seed: int,
    progress: bool = True,
    workers: int = 1,
    ambient_seconds: float = 180.0,
) -> SpeechBank:
    """Embed utterances, each in some of the backgrounds; 1 or 2 `workers` give the same result.

    Two workers are started anew ("spawn"): a script that asks for them needs `if __name__ == "__main__":`.
    """
    if not utterances:
        raise ValueError("there are no utterances to build a bank of")
    if workers not in (1, 2):
        raise ValueError(f"workers is 1 or 2, got {workers}")
    rows = _embed_all(utterances, conditions_per_utterance, seed, workers, progress)
    clips = [clip for row in rows for clip in row]
    padded = np.zeros((len(clips), max(len(clip.vectors) for clip in clips), EMBEDDING_WIDTH), np.float16)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip.vectors)] = clip.vectors
    names = speakers(utterances)
    spoken = [utterance for utterance, row in zip(utterances, rows, strict=True) for _ in row]
    return SpeechBank(
        clips=padded,
        digit=np.array([utterance.digit for utterance in spoken], np.int64),
        speaker=np.array([names.index(utterance.speaker) for utterance in spoken], np.int64),
        background=np.array([clip.background for clip in clips], np.int64),
        length=np.array([clip.length for clip in clips], np.int64),
        ambient=_ambient(ambient_seconds, seed, progress),
        speakers=names,
    )


def _embed_all(
    utterances: Sequence[Utterance], conditions: int, seed: int, workers: int, progress: bool
) -> list[list[_Clip]]:
    jobs, total = enumerate(utterances), len(utterances)
    if workers == 1:
        embedding = SpeechEmbedding()
        work = (_clips_of(job, embedding, conditions, seed) for job in jobs)
        return list(_track(work, total, "embedding words", progress))
    with get_context("spawn").Pool(workers, _start_worker, (conditions, seed)) as pool:
        return list(_track(pool.imap(_work, jobs, chunksize=16), total, "embedding words", progress))


_worker: dict[str, Any] = {}  # a worker process's own embedding and options


def _start_worker(conditions: int, seed: int) -> None:
    _worker.update(embedding=SpeechEmbedding(), conditions=conditions, seed=seed)


def _work(job: tuple[int, Utterance]) -> list[_Clip]:
    return _clips_of(job, **_worker)


def _ambient(seconds: float, seed: int, progress: bool) -> np.ndarray:
    """float16 [backgrounds, A, 96]: at a new level about every 15 s; a lead of LEAD_STEPS is dropped."""
    embedding = SpeechEmbedding()
    steps = max(1, round(seconds * SAMPLE_RATE / STEP_SAMPLES))
    stretches = max(1, round(seconds / 15))
    total = (LEAD_STEPS + steps) * STEP_SAMPLES / SAMPLE_RATE
    rows = []
    kinds = _track(enumerate(BACKGROUNDS), len(BACKGROUNDS), "embedding backgrounds", progress)
    for kind, name in kinds:
        rng = np.random.default_rng([seed, 2, kind])
        noise = np.concatenate([background_noise(name, total / stretches, rng) for _ in range(stretches)])
        noise = np.pad(noise, (0, STEP_SAMPLES))  # each stretch is rounded to whole samples
        rows.append(embedding.embed(noise)[LEAD_STEPS : LEAD_STEPS + steps].astype(np.float16))
    return np.stack(rows)


def cached_bank(
    split: str,
    folder: str | os.PathLike[str] | None = None,
    speakers: Sequence[str] | None = None,
    seed: int = 0,
    *,
    progress: bool = True,
    workers: int = 1,
) -> SpeechBank:
    """The bank of a split of the synthetic voices, or of a folder of recordings; built once, then read.

    With a `folder`, its `speakers` (all, if none are named) are the bank's, and `split` only names it. Banks
    lie in $TOKENTURING_CACHE, or else ~/.cache/tokenturing, under a hash of all that they depend on.
    """
    path = _cache_folder() / f"speech-{split}-{_fingerprint(split, folder, speakers, seed)}.npz"
    if path.exists():
        return SpeechBank.load(path)
    if folder is None:
        words = synthesised(split, seed=seed, progress=progress)
    else:
        words = _of_speakers(recorded(folder), speakers, folder)
    bank = build_bank(words, seed=seed, progress=progress, workers=workers)
    bank.save(path)
    return bank


def _of_speakers(
    words: list[Utterance], names: Sequence[str] | None, folder: str | os.PathLike[str]
) -> list[Utterance]:
    known = speakers(words)
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"{folder} has no speaker {', '.join(unknown)}: its speakers are {', '.join(known)}")
    return [word for word in words if names is None or word.speaker in names]


def _cache_folder() -> Path:
    return Path(os.environ.get("TOKENTURING_CACHE") or Path.home() / ".cache" / "tokenturing")


def _fingerprint(
    split: str, folder: str | os.PathLike[str] | None, names: Sequence[str] | None, seed: int
) -> str:
    """A hash of everything that a bank depends on, the recordings' bytes included."""
    facts: dict[str, Any] = {
        "version": BANK_VERSION,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "ranges": [RATES, PITCHES, PEAK_LEVELS, SIGNAL_TO_NOISE, NOISE_LEVELS],
        "form": [BACKGROUNDS, LEAD_STEPS, TAIL_STEPS, MAX_WORD_SECONDS],
        "seed": seed,
    }
    if folder is None:
        if names is not None:
            raise ValueError("speakers are chosen from a folder of recordings; none was given")
        facts |= {"voices": voices(split), "count": COUNT_PER_VOICE[split]}
    else:
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _wav_files(folder)}
        facts |= {"speakers": sorted(names) if names is not None else None, "files": files}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


# --- progress


def _track(items: Iterable[Item], total: int, label: str, show: bool) -> Iterator[Item]:
    """Pass items on; a progress bar appears if that takes more than 2 seconds and `rich` is installed."""
    started, bar, task = time.monotonic(), None, None
    try:
        for done, item in enumerate(items):
            if show and bar is None and time.monotonic() - started > 2:
                show = (bar := _progress_bar()) is not None
                task = bar.add_task(label, total=total) if bar else None
            if bar:
                bar.update(task, completed=done)
            yield item
        if bar:
            bar.update(task, completed=total)
    finally:
        if bar:
            bar.stop()


def _progress_bar() -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    bar.start()
    return bar
