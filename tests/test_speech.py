"""The speech front end, the synthesiser and the banks of spoken digits."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from tokenturing.encoders.sound import SpeechEmbedding
from tokenturing.media.clock import STEP_SAMPLES
from tokenturing.tasks.recall.voices import bank as speech
from tokenturing.tasks.recall.voices import synthesis
from tokenturing.tasks.recall.voices import utterances as words
from tokenturing.tasks.recall.voices.bank import SpeechBank
from tokenturing.tasks.recall.voices.clips import LEAD_STEPS, TAIL_STEPS, clip_length, embed_clip
from tokenturing.tasks.recall.voices.noise import BACKGROUNDS, background_noise
from tokenturing.tasks.recall.voices.utterances import Utterance

for package in ("pyopen_wakeword", "espeakng_loader", "scipy"):
    pytest.importorskip(package)
soundfile = pytest.importorskip("soundfile")

TOLERANCE = 2e-3  # embeddings reach 60; the two paths sum in another order


@pytest.fixture(scope="module")
def embedding() -> SpeechEmbedding:
    return SpeechEmbedding()


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    return [Utterance(digit, f"speaker{digit % 2}", _spoken(digit)) for digit in (3, 7, 8)]


@pytest.fixture(scope="module")
def bank(utterances: list[Utterance]) -> SpeechBank:
    return speech.build_bank(utterances, seed=5, ambient_seconds=2.0, progress=False)


def _spoken(digit: int) -> np.ndarray:
    return synthesis.synthesize(synthesis.digit_word(digit), "en-us+m3")


def _sound(steps: int, seed: int = 0) -> np.ndarray:
    """Noise with a stretch of digital silence, float32 [1280 steps]."""
    noise = background_noise("pink", steps * 0.08, np.random.default_rng(seed), level=-30)
    noise[len(noise) // 3 : len(noise) // 2] = 0
    return noise


def _steps(sound: np.ndarray) -> np.ndarray:
    return sound[: len(sound) // STEP_SAMPLES * STEP_SAMPLES].reshape(-1, STEP_SAMPLES)


def _step_by_step(embedding: SpeechEmbedding, sound: np.ndarray) -> np.ndarray:
    state, vectors = embedding.initial_state(), []
    for samples in _steps(sound):
        vector, state = embedding.step(samples, state)
        vectors.append(vector)
    return np.stack(vectors)


def _same_bank(one: SpeechBank, other: SpeechBank) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(SpeechBank))


# --- the embedding


def test_whole_equals_step_by_step(embedding: SpeechEmbedding) -> None:
    sound = _sound(80)  # more than one block
    whole = embedding.embed(np.append(sound, np.zeros(700, np.float32)))  # what fills no step is dropped
    assert whole.shape == (80, 96)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, _step_by_step(embedding, sound), atol=TOLERANCE)


def test_chunks_equal_whole(embedding: SpeechEmbedding) -> None:
    sound, cut = _sound(20), 7 * STEP_SAMPLES
    first, state = embedding.advance(sound[:cut], embedding.initial_state())
    second, _ = embedding.advance(sound[cut:], state)
    np.testing.assert_allclose(np.concatenate([first, second]), embedding.embed(sound), atol=TOLERANCE)
    for ours, skipped in zip(state, embedding.state_after(sound[:cut]), strict=True):
        np.testing.assert_array_equal(ours, skipped)


def test_interleaved_streams_do_not_mix(embedding: SpeechEmbedding) -> None:
    sounds = [_sound(12, seed=1), _sound(12, seed=2)]
    states = [embedding.initial_state(), embedding.initial_state()]
    vectors: list[list[np.ndarray]] = [[], []]
    shared, mixed = embedding.initial_state(), []
    for pair in zip(*map(_steps, sounds), strict=True):
        for row, samples in enumerate(pair):
            vector, states[row] = embedding.step(samples, states[row])
            vectors[row].append(vector)
            wrong, shared = embedding.step(samples, shared)  # the control: one state for both
            mixed.append(wrong)
    alone = [_step_by_step(embedding, sound) for sound in sounds]
    for row in (0, 1):
        np.testing.assert_array_equal(np.stack(vectors[row]), alone[row])
    assert np.abs(np.stack(mixed[::2]) - alone[0]).max() > 1


def test_step_leaves_its_state_alone(embedding: SpeechEmbedding) -> None:
    samples = _steps(_sound(3))[2]
    state = embedding.initial_state()
    first, _ = embedding.step(samples, state)
    second, _ = embedding.step(samples, state)
    np.testing.assert_array_equal(first, second)


def test_initial_state_is_a_long_silence(embedding: SpeechEmbedding) -> None:
    silence = embedding.embed(np.zeros(20 * STEP_SAMPLES, np.float32))
    np.testing.assert_allclose(silence, np.broadcast_to(silence[0], silence.shape), atol=TOLERANCE)


def test_packages_own_streaming_gives_the_same_later(embedding: SpeechEmbedding) -> None:
    import pyopen_wakeword

    features = pyopen_wakeword.OpenWakeWordFeatures.from_builtin()
    sound = background_noise("white", 30 * 0.08, np.random.default_rng(0), level=-25)
    theirs = [
        vector.reshape(96)
        for samples in _steps(sound)
        for vector in features.process_streaming(np.rint(samples * 32768).astype(np.int16).tobytes())
    ]
    delayed = np.concatenate([np.zeros(1440, np.float32), sound])  # 90 ms stay in its buffers
    ours = embedding.embed(delayed)[:30]
    np.testing.assert_allclose(ours[15:], np.stack(theirs)[-15:], atol=TOLERANCE)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(1000, np.float32), "1280 samples"),
        (np.zeros(1280, np.int16), "divide by 32768"),
        (np.full(1280, np.nan, np.float32), "NaN"),
    ],
)
def test_wrong_sound_is_refused(embedding: SpeechEmbedding, samples: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        embedding.step(samples, embedding.initial_state())


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyopen_wakeword.openwakeword", None)
    with pytest.raises(ImportError, match=r"pip install 'tokenturing\[speech\]'"):
        SpeechEmbedding()


# --- the synthesiser


def test_synthesis_does_not_depend_on_what_was_spoken_before() -> None:
    first = synthesis.synthesize("seven", "en-us+f2", 150, 60)
    synthesis.synthesize("three", "en-gb-x-rp+klatt4", 200, 30)
    np.testing.assert_array_equal(synthesis.synthesize("seven", "en-us+f2", 150, 60), first)
    assert not np.array_equal(synthesis.synthesize("seven", "en-us+f2", 150, 61), first)


def test_synthesised_sound_is_a_trimmed_word() -> None:
    word = _spoken(7)
    assert word.dtype == np.float32
    assert 0.2 < len(word) / synthesis.SAMPLE_RATE < 1.0
    assert np.abs(word[:500]).max() > 0.005
    assert np.abs(word[-500:]).max() > 0.005


def test_voices_of_splits_share_no_variant() -> None:
    variants = [{voice.split("+")[1] for voice in synthesis.voices(split)} for split in synthesis.VARIANTS]
    assert sum(map(len, variants)) == len(set.union(*variants))
    assert len(variants[0]) >= 30
    assert min(map(len, variants[1:])) >= 8
    assert len(set(synthesis.VOICES)) == len(synthesis.VOICES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one", "en-us+nobody"), "unknown voice"),
        (("one", "fr"), "unknown voice"),
        (("  ",), "no text"),
        (("one", "en-us+m1", 1000), "words a minute"),
        (("one", "en-us+m1", 150, -1), "pitch"),
    ],
)
def test_wrong_synthesis_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthesis.synthesize(*arguments)


def test_synthesised_utterances_are_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "voices", lambda split: ("en-us+m4",))
    one, same, other = (words.synthesised("test", seed=s, count_per_voice=1) for s in (1, 1, 2))
    assert [utterance.digit for utterance in one] == list(range(10))
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a.samples, b.samples) for a, b in zip(one, other, strict=True))


# --- recordings


def test_recorded_reads_any_rate_and_tells_what_it_skipped(tmp_path: Path) -> None:
    tone = 0.3 * np.sin(np.arange(4000) / 3)
    padded = np.concatenate([np.zeros(4000), tone, np.zeros(4000)])
    soundfile.write(tmp_path / "4_ann_0.wav", padded, 8000)
    soundfile.write(tmp_path / "9_bob_12.wav", np.stack([padded, padded], 1), 22050)
    soundfile.write(tmp_path / "five_bob_0.wav", tone, 8000)
    soundfile.write(tmp_path / "5_bob_0.wav", np.zeros(8000), 8000)
    (tmp_path / "6_bob_0.wav").write_bytes(b"not a sound")
    with pytest.warns(UserWarning, match="skipped 3 of the wav files"):
        found = words.recorded(tmp_path)
    assert [(u.digit, u.speaker) for u in found] == [(4, "ann"), (9, "bob")]
    assert words.speakers(found) == ("ann", "bob")
    assert abs(len(found[0].samples) - 8000) < 1000  # 0.5 s of tone, now at 16 kHz
    skipped = words.read_recordings(tmp_path).skipped
    assert [line.split(":")[0] for line in skipped] == ["5_bob_0.wav", "6_bob_0.wav", "five_bob_0.wav"]
    with pytest.raises(ValueError, match="no speaker carl"), pytest.warns(UserWarning, match="skipped"):
        speech.cached_bank("test", tmp_path, ["carl"])


def test_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"7_george_0\.wav"):
        words.recorded(tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        words.recorded(tmp_path / "nowhere")


# --- backgrounds and banks


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_background_has_its_level_and_seed(kind: str) -> None:
    one, same, other = (background_noise(kind, 0.5, np.random.default_rng(s), level=-40) for s in (0, 0, 1))
    assert one.shape == (8000,)
    np.testing.assert_array_equal(one, same)
    if kind != "silence":
        assert 20 * np.log10(np.sqrt(np.mean(one.astype(float) ** 2))) == pytest.approx(-40, abs=0.1)
        assert not np.array_equal(one, other)


@pytest.mark.parametrize("place", [0, 1279])
def test_stitched_stream_equals_the_embedded_mixture(embedding: SpeechEmbedding, place: int) -> None:
    word, step = _spoken(6), 20
    noise = background_noise("fan", 50 * 0.08, np.random.default_rng(3), level=-45)
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
    again = speech.build_bank(utterances, seed=5, workers=2, ambient_seconds=2.0, progress=False)
    assert _same_bank(bank, again)
    other = speech.build_bank(utterances, seed=6, ambient_seconds=2.0, progress=False)
    assert not _same_bank(bank, other)


def test_bank_survives_save_and_load(bank: SpeechBank, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "bank.npz"
    bank.save(path)
    assert _same_bank(bank, SpeechBank.load(path))
    assert not _same_bank(replace(bank, digit=bank.digit + 1), SpeechBank.load(path))
    assert [file.name for file in path.parent.iterdir()] == ["bank.npz"]
    path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="build it again"):
        SpeechBank.load(path)


def test_cached_bank_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    soundfile.write(recordings / "2_ann_0.wav", _spoken(2), 16000)
    monkeypatch.setenv("TOKENTURING_CACHE", str(tmp_path / "cache"))
    build, calls = speech.build_bank, []

    def small_bank(*arguments, **options) -> SpeechBank:
        calls.append(options)
        return build(*arguments, **options, ambient_seconds=1.0)

    monkeypatch.setattr(speech, "build_bank", small_bank)
    first = speech.cached_bank("test", recordings)
    assert _same_bank(first, speech.cached_bank("test", recordings))
    assert len(calls) == 1
    soundfile.write(recordings / "3_ann_0.wav", _spoken(3), 16000)
    assert len(speech.cached_bank("test", recordings).digit) == 4
    assert len(calls) == 2
