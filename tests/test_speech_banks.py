"""Banks of spoken digits: words embedded in each background, kept in files and built once."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recall_bank import spoken

from tokenturing.encoders.sound import SpeechEmbedding
from tokenturing.errors import CheckpointError, OptionError
from tokenturing.media.clock import STEP_SAMPLES, STEP_SECONDS
from tokenturing.tasks.recall.voices import bank as speech
from tokenturing.tasks.recall.voices import utterances as words
from tokenturing.tasks.recall.voices.bank import SpeechBank
from tokenturing.tasks.recall.voices.clips import LEAD_STEPS, TAIL_STEPS, clip_length, embed_clip
from tokenturing.tasks.recall.voices.noise import BACKGROUNDS, background_noise
from tokenturing.tasks.recall.voices.utterances import Utterance

for package in ("pyopen_wakeword", "espeakng_loader", "scipy"):
    pytest.importorskip(package)
soundfile = pytest.importorskip("soundfile")

TOLERANCE = 2e-3
"""of embeddings that reach 60, and that two paths sum in different orders"""


@pytest.fixture(scope="module")
def embedding() -> SpeechEmbedding:
    return SpeechEmbedding()


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    return [Utterance(digit, f"speaker{digit % 2}", spoken(digit)) for digit in (3, 7, 8)]


@pytest.fixture(scope="module")
def bank(utterances: list[Utterance]) -> SpeechBank:
    return speech.build_bank(utterances, seed=5, ambient_seconds=2.0)


def _same_bank(one: SpeechBank, other: SpeechBank) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(SpeechBank))


@pytest.mark.parametrize("place", [0, 1279])
def test_stitched_stream_equals_the_embedded_mixture(embedding: SpeechEmbedding, place: int) -> None:
    word, step = spoken(6), 20
    noise = background_noise("fan", 50 * STEP_SECONDS, np.random.default_rng(3), level=-45)
    steps = clip_length(len(word), place) + TAIL_STEPS
    around = noise[(step - LEAD_STEPS) * STEP_SAMPLES : (step + steps) * STEP_SAMPLES]
    ambient = embedding.embed(noise)
    stitched = ambient.copy()
    stitched[step : step + steps] = embed_clip(embedding, word, around, place)

    mixed = noise.copy()
    mixed[step * STEP_SAMPLES + place :][: len(word)] += word
    expected = embedding.embed(mixed)
    np.testing.assert_allclose(stitched, expected, atol=TOLERANCE)
    cut = step + steps - 3  # the control: a shorter tail loses some of the word
    assert np.abs(ambient[cut:] - expected[cut:]).max() > 0.05


def test_bank_holds_each_word_in_each_condition(bank: SpeechBank) -> None:
    assert bank.clips.dtype == np.float16
    assert bank.digit.tolist() == [3, 3, 7, 7, 8, 8]
    assert [bank.speakers[index] for index in bank.speaker[[0, 4]]] == ["speaker1", "speaker0"]
    assert all(bank.background[2 * word] != bank.background[2 * word + 1] for word in range(3))
    assert bank.clips.shape[1] == bank.length.max() + TAIL_STEPS
    for clip, length in zip(bank.clips, bank.length, strict=True):
        assert clip[: length + TAIL_STEPS].any(axis=1).all()
        assert not clip[length + TAIL_STEPS :].any()
    assert bank.ambient.shape == (len(BACKGROUNDS), 25, 96)


def test_bank_depends_on_its_seed_only(utterances: list[Utterance], bank: SpeechBank) -> None:
    again = speech.build_bank(utterances, seed=5, workers=2, ambient_seconds=2.0)
    assert _same_bank(bank, again)
    other = speech.build_bank(utterances, seed=6, ambient_seconds=2.0)
    assert not _same_bank(bank, other)


def test_bank_survives_save_and_load(bank: SpeechBank, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "bank.npz"
    bank.save(path)
    assert _same_bank(bank, SpeechBank.load(path))
    assert not _same_bank(replace(bank, digit=bank.digit + 1), SpeechBank.load(path))
    assert [file.name for file in path.parent.iterdir()] == ["bank.npz"]


def _cut(bank: SpeechBank, path: Path) -> None:
    bank.save(path)
    path.write_bytes(path.read_bytes()[:-100])


def _flipped(bank: SpeechBank, path: Path) -> None:
    bank.save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _foreign(_: SpeechBank, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, images=np.zeros(3))


DAMAGE: dict[str, Callable[[SpeechBank, Path], Any]] = {
    "empty": lambda bank, path: path.write_bytes(b""),
    "text": lambda bank, path: path.write_bytes(b"broken"),
    "cut short": _cut,
    "a flipped byte": _flipped,
    "of another program": _foreign,
    "clips of another width": lambda bank, path: replace(bank, clips=bank.clips[..., :50]).save(path),
    "a digit too many": lambda bank, path: replace(bank, digit=np.append(bank.digit, 3)).save(path),
    "a background too few": lambda bank, path: replace(bank, ambient=bank.ambient[1:]).save(path),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_bank_says_which_file_to_delete(
    bank: SpeechBank, tmp_path: Path, damage: Callable[[SpeechBank, Path], Any]
) -> None:
    path = tmp_path / "bank.npz"
    damage(bank, path)
    with pytest.raises(CheckpointError, match=r"bank\.npz is not a speech bank \(.+\): delete it and build it again"):
        SpeechBank.load(path)
    with pytest.raises(CheckpointError, match=r"other\.npz is missing"):
        SpeechBank.load(tmp_path / "other.npz")


def test_banks_of_different_backgrounds_are_not_joined(bank: SpeechBank) -> None:
    assert len(speech.join_banks([bank, bank]).digit) == 2 * len(bank.digit)
    with pytest.raises(OptionError, match="different backgrounds"):
        speech.join_banks([bank, replace(bank, backgrounds=bank.backgrounds[::-1])])


def test_work_is_reported(utterances: list[Utterance], bank: SpeechBank, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[tuple[str, int, int]] = []
    again = speech.build_bank(utterances, seed=5, ambient_seconds=2.0, report=lambda *report: reports.append(report))
    assert _same_bank(bank, again)
    kinds = len(BACKGROUNDS)
    assert reports == [
        *(("embedding words", done, 3) for done in range(1, 4)),
        *(("embedding backgrounds", done, kinds) for done in range(1, kinds + 1)),
    ]
    monkeypatch.setattr(words, "voices", lambda split: ("en-us+m4",))
    reports.clear()
    words.synthesised("test", seed=1, count_per_voice=1, report=lambda *report: reports.append(report))
    assert reports == [("speaking (test)", done, 10) for done in range(1, 11)]


def test_cached_bank_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    soundfile.write(recordings / "2_ann_0.wav", spoken(2), 16000)
    monkeypatch.setenv("TOKENTURING_CACHE", str(tmp_path / "cache"))
    build, calls = speech.build_bank, []

    def small_bank(*arguments, **options) -> SpeechBank:
        calls.append(options)
        return build(*arguments, **options, ambient_seconds=1.0)

    monkeypatch.setattr(speech, "build_bank", small_bank)
    first = speech.cached_bank("test", recordings)
    assert _same_bank(first, speech.cached_bank("test", recordings))
    assert len(calls) == 1
    soundfile.write(recordings / "3_ann_0.wav", spoken(3), 16000)
    assert len(speech.cached_bank("test", recordings).digit) == 4
    assert len(calls) == 2
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"building a damaged bank again: .*speech-test-\w+\.npz"):
        assert len(speech.cached_bank("test", recordings).digit) == 4
    assert len(calls) == 3
    assert len(speech.cached_bank("test", recordings).digit) == 4
    assert len(calls) == 3
