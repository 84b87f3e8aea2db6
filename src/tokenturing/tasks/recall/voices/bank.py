"""Spoken digits as banks of embedded clips, from which endless streams are stitched for the recall task.

Embedding sound is too slow for the training loop, so it is done once: a `SpeechBank` holds words embedded in background noise,
and long stretches of each background without speech. A stream with background c is `ambient[c]`, and a clip's vectors while its
word lasts and for TAIL_STEPS more: what embedding the mixed sound would give, up to the draw of the noise.
"""

import hashlib
import importlib.metadata
import io
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenturing.encoders.sound import EMBEDDING_WIDTH, SpeechEmbedding
from tokenturing.errors import CheckpointError, MissingExtraError, OptionError, ShapeError, closest
from tokenturing.files import cache_folder, write_file
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
from tokenturing.tasks.recall.voices.reporting import reported
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

if TYPE_CHECKING:
    from tokenturing.tasks.contract import Report

BANK_VERSION = 2
"""incremented with every change here, in the synthesis or in the embedding that changes a bank"""
PACKAGES = ("pyopen-wakeword", "espeakng-loader", "scipy", "soundfile")
"""whose versions a bank depends on"""
UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, ValueError, RuntimeError)
"""what numpy and zipfile raise for a damaged npz file"""


@dataclass(frozen=True)
class SpeechBank:
    """Embedded words and backgrounds: K clips of up to L steps, A steps of each background."""

    clips: np.ndarray
    """float16 [K, L, 96], zeros after length + TAIL_STEPS"""
    digit: np.ndarray
    """int64 [K]"""
    speaker: np.ndarray
    """int64 [K], index into `speakers`"""
    background: np.ndarray
    """int64 [K], index into `backgrounds`"""
    length: np.ndarray
    """int64 [K], steps that hold samples of the word; TAIL_STEPS more follow"""
    ambient: np.ndarray
    """float16 [backgrounds, A, 96], without speech"""
    speakers: tuple[str, ...]
    backgrounds: tuple[str, ...] = BACKGROUNDS

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an npz file, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: np.asarray(getattr(self, field.name)) for field in fields(self)})  # type: ignore[arg-type]
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SpeechBank":
        """Read what `save` wrote, or raise a CheckpointError."""
        if not Path(path).exists():
            raise CheckpointError(f"{path} is missing: expected a speech bank, as `SpeechBank.save` writes it")
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f"{path} is not a speech bank (no npz file, or cut short): delete it and build it again")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays: dict[str, Any] = {field.name: file[field.name] for field in fields(cls)}
        except UNREADABLE as error:
            raise CheckpointError(f"{path} is not a speech bank ({error}): delete it and build it again") from error
        if reason := _misfit(arrays):
            raise CheckpointError(f"{path} is not a speech bank ({reason}): delete it and build it again")
        for name in ("speakers", "backgrounds"):
            arrays[name] = tuple(str(text) for text in arrays[name])
        return cls(**arrays)


def _misfit(arrays: dict[str, np.ndarray]) -> str:
    """What is wrong with the shapes in a file, "" if nothing is."""
    clips, ambient = arrays["clips"].shape, arrays["ambient"].shape
    if len(clips) != 3 or clips[-1] != EMBEDDING_WIDTH:
        return f"clips have the shape {list(clips)}, expected [K, L, {EMBEDDING_WIDTH}]"
    if len(ambient) != 3 or (ambient[0], ambient[-1]) != (arrays["backgrounds"].size, EMBEDDING_WIDTH):
        return f"ambient has the shape {list(ambient)}, expected [{arrays['backgrounds'].size}, A, {EMBEDDING_WIDTH}]"
    if arrays["speakers"].ndim != 1 or arrays["backgrounds"].ndim != 1:
        return "speakers and backgrounds are not lists of names"
    for name in ("digit", "speaker", "background", "length"):
        if arrays[name].shape != clips[:1]:
            return f"{name} has the shape {list(arrays[name].shape)}, expected {list(clips[:1])}"
    return ""


def join_banks(banks: Sequence[SpeechBank]) -> SpeechBank:
    """All words of several banks with the same backgrounds."""
    if not banks:
        raise OptionError("there are no banks to join: expected at least one")
    backgrounds = sorted({", ".join(bank.backgrounds) for bank in banks})
    if len(backgrounds) != 1:
        raise OptionError(f"the banks have different backgrounds ({'; '.join(backgrounds)}): expected the same; build them again")
    names = sorted({name for bank in banks for name in bank.speakers})
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
    report: "Report | None" = None,
    workers: int = 1,
    ambient_seconds: float = 180.0,
) -> SpeechBank:
    """Embed each utterance in `conditions_per_utterance` backgrounds; 1 or 2 `workers` give the same result.

    Two workers are processes started by "spawn": a script that asks for them needs `if __name__ == "__main__":`.
    """
    _check_arguments(utterances, conditions_per_utterance, workers)
    embedding = SpeechEmbedding()  # first, because a pool waits forever for workers that cannot start
    rows = _embed_all(embedding, utterances, conditions_per_utterance, seed, workers, report)
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
        ambient=_ambient(embedding, ambient_seconds, seed, report),
        speakers=names,
    )


