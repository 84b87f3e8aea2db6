"""Files that are cut short, damaged or no media at all: what is whole of them is read, and one clear error says the rest."""

import re
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")

from media_files import same
from timed_media import picture_times, steps_of, write

from tokenturing.errors import TokenTuringError
from tokenturing.media.clock import STEP_SECONDS
from tokenturing.media.steps import MediaError, open_media


def read(path: Path) -> tuple[list[Any], str]:
    """The steps of a file that may break off, and the message of its error, or ""."""
    steps: list[Any] = []
    try:
        for step in open_media(path):
            steps.append(step)  # one by one, to keep those before an error
    except MediaError as error:
        return steps, str(error)
    return steps, ""


def data_part(content: bytes | bytearray) -> tuple[int, int]:
    """Offsets at which pictures and sound begin and end in a file: mp4 has its index before them, avi after."""
    begin, end = content.find(b"mdat"), content.find(b"idx1")
    return max(begin, 0), end if end > 0 else len(content)


def cut(path: Path, share: float) -> Path:
    """A copy cut off after a share of the pictures and sound."""
    whole = path.read_bytes()
    begin, end = data_part(whole)
    shorter = path.with_name(f"cut_{path.name}")
    shorter.write_bytes(whole[: begin + int((end - begin) * share)])
    return shorter


def blot(path: Path, begin: float, end: float) -> Path:
    """A copy with all bits flipped in a part of the pictures and sound."""
    damaged = bytearray(path.read_bytes())
    first, last = data_part(damaged)
    part = slice(first + int((last - first) * begin), first + int((last - first) * end))
    damaged[part] = bytes(byte ^ 0xFF for byte in damaged[part])
    other = path.with_name(f"blot_{path.name}")
    other.write_bytes(damaged)
    return other


NOISE = [(0.0, np.random.default_rng(0).uniform(-0.5, 0.5, 64_000))]
"""compresses equally well everywhere, so that bytes are proportional to time"""


LONG: dict[str, dict[str, Any]] = {  # 4 s each, with an index (if any) at the front
    "film.mkv": {"times": picture_times(25, 4), "sounds": NOISE},
    "film.avi": {"times": picture_times(25, 4), "sounds": NOISE},
    "film.mp4": {
        "times": picture_times(25, 4),
        "codec": "mpeg4",
        "pixels": "yuv420p",
        "sounds": NOISE,
        "sound_codec": "aac",
        "options": {"movflags": "faststart"},
    },
    "sound.wav": {"sounds": NOISE},
    "sound.flac": {"sounds": NOISE, "sound_codec": "flac"},
}


@pytest.mark.parametrize("name", LONG)
def test_a_file_cut_short_gives_what_it_has_and_then_says_where_it_broke(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, **LONG[name])
    whole, message = read(path)
    assert message == ""
    steps, message = read(cut(path, 0.6))
    found = re.search(r"cut_(film|sound)\.\w+ breaks off at (\d\.\d\d) s: .*(damaged|cut short)", message)
    assert found, message
    assert 1 < float(found[2]) < 3
    assert abs(len(steps) - float(found[2]) / STEP_SECONDS) < 1.01
    assert same(steps[:-2], whole[: len(steps) - 2])  # the last is padded, and flushing the resampler alters the one before it


@pytest.mark.parametrize("name", LONG)
def test_a_ragged_end_is_a_warning(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, **LONG[name])
    whole, _ = read(path)
    with pytest.warns(UserWarning, match="ragged end at 3"):
        steps = steps_of(cut(path, 0.88))
    assert 0 < len(whole) - len(steps) <= 13


def test_damage_under_a_second_is_bridged_and_more_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mp4", **LONG["film.mp4"])
    whole, _ = read(path)
    with pytest.warns(UserWarning, match="could not be decoded near 2"):
        steps = steps_of(blot(path, 0.60, 0.62))
    assert len(steps) == len(whole)
    assert same(steps[:20], whole[:20])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps, message = read(blot(path, 0.5, 0.95))
    assert "breaks off at" in message
    assert same(steps[:20], whole[:20])


@pytest.mark.parametrize("seed", range(12))
def test_no_damage_leaks_ffmpeg_errors_or_hangs(tmp_path: Path, seed: int) -> None:
    """Whichever bytes are damaged, the steps are in range and any error is a MediaError."""
    names = list(LONG)
    path = write(tmp_path / names[seed % len(names)], **LONG[names[seed % len(names)]])
    generator = np.random.default_rng(seed)
    damaged = bytearray(path.read_bytes())
    for place in generator.integers(0, len(damaged), 200):
        damaged[place] = generator.integers(0, 256)
    path.write_bytes(damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps, message = read(path)
    assert steps or message
    for step in steps[:200]:
        assert step.frame is None or (step.frame.min() >= 0 and step.frame.max() <= 1)
        assert step.sound is None or abs(step.sound).max() <= 1


def wav_header(data_bytes: int) -> bytes:
    form = struct.pack("<IHHIIHH", 16, 1, 1, 8_000, 16_000, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", min(36 + data_bytes, 2**32 - 1))
        + b"WAVEfmt "
        + form
        + b"data"
        + struct.pack("<I", min(data_bytes, 2**32 - 1))
    )


def test_a_streamed_wav_states_no_length(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav_header(2**32) + bytes(16_000))
    assert len(steps_of(tmp_path / "a.wav")) == 13


NOT_MEDIA = {
    "empty.mp4": (b"", "is empty"),
    "text.mp4": (b"This is a text, not a film.\n" * 40, "no media"),
    "text.txt": (b"This is a text, not a film.\n" * 40, "no picture or sound"),
    "text.srt": (b"1\n00:00:01,000 --> 00:00:02,000\nHello\n\n", "no picture or sound"),
    "zeros.mkv": (bytes(5_000), "no media"),
    "silence.wav": (wav_header(0), "length of zero"),
    "list.m3u8": (b"#EXTM3U\n#EXTINF:1,\nfilm.mkv\n#EXT-X-ENDLIST\n", "cannot open"),
}


@pytest.mark.parametrize("name", NOT_MEDIA)
def test_files_that_are_not_media_give_one_clear_error(tmp_path: Path, name: str) -> None:
    content, expected = NOT_MEDIA[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=expected) as caught:
        steps_of(tmp_path / name)
    assert name in str(caught.value)
    assert isinstance(caught.value, TokenTuringError)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__  # no FFmpeg traceback above it


def test_an_mp4_without_its_index_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mp4", picture_times(25), codec="mpeg4", pixels="yuv420p")
    with pytest.raises(MediaError, match="cut short before its index"):
        open_media(cut(path, 0.9))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"there is no file .*nowhere"):
        open_media(tmp_path / "nowhere.mp4")
    with pytest.raises(MediaError, match="is a folder"):
        open_media(tmp_path)


def test_names_that_ffmpeg_would_misread(tmp_path: Path) -> None:
    path = write(tmp_path / "http:a %03d.mkv", picture_times(25))
    assert len(steps_of(path)) == 25
