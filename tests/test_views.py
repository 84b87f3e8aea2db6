"""What a task wants to see: colour, size, part of the picture and steps a second, of the same media."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

import av
from media_files import film, turned

from tokenturing.errors import OptionError
from tokenturing.media.clock import STEPS_PER_SECOND
from tokenturing.media.steps import MediaError, open_media
from tokenturing.media.view import View

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def coloured(path: Path, left: tuple, right: tuple, size: tuple[int, int] = (64, 64)) -> Path:
    """One second whose left half and right half have these colours."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.bit_rate = *size, "yuv420p", 4_000_000
        picture = np.zeros((*size[::-1], 3), np.uint8)
        picture[:, : size[0] // 2], picture[:, size[0] // 2 :] = left, right
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def frames(path: Path, **options) -> list[np.ndarray]:
    with open_media(path, **options) as media:
        return [step.frame for step in media]


def near(part: np.ndarray, colour: tuple) -> bool:
    return bool(np.abs(part.mean((0, 1)) * 255 - colour).max() < 12)


def test_frames_in_colour(tmp_path: Path) -> None:
    path = coloured(tmp_path / "a.mp4", RED, BLUE)
    (frame, *_) = frames(path, colour=True, frame_size=24)
    assert (frame.shape, frame.dtype) == ((24, 24, 3), np.float32)
    assert near(frame[:, 2:10], RED)
    assert near(frame[:, 14:22], BLUE)
    assert not near(frame[:, 2:10], BLUE), "the control"
    (grey, *_) = frames(path, frame_size=24)
    assert grey.shape == (24, 24)


def test_colour_is_turned_as_the_file_says(tmp_path: Path) -> None:
    path = coloured(tmp_path / "a.mp4", RED, BLUE)
    quarter = turned(path, (0, 1, -1, 0), tmp_path / "b.mp4")
    (frame, *_) = frames(quarter, colour=True, frame_size=24)
    halves = near(frame[2:10], RED) and near(frame[14:22], BLUE)
    assert halves or (near(frame[2:10], BLUE) and near(frame[14:22], RED))
    assert not near(frame[:, 2:10], RED), "the control: it is not as stored"


def test_crop_shows_the_middle(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 0.4, frame=lambda _: np.pad(np.full((32, 32), 200, np.uint8), 16))
    (middle, *_), (whole, *_) = frames(path, crop=0.4), frames(path)
    assert middle.min() > 0.6
    assert whole.min() < 0.2, "the control"


@pytest.mark.parametrize("rate", [4, 12.5, Fraction(10, 3), 30])
def test_each_step_shows_the_newest_picture_of_its_time(rate: float, tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 2.0, tones=())
    with open_media(path, rate=rate, sound=False) as media:
        steps = list(media)
    assert [step.time for step in steps] == pytest.approx([index / float(rate) for index in range(len(steps))])
    assert len(steps) == -(-2 * Fraction(rate) // 1)
    ends = (1 + np.arange(len(steps))) / float(rate)
    shown = np.array([step.frame.mean() for step in steps]) * 255
    expected = 40 + np.minimum(np.floor(25 * ends + 1e-6), 49)
    assert np.abs(shown - expected).max() < 2
    if rate < 12:
        assert np.abs(shown - np.roll(expected, 1)).max() > 2, "the control: the step before"


def test_sound_comes_in_steps_of_that_length(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 1.0)
    with open_media(path, rate=4) as media:
        parts = [step.sound for step in media if step.sound is not None]
    with open_media(path) as media:
        whole = np.concatenate([step.sound for step in media if step.sound is not None])
    assert {len(part) for part in parts} == {4000}
    np.testing.assert_array_equal(np.concatenate(parts)[: len(whole)], whole[: 4000 * len(parts)])
    with open_media(path, sound=False) as media:
        assert not media.has_sound
        assert all(step.sound is None for step in media)


def test_pictures_that_went_by_are_kept_where_they_are_wanted(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 1.0, tones=())
    with open_media(path, rate=4) as media:
        media.keep = True
        passed = [list(media.passed) for _ in media]
    times = [time for step in passed for time, _ in step]
    assert times == pytest.approx([index / 25 for index in range(25)])
    assert [len(step) for step in passed] == [7, 6, 6, 6]
    assert passed[0][0][1].width == 64
    with open_media(path, rate=4) as media:
        assert not any(list(media.passed) for _ in media), "the control: nobody asked"
    assert not media.live


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"crop": 0}, "crop=0"),
        ({"crop": 1.5}, "crop=1.5"),
        ({"rate": 0}, "rate=0"),
        ({"rate": 10_000}, "rate=10000"),
        ({"rate": 3}, "no whole number of samples"),
        ({"frame_size": 10**6}, "frame_size=1000000"),
    ],
)
def test_what_cannot_be_had(wrong: dict, said: str, tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 0.2)
    with pytest.raises(OptionError, match=said):
        open_media(path, **wrong)


def test_the_default_is_what_it_was(tmp_path: Path) -> None:
    assert View() == View(32, 16_000, False, 1.0, STEPS_PER_SECOND, True)
    assert (View().step_seconds, View().step_samples) == (0.08, 1280)
    path = film(tmp_path / "a.mp4", 0.5)
    with open_media(path) as plain, open_media(path, **View()._asdict()) as viewed:
        assert plain.view == viewed.view
        assert all(np.array_equal(one.frame, other.frame) for one, other in zip(plain, viewed, strict=True))


def test_sound_alone_has_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), "s16", "mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
    with pytest.raises(MediaError, match="has no picture \\(FFmpeg found: audio"):
        open_media(path, sound=False)
