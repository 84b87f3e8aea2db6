"""The speech front end, the synthesiser and recordings of spoken digits."""

import importlib.metadata
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recall_bank import spoken

from tokenturing.encoders.sound import SoundState, SpeechEmbedding
from tokenturing.errors import MissingExtraError, OptionError, ShapeError, TokenTuringError
from tokenturing.media.clock import SAMPLE_RATE, STEP_SAMPLES, STEP_SECONDS
from tokenturing.tasks.digits import digit_images
from tokenturing.tasks.recall.voices import bank as speech
from tokenturing.tasks.recall.voices import clips, synthesis
from tokenturing.tasks.recall.voices import utterances as words
from tokenturing.tasks.recall.voices.noise import BACKGROUNDS, background_noise
from tokenturing.tasks.recall.voices.resample import resample
from tokenturing.tasks.recall.voices.utterances import Utterance

for package in ("pyopen_wakeword", "espeakng_loader", "scipy"):
    pytest.importorskip(package)
soundfile = pytest.importorskip("soundfile")

TOLERANCE = 2e-3
"""embeddings reach 60, and the two paths sum in different orders"""
WORD = Utterance(3, "ann", np.ones(8000, np.float32))


@pytest.fixture(scope="module")
def embedding() -> SpeechEmbedding:
    return SpeechEmbedding()


def _sound(steps: int, seed: int = 0) -> np.ndarray:
    """Noise with a stretch of digital silence, float32 [1280 steps]."""
    noise = background_noise("pink", steps * STEP_SECONDS, np.random.default_rng(seed), level=-30)
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


def test_whole_equals_step_by_step(embedding: SpeechEmbedding) -> None:
    sound = _sound(80)  # more than one block
    whole = embedding.embed(np.append(sound, np.zeros(700, np.float32)))  # samples that do not fill a step are dropped
    assert whole.shape == (80, 96)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, _step_by_step(embedding, sound), atol=TOLERANCE)


def test_its_library_keeps_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """Its fast kernels say on stderr that they are there; and what others say afterwards is heard."""
    SpeechEmbedding().step(np.zeros(STEP_SAMPLES), SpeechEmbedding().initial_state())
    print("heard", file=sys.stderr)
    assert capfd.readouterr().err == "heard\n"


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
    sound = background_noise("white", 30 * STEP_SECONDS, np.random.default_rng(0), level=-25)
    theirs = [
        vector.reshape(96)
        for samples in _steps(sound)
        for vector in features.process_streaming(np.rint(samples * 32768).astype(np.int16).tobytes())
    ]
    delayed = np.concatenate([np.zeros(1440, np.float32), sound])  # 90 ms stay in its buffers
    ours = embedding.embed(delayed)[:30]
    np.testing.assert_allclose(ours[15:], np.stack(theirs)[-15:], atol=TOLERANCE)


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        (np.zeros(1000, np.float32), ShapeError, r"\[1000\]: expected the 1280 samples of one step"),
        (np.zeros((1, 1280), np.float32), ShapeError, r"\[1, 1280\]"),
        (np.zeros(1280, np.int16), ShapeError, "divide by 32768"),
        (np.full(1280, np.nan, np.float32), OptionError, "NaN"),
    ],
)
def test_wrong_sound_is_refused(
    embedding: SpeechEmbedding, samples: np.ndarray, error: type[TokenTuringError], message: str
) -> None:
    with pytest.raises(error, match=message):
        embedding.step(samples, embedding.initial_state())


@pytest.mark.parametrize(
    ("overlap", "frames"), [((480,), (68, 31)), ((480,), (67, 32)), ((400,), (68, 32)), ((1, 480), (1, 68, 32))]
)
def test_a_state_of_another_shape_is_refused(
    embedding: SpeechEmbedding, overlap: tuple[int, ...], frames: tuple[int, ...]
) -> None:
    state = SoundState(np.zeros(overlap, np.int16), np.zeros(frames, np.float32))
    with pytest.raises(ShapeError, match=r"expected \[480\] and \[68, 32\]"):
        embedding.step(_sound(1), state)
    vector, _ = embedding.step(_sound(1), embedding.initial_state())  # nothing is left behind
    assert vector.shape == (96,)


def test_a_refused_shape_leaves_a_network_usable(embedding: SpeechEmbedding) -> None:
    values = np.ones((1, 480 + STEP_SAMPLES), np.float32)
    expected = embedding._mel.run(values)
    with pytest.raises(RuntimeError, match="TensorFlow Lite failed"):
        embedding._mel.run(np.ones((1, 100), np.float32))
    np.testing.assert_array_equal(embedding._mel.run(values), expected)


@pytest.mark.parametrize(
    ("module", "package", "extra", "call"),
    [
        ("pyopen_wakeword.openwakeword", "pyopen-wakeword", "speech", SpeechEmbedding),
        ("pyopen_wakeword.openwakeword", "pyopen-wakeword", "speech", lambda: speech.build_bank([WORD], seed=0, workers=2)),
        ("espeakng_loader", "espeakng-loader", "speech", lambda: synthesis.synthesize("one")),
        ("scipy.signal", "scipy", "speech", lambda: resample(np.zeros(10), 8000, 16000)),
        ("soundfile", "soundfile", "speech", lambda: words.recorded(".")),
        ("sklearn.datasets", "scikit-learn", "tasks", lambda: digit_images.__wrapped__("test")),
    ],
)
def test_a_missing_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str, extra: str, call: Callable[[], Any]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"{package} is not installed.*pip install 'tokenturing\[{extra}\]'"):
        call()


def test_a_bank_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(MissingExtraError, match="pyopen-wakeword is not installed"):
        speech.cached_bank("test")


