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
from collections.abc import Sequence
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tokenturing.encoders.sound import EMBEDDING_WIDTH, SpeechEmbedding
from tokenturing.files import cache_folder
from tokenturing.media.clock import SAMPLE_RATE, STEP_SAMPLES
from tokenturing.tasks.recall.voices.clips import (
    LEAD_STEPS,
    PEAK_LEVELS,
    SIGNAL_TO_NOISE,
    TAIL_STEPS,
    Clip,
    clips_of,
)
from tokenturing.tasks.recall.voices.noise import BACKGROUNDS, NOISE_LEVELS, background_noise
from tokenturing.tasks.recall.voices.synthesis import voices
from tokenturing.tasks.recall.voices.utterances import (
    COUNT_PER_VOICE,
    MAX_WORD_SECONDS,
    PITCHES,
    RATES,
    Utterance,
    recorded,
    speakers,
    synthesised,
    wav_files,
)
from tokenturing.tasks.waiting import track

BANK_VERSION = 2  # counts up with every change here, in synthesis or in the embedding that changes a bank
PACKAGES = ("pyopen-wakeword", "espeakng-loader", "scipy", "soundfile")  # whose versions a bank depends on


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
        np.concatenate([np.array([names.index(name) for name in bank.speakers])[bank.speaker] for bank in banks]),
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


def _embed_all(utterances: Sequence[Utterance], conditions: int, seed: int, workers: int, progress: bool) -> list[list[Clip]]:
    jobs, total = enumerate(utterances), len(utterances)
    if workers == 1:
        embedding = SpeechEmbedding()
        work = (clips_of(job, embedding, conditions, seed) for job in jobs)
        return list(track(work, total, "embedding words", progress))
    with get_context("spawn").Pool(workers, _start_worker, (conditions, seed)) as pool:
        return list(track(pool.imap(_work, jobs, chunksize=16), total, "embedding words", progress))


_worker: dict[str, Any] = {}  # a worker process's own embedding and options


def _start_worker(conditions: int, seed: int) -> None:
    _worker.update(embedding=SpeechEmbedding(), conditions=conditions, seed=seed)


def _work(job: tuple[int, Utterance]) -> list[Clip]:
    return clips_of(job, **_worker)


def _ambient(seconds: float, seed: int, progress: bool) -> np.ndarray:
    """float16 [backgrounds, A, 96]: at a new level about every 15 s; a lead of LEAD_STEPS is dropped."""
    embedding = SpeechEmbedding()
    steps = max(1, round(seconds * SAMPLE_RATE / STEP_SAMPLES))
    stretches = max(1, round(seconds / 15))
    total = (LEAD_STEPS + steps) * STEP_SAMPLES / SAMPLE_RATE
    rows = []
    kinds = track(enumerate(BACKGROUNDS), len(BACKGROUNDS), "embedding backgrounds", progress)
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
    path = cache_folder() / f"speech-{split}-{_fingerprint(split, folder, speakers, seed)}.npz"
    if path.exists():
        return SpeechBank.load(path)
    if folder is None:
        words = synthesised(split, seed=seed, progress=progress)
    else:
        words = _of_speakers(recorded(folder), speakers, folder)
    bank = build_bank(words, seed=seed, progress=progress, workers=workers)
    bank.save(path)
    return bank


def _of_speakers(words: list[Utterance], names: Sequence[str] | None, folder: str | os.PathLike[str]) -> list[Utterance]:
    known = speakers(words)
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"{folder} has no speaker {', '.join(unknown)}: its speakers are {', '.join(known)}")
    return [word for word in words if names is None or word.speaker in names]


def _fingerprint(split: str, folder: str | os.PathLike[str] | None, names: Sequence[str] | None, seed: int) -> str:
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
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in wav_files(folder)}
        facts |= {"speakers": sorted(names) if names is not None else None, "files": files}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