def _check_arguments(utterances: Sequence[Utterance], conditions: int, workers: int) -> None:
    if not utterances:
        raise OptionError("there are no utterances to build a bank of: expected at least one")
    if conditions < 1:
        raise OptionError(f"conditions_per_utterance={conditions}: expected 1 or more")
    if workers not in (1, 2):
        raise OptionError(f"workers={workers}: expected 1 or 2")
    for index, utterance in enumerate(utterances):
        shape = np.shape(utterance.samples)
        if len(shape) != 1 or not shape[0]:
            raise ShapeError(f"utterance {index} has samples of shape {list(shape)}: expected [S], 16 kHz mono, S at least 1")


def _embed_all(
    embedding: SpeechEmbedding,
    utterances: Sequence[Utterance],
    conditions: int,
    seed: int,
    workers: int,
    report: "Report | None",
) -> list[list[Clip]]:
    jobs, total, what = enumerate(utterances), len(utterances), "embedding words"
    if workers == 1:
        work = (clips_of(job, embedding, conditions, seed) for job in jobs)
        return list(reported(work, total, what, report))
    with get_context("spawn").Pool(workers, _start_worker, (conditions, seed)) as pool:
        return list(reported(pool.imap(_work, jobs, chunksize=16), total, what, report))


_worker: dict[str, Any] = {}
"""a worker process's own embedding and options"""


def _start_worker(conditions: int, seed: int) -> None:
    _worker.update(embedding=SpeechEmbedding(), conditions=conditions, seed=seed)


def _work(job: tuple[int, Utterance]) -> list[Clip]:
    return clips_of(job, **_worker)


def _ambient(embedding: SpeechEmbedding, seconds: float, seed: int, report: "Report | None") -> np.ndarray:
    """float16 [backgrounds, A, 96], at a new level about every 15 s; the first LEAD_STEPS are dropped."""
    steps = max(1, round(seconds * SAMPLE_RATE / STEP_SAMPLES))
    stretches = max(1, round(seconds / 15))
    total = (LEAD_STEPS + steps) * STEP_SAMPLES / SAMPLE_RATE
    rows = []
    kinds = reported(enumerate(BACKGROUNDS), len(BACKGROUNDS), "embedding backgrounds", report)
    for kind, name in kinds:
        rng = np.random.default_rng([seed, 2, kind])
        noise = np.concatenate([background_noise(name, total / stretches, rng) for _ in range(stretches)])
        noise = np.pad(noise, (0, STEP_SAMPLES))  # stretches are rounded to whole samples
        rows.append(embedding.embed(noise)[LEAD_STEPS : LEAD_STEPS + steps].astype(np.float16))
    return np.stack(rows)


def cached_bank(
    split: str,
    folder: str | os.PathLike[str] | None = None,
    speakers: Sequence[str] | None = None,
    seed: int = 0,
    *,
    report: "Report | None" = None,
    workers: int = 1,
) -> SpeechBank:
    """The bank of a split of the synthetic voices, or of a folder of recordings; built once, then read from the cache.

    With a `folder`, the bank has its `speakers` (all if None), and `split` is only part of the file's name. Banks are kept in
    $TOKENTURING_CACHE, by default ~/.cache/tokenturing, under a hash of everything that they depend on.
    """
    path = cache_folder() / f"speech-{split}-{_fingerprint(split, folder, speakers, seed)}.npz"
    if path.exists():
        try:
            return SpeechBank.load(path)
        except CheckpointError as error:
            warnings.warn(f"building a damaged bank again: {error}", stacklevel=2)
    words = synthesised(split, seed=seed, report=report) if folder is None else _recorded_by(speakers, folder)
    bank = build_bank(words, seed=seed, report=report, workers=workers)
    bank.save(path)
    return bank


def _recorded_by(names: Sequence[str] | None, folder: str | os.PathLike[str]) -> list[Utterance]:
    words = recorded(folder)
    known = speakers(words)
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise OptionError(f"{folder} has no speaker {', '.join(unknown)}: expected {closest(unknown[0], known)}")
    return [word for word in words if names is None or word.speaker in names]


def _fingerprint(split: str, folder: str | os.PathLike[str] | None, names: Sequence[str] | None, seed: int) -> str:
    """A hash of everything that a bank depends on, including the bytes of the recordings."""
    facts: dict[str, Any] = {
        "version": BANK_VERSION,
        "packages": {name: _version(name) for name in PACKAGES},
        "ranges": [RATES, PITCHES, PEAK_LEVELS, SIGNAL_TO_NOISE, NOISE_LEVELS],
        "form": [BACKGROUNDS, LEAD_STEPS, TAIL_STEPS, MAX_WORD_SECONDS],
        "seed": seed,
    }
    if folder is None:
        if names is not None:
            raise OptionError(f"speakers={list(names)} without a folder: expected a folder of recordings to choose them from")
        facts |= {"voices": voices(split), "count": COUNT_PER_VOICE[split]}
    else:
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in wav_files(folder)}
        facts |= {"speakers": sorted(names) if names is not None else None, "files": files}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtraError(package, "speech") from error