def test_synthesis_does_not_depend_on_what_was_spoken_before() -> None:
    first = synthesis.synthesize("seven", "en-us+f2", 150, 60)
    synthesis.synthesize("three", "en-gb-x-rp+klatt4", 200, 30)
    np.testing.assert_array_equal(synthesis.synthesize("seven", "en-us+f2", 150, 60), first)
    assert not np.array_equal(synthesis.synthesize("seven", "en-us+f2", 150, 61), first)


def test_synthesised_sound_is_a_trimmed_word() -> None:
    word = spoken(7)
    assert word.dtype == np.float32
    assert 0.2 < len(word) / SAMPLE_RATE < 1.0
    assert np.abs(word[:500]).max() > 0.005
    assert np.abs(word[-500:]).max() > 0.005


def test_voices_of_splits_share_no_variant() -> None:
    variants = [{voice.split("+")[1] for voice in synthesis.voices(split)} for split in synthesis.VARIANTS]
    assert sum(map(len, variants)) == len(set.union(*variants))
    assert len(variants[0]) >= 30
    assert min(map(len, variants[1:])) >= 8
    names = [name for split in synthesis.VARIANTS for name in synthesis.voices(split)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one", "en-us+nobody"), "unknown voice"),
        (("one", "fr"), "unknown voice"),
        (("  ",), "nothing to speak"),
        (("one", "en-us+m1", 1000), "words a minute"),
        (("one", "en-us+m1", 150, -1), "pitch=-1"),
        (("...",), "at least one word"),
    ],
)
def test_wrong_synthesis_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        synthesis.synthesize(*arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: synthesis.digit_word(10), "digit=10"),
        (lambda: synthesis.voices("tset"), "did you mean 'test'"),
        (lambda: words.synthesised("tset", seed=0), "did you mean 'test'"),
        (lambda: digit_images("tset"), "did you mean 'test'"),
        (lambda: background_noise("pinc", 1.0, np.random.default_rng(0)), "did you mean 'pink'"),
        (lambda: speech.cached_bank("test", speakers=["ann"]), "without a folder"),
        (lambda: speech.cached_bank("tset"), "did you mean 'test'"),
        (lambda: speech.build_bank([], seed=0), "no utterances"),
        (lambda: speech.build_bank([WORD], seed=0, workers=3), "workers=3"),
        (lambda: speech.build_bank([WORD], seed=0, conditions_per_utterance=0), "conditions_per_utterance=0"),
        (lambda: speech.join_banks([]), "no banks"),
    ],
)
def test_wrong_arguments_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        call()


@pytest.mark.parametrize("shape", [(0,), (2, 500)])
def test_utterances_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="utterance 1 has samples of shape"):
        speech.build_bank([WORD, replace(WORD, samples=np.zeros(shape, np.float32))], seed=0)


def test_synthesised_utterances_are_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "voices", lambda split: ("en-us+m4",))
    one, same, other = (words.synthesised("test", seed=s, count_per_voice=1) for s in (1, 1, 2))
    assert [utterance.digit for utterance in one] == list(range(10))
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a.samples, b.samples) for a, b in zip(one, other, strict=True))


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
    with pytest.raises(OptionError, match="no speaker carl: expected one of 'ann', 'bob'"), pytest.warns(match="skipped"):
        speech.cached_bank("test", tmp_path, ["ann", "carl"])


def test_files_that_are_no_word_are_skipped_with_the_reason(tmp_path: Path) -> None:
    tone = (0.3 * np.sin(np.arange(8000) / 3)).astype(np.float32)
    bad = tone.copy()
    bad[100] = np.nan
    soundfile.write(tmp_path / "0_ann_0.wav", np.tile(tone, 7), SAMPLE_RATE)
    soundfile.write(tmp_path / "1_ann_0.wav", bad, SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "2_ann_0.wav", tone, 50)
    (tmp_path / "3_ann_0.wav").write_bytes(b"")
    (tmp_path / "4_ann_0.wav").mkdir()  # no file at all
    soundfile.write(tmp_path / "9_ann_0.wav", tone, SAMPLE_RATE)
    found = words.read_recordings(tmp_path)
    assert [utterance.digit for utterance in found.utterances] == [9]
    for reason, part in zip(found.skipped, ("a word lasts", "NaN", "50 samples a second", "Error"), strict=True):
        assert part in reason


def test_errors_that_are_bugs_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ValueError from inside is neither a skipped file, nor an error of ours, nor a damaged bank."""

    def broken(*_: Any) -> None:
        np.zeros(2) + np.zeros(3)

    soundfile.write(tmp_path / "9_ann_0.wav", np.sin(np.arange(8000) / 3), SAMPLE_RATE)
    monkeypatch.setattr(words, "trim_silence", broken)
    monkeypatch.setattr(clips, "embed_clip", broken)
    for call in (lambda: words.recorded(tmp_path), lambda: speech.build_bank([WORD], seed=0)):
        with pytest.raises(ValueError, match="could not be broadcast") as caught:
            call()
        assert type(caught.value) is ValueError


def test_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    for call in (words.recorded, lambda folder: speech.cached_bank("test", folder)):
        with pytest.raises(OptionError, match=r"no spoken digits in .*7_george_0\.wav"):
            call(tmp_path)
        with pytest.raises(OptionError, match="not a folder"):
            call(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_background_has_its_level_and_seed(kind: str) -> None:
    one, same, other = (background_noise(kind, 0.5, np.random.default_rng(s), level=-40) for s in (0, 0, 1))
    assert one.shape == (8000,)
    np.testing.assert_array_equal(one, same)
    if kind != "silence":
        assert 20 * np.log10(np.sqrt(np.mean(one.astype(float) ** 2))) == pytest.approx(-40, abs=0.1)
        assert not np.array_equal(one, other)
