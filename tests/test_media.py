"""Media in steps: the brightness of every picture encodes its time, and every sound is a known wave."""

import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")

import av
from media_files import same
from timed_media import (
    BURSTS,
    LEVELS_PER_SECOND,
    SECONDS,
    TICKS,
    brightness,
    picture,
    picture_times,
    sound,
    steps_of,
    wave,
    whole_wave,
    write,
)

from tokenturing.errors import MissingExtraError, OptionError, ShapeError, TokenTuringError
from tokenturing.media import places
from tokenturing.media import steps as media
from tokenturing.media.clock import SAMPLE_RATE, STEP_SAMPLES, STEP_SECONDS
from tokenturing.media.steps import MediaError, MediaStep, open_media
from tokenturing.media.writer import write_video


def check_pictures(steps: list[MediaStep], times: Sequence[float], tolerance: float = 0.0) -> None:
    """Each step shows the latest picture due by its end."""
    for step in steps:
        due = [time for time in times if time <= step.time + STEP_SECONDS + 1e-6]
        if step.frame is None:
            assert not due or step.time >= times[-1], f"no picture at {step.time}"
            continue
        np.testing.assert_allclose(step.frame * 255, brightness(due[-1]), atol=tolerance + 0.01)


def check_sound(steps: list[MediaStep], tolerance: float = 0.02) -> None:
    """The sound is the wave, sample by sample, except around its jumps, where every resampler rings."""
    heard = np.zeros(max(round((step.time + STEP_SECONDS) * 16_000) for step in steps))
    for step in steps:
        if step.sound is not None:
            heard[round(step.time * 16_000) :][: len(step.sound)] = step.sound
    times = np.arange(len(heard)) / 16_000
    far = np.all([abs(times - edge) > 0.005 for edge in (*np.ravel(BURSTS), SECONDS)], axis=0)
    assert len(heard) >= SECONDS * 16_000
    np.testing.assert_allclose(heard[far], (wave(times) * (times < SECONDS))[far], atol=tolerance)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write(tmp_path / "film.mkv", picture_times(25), sounds=whole_wave())


@pytest.mark.parametrize("picture_rate", [5, 12.5, 24_000 / 1001, 30_000 / 1001, 60])
@pytest.mark.parametrize(("rate", "layout"), [(48_000, "stereo"), (8_000, "mono"), (44_100, "5.1")])
def test_picture_and_sound_keep_to_the_clock(tmp_path: Path, picture_rate: float, rate: int, layout: str) -> None:
    times = picture_times(picture_rate)
    path = write(tmp_path / "film.mkv", times, sounds=whole_wave(rate), rate=rate, layout=layout)
    with open_media(path) as opened:
        assert opened.has_video
        assert opened.has_sound
        assert opened.duration == pytest.approx(SECONDS, abs=0.1)
        steps: list[Any] = list(opened)
    assert [step.time for step in steps] == [index * STEP_SECONDS for index in range(25)]
    assert all(step.frame.shape == (32, 32) and step.frame.dtype == np.float32 for step in steps)
    assert all(step.sound.shape == (1280,) and step.sound.dtype == np.float32 for step in steps)
    check_pictures(steps, times)
    check_sound(steps)


def test_control_a_misalignment_of_one_step_is_noticed(film: Path) -> None:
    steps = steps_of(film)
    check_pictures(steps, picture_times(25))
    check_sound(steps)
    early = [MediaStep(step.time, after.frame, after.sound) for step, after in pairwise(steps)]
    late = [MediaStep(step.time, before.frame, before.sound) for before, step in pairwise(steps)]
    for shifted in (early, late):
        with pytest.raises(AssertionError):
            check_pictures(shifted, picture_times(25))
        with pytest.raises(AssertionError):
            check_sound([*shifted, MediaStep(SECONDS - STEP_SECONDS, None, None)])


@pytest.mark.parametrize("name", ["film.mp4", "film.mov", "film.avi", "film.ts", "film.webm"])
def test_containers_with_compressed_tracks(tmp_path: Path, name: str) -> None:
    codecs = {"webm": ("libvpx", "libopus"), "avi": ("mpeg4", "pcm_s16le")}.get(name[-4:].strip("."), ("mpeg4", "aac"))
    times = picture_times(25)
    path = write(
        tmp_path / name,
        times,
        codec=codecs[0],
        pixels="yuv420p",
        sounds=whole_wave(48_000),
        rate=48_000,
        sound_codec=codecs[1],
    )
    steps = steps_of(path)
    shift = 1 / 25 if name == "film.ts" else 0  # its AAC begins with a priming frame, which delays the pictures
    for step in steps[:24]:
        assert abs(step.frame.mean() * 255 / LEVELS_PER_SECOND - (step.time + STEP_SECONDS)) < 0.05 + shift
    loud = np.array([np.sqrt(np.mean(step.sound**2)) > 0.15 for step in steps[:25]])
    expected = [any(b <= s.time + 0.04 < e for b, e in BURSTS) for s in steps[:25]]
    assert np.sum(loud != expected) <= 2  # steps in which a burst begins or ends may count or not
    assert len(steps) in {25, 26}  # AAC pads its last frame


def test_variable_frame_rate(tmp_path: Path) -> None:
    times = [0.0, 0.01, 0.02, 0.3, 0.9, 0.94, 0.98, 1.1, 1.9]
    check_pictures(steps_of(write(tmp_path / "film.mkv", times)), times)


def test_pictures_alone(tmp_path: Path) -> None:
    opened = open_media(write(tmp_path / "film.mkv", picture_times(25)))
    steps: list[Any] = list(opened)
    assert (opened.has_video, opened.has_sound, len(steps)) == (True, False, 25)
    assert all(step.sound is None for step in steps)
    check_pictures(steps, picture_times(25))


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.wav", "pcm_f32le"), ("a.flac", "flac")])
def test_sound_alone(tmp_path: Path, name: str, codec: str) -> None:
    path = write(tmp_path / name, sounds=whole_wave(48_000), rate=48_000, layout="stereo", sound_codec=codec)
    opened = open_media(str(path))
    steps: list[Any] = list(opened)
    assert (opened.has_video, opened.has_sound, opened.duration, len(steps)) == (False, True, SECONDS, 25)
    assert all(step.frame is None for step in steps)
    check_sound(steps)


def test_a_cover_is_not_a_video(tmp_path: Path) -> None:
    if not hasattr(av.stream, "Disposition"):
        pytest.skip("this version of PyAV cannot tell a cover from a video")
    with av.open(str(tmp_path / "song.mp3"), "w") as container:
        cover = container.add_stream("png")
        cover.width, cover.height, cover.pix_fmt = 48, 36, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        audio = container.add_stream("libmp3lame", rate=16_000)
        audio.layout = "mono"
        container.mux([*cover.encode(picture(9, 0, "rgb24")), *cover.encode(None)])
        for at in range(0, 32_000, 1152):
            container.mux(audio.encode(sound(np.zeros(1152), at / 16_000, 16_000, "mono")))
        container.mux(audio.encode(None))
    assert not open_media(tmp_path / "song.mp3").has_video


def test_sound_that_starts_late_and_pauses_is_silent_there(tmp_path: Path) -> None:
    times = np.arange(32_000) / 16_000
    pieces = [
        (0.4, wave(times[6_400:16_000])),
        (1.2, wave(times[19_200:])),
    ]  # none before 0.4 s, nor from 1.0 to 1.2
    path = write(tmp_path / "film.mkv", picture_times(25), sounds=pieces)
    steps = steps_of(path)
    assert all(step.sound is not None for step in steps)
    assert not np.any(steps[0].sound)
    assert not np.any(steps[13].sound)
    check_sound(steps)
    check_pictures(steps, picture_times(25))


def test_pictures_that_start_late_are_absent_before(tmp_path: Path) -> None:
    times = [time + 0.5 for time in picture_times(25, 1.5)]
    steps = steps_of(write(tmp_path / "film.mkv", times, sounds=whole_wave()))
    assert [step.frame is None for step in steps] == [index < 6 for index in range(25)]  # 0.5 s is in the 7th step
    check_pictures(steps, times)
    check_sound(steps)


@pytest.mark.parametrize("name", ["film.mkv", "film.mp4"])
def test_the_longer_track_goes_on_alone(tmp_path: Path, name: str) -> None:
    codec: dict[str, Any] = {"codec": "mpeg4", "pixels": "yuv420p", "sound_codec": "aac"} if name == "film.mp4" else {}
    path = write(tmp_path / name, picture_times(25, 0.8), sounds=whole_wave(), **codec)
    steps = steps_of(path)
    assert [step.frame is None for step in steps[:25]] == [index >= 10 for index in range(25)]
    assert all(step.sound is not None for step in steps)
    path = write(tmp_path / name, picture_times(25), sounds=whole_wave(seconds=0.8), **codec)
    steps = steps_of(path)
    assert [step.sound is None for step in steps[:25]] == [index >= 10 + (name == "film.mp4") for index in range(25)]
    assert all(step.frame is not None for step in steps)


@pytest.mark.parametrize("first", [1.0, 95_000.0])
def test_time_zero_is_the_first_picture_or_sound(tmp_path: Path, first: float) -> None:
    times = picture_times(25)
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 48, 36, "gray"
        video.time_base = video.codec_context.time_base = Fraction(1, TICKS)
        for time in times:
            frame = picture(brightness(time), time, "gray")
            frame.pts += round(first * TICKS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    steps = steps_of(tmp_path / "film.mkv")
    assert len(steps) == 25
    check_pictures(steps, times)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuva420p", "rgb48le", "gray16le"])
@pytest.mark.parametrize("size", [(97, 33), (33, 97), (31, 31), (1, 1), (200, 150)])
def test_the_middle_square_in_grey(tmp_path: Path, pixels: str, size: tuple[int, int]) -> None:
    width, height = size
    side = min(size)
    grey = np.zeros((height, width), np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    grey[top : top + side, left : left + side] = 200
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = width, height, pixels
        container.mux([*video.encode(picture(grey, 0, pixels, size)), *video.encode(None)])
    (step,) = steps_of(tmp_path / "film.mkv")
    np.testing.assert_allclose(step.frame, 200 / 255, atol=0.01)


def test_pixels_that_are_not_square_keep_the_aspect(tmp_path: Path) -> None:
    grey = np.zeros((36, 48), np.uint8)
    grey[:, 15:33] = 200  # 18 columns of double width are as wide as 36 rows are tall
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 48, 36, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(2, 1)
        video.codec_context.bit_rate = 4_000_000
        container.mux([*video.encode(picture(grey, 0, "yuv420p")), *video.encode(None)])
    (step,) = steps_of(tmp_path / "film.mkv")
    np.testing.assert_allclose(step.frame, 200 / 255, atol=0.08)


@pytest.mark.parametrize("layout", ["stereo", "5.1"])
def test_loud_channels_mix_within_full_scale(tmp_path: Path, layout: str) -> None:
    loud = np.full(48_000, 0.99)
    path = write(tmp_path / "a.wav", sounds=[(0, loud)], rate=48_000, layout=layout, sound_codec="pcm_f32le")
    heard = np.concatenate([step.sound for step in steps_of(path)])[:16_000]
    np.testing.assert_allclose(heard[100:-100], 0.99, atol=1e-3)
    assert heard[-3:].min() > 0.5  # up to the last samples, which a resampler holds back until flushed


def test_other_sizes_and_rates(film: Path) -> None:
    (step, *_) = steps_of(film, frame_size=8, sample_rate=8_000)
    assert (step.frame.shape, step.sound.shape) == ((8, 8), (640,))
    with pytest.raises(OptionError, match="frame_size=0"):
        open_media(film, frame_size=0)
    with pytest.raises(OptionError, match="multiple of 25"):
        open_media(film, sample_rate=11_026)


def test_each_iteration_begins_anew(film: Path) -> None:
    opened = open_media(film)
    first = list(opened)
    assert same(first, list(opened))
    assert same(first, [step for step, _ in zip(opened, opened, strict=True)])  # two at once
    assert not same(first[1:], first[:-1])


def test_closed_media_yield_nothing_more(film: Path) -> None:
    with open_media(film) as opened:
        steps = iter(opened)
        next(steps)
    assert list(steps) == []
    with pytest.raises(MediaError, match="closed"):
        iter(opened)


def test_without_pyav_the_error_names_the_extra(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"tokenturing\[media\]"):
        open_media(film)


def test_a_missing_camera_is_one_clear_error() -> None:
    with pytest.raises(MediaError, match="camera 97"):
        open_media("camera:97")
    with pytest.raises(MediaError, match="camera:N"):
        open_media("camera:front")


def test_a_camera_is_pictures_without_end_or_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's test pattern in place of a device: the same code except for the name of the input."""
    monkeypatch.setattr(places, "_camera", lambda number: ("testsrc=rate=30:size=64x48", "lavfi"))
    with open_media("camera") as opened:
        assert (opened.has_video, opened.has_sound, opened.duration) == (True, False, None)
        steps: list[Any] = [step for step, _ in zip(opened, range(30), strict=False)]
    assert all(step.sound is None and step.frame.std() > 0.1 for step in steps)


GROWTH = """
import os, sys, types
sys.modules["tokenturing"] = package = types.ModuleType("tokenturing")  # without the imports of its __init__
package.__path__ = [sys.argv[1]]
from tokenturing.media.steps import open_media

def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

for keep in (False, True):
    kept, first, most = [], 0, 0
    for index, step in enumerate(open_media(sys.argv[2])):
        kept += [step] * keep
        first = megabytes() if index == 200 else first
        most = max(most, megabytes()) if index % 100 == 0 else most
    print(most - first)
print("torch" in sys.modules)
"""
"""prints by how many megabytes a process grows as it reads a file, without and with its steps kept, and if torch is loaded"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the process's memory from Linux's /proc")
def test_memory_is_constant_however_long_and_badly_interleaved(tmp_path: Path) -> None:
    """Ten minutes with all sound before the pictures: a single demuxer would have to hold the whole of it."""
    path = tmp_path / "long.mkv"
    seconds, rate = 600, 8_000
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=1)
        video.width, video.height, video.pix_fmt = 16, 16, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=rate)
        audio.layout = "mono"
        for second in range(seconds):
            piece = av.AudioFrame.from_ndarray(np.full((1, rate), 99, np.int16), "s16", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = rate, second * rate, Fraction(1, rate)
            container.mux(audio.encode(piece))
        frame = picture(90, 0, "yuv420p", (16, 16))
        for second in range(seconds):
            frame.pts, frame.time_base = second, Fraction(1)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    with av.open(str(path)) as container:
        order = [packet.stream.type for packet in container.demux() if packet.size]
    assert max(len(list(run)) for _, run in groupby(order)) > 500
    # In a process of its own: in this one the growth could hide in memory that other tests have freed.
    command = [sys.executable, "-c", GROWTH, str(Path(media.__file__).parents[1]), str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert float(found[0]) < 5
    assert float(found[1]) > 50  # the control: all steps are held
    assert found[2] == "False"


def test_a_written_video_is_read_again(tmp_path: Path) -> None:
    frames = np.linspace(0, 1, 10)[:, None, None] * np.ones((10, 32, 32))
    write_video(tmp_path / "a.mp4", frames, wave(np.arange(10 * STEP_SAMPLES) / SAMPLE_RATE))
    steps = steps_of(tmp_path / "a.mp4")
    seen = [step.frame.mean() for step in steps[:9]]
    np.testing.assert_allclose(seen, frames[1:].mean((1, 2)), atol=0.05)  # a picture at the end of a step is in it
    assert np.abs(np.concatenate([step.sound for step in steps[:10]])).max() > 0.3


@pytest.mark.parametrize(
    ("name", "frames", "samples", "error", "message"),
    [
        ("a.txt", (3, 8, 8), (3840,), OptionError, r"a\.txt as a video: expected a name that ends in \.mp4"),
        ("a.mp4", (3, 8), (3840,), ShapeError, r"\[3, 8\]: expected \[T, H, W\]"),
        ("a.mp4", (0, 8, 8), (0,), ShapeError, r"\[0, 8, 8\]"),
        ("a.mp4", (3, 8, 8), (3839,), ShapeError, r"\[3839\]: expected \[3840\]"),
        ("folder.mp4", (3, 8, 8), (3840,), MediaError, r"cannot write .*folder\.mp4: Is a directory"),
    ],
)
def test_a_video_that_cannot_be_written(
    tmp_path: Path,
    name: str,
    frames: tuple[int, ...],
    samples: tuple[int, ...],
    error: type[TokenTuringError],
    message: str,
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(error, match=message):
        write_video(tmp_path / name, np.zeros(frames), np.zeros(samples))


def test_writing_without_pyav_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"av is not installed.*tokenturing\[media\]"):
        write_video(tmp_path / "a.mp4", np.zeros((3, 8, 8)), np.zeros(3840))


def test_errors_that_are_bugs_stay_what_they_are(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        np.zeros(2) + np.zeros(3)

    monkeypatch.setattr(media.Pictures, "_scaled", broken)
    with pytest.raises(ValueError, match="could not be broadcast") as caught:
        steps_of(film)
    assert type(caught.value) is ValueError
