"""Small media files, written with PyAV, and ways to read and compare them."""

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 16_000
UNIT = 1 << 16
"""1.0 in a display matrix"""


def film(
    path: Path,
    seconds: float = 2.0,
    *,
    frame: Any = None,
    tones: tuple[float, ...] = (440.0,),
    starts: float = 0.0,
    sound_seconds: float | None = None,
    size: tuple[int, int] = (64, 64),
) -> Path:
    """25 pictures a second, each brighter than the last (or `frame(index)`), and a sound track for each tone (0: silence)."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt, video.codec_context.gop_size = *size, "yuv420p", 5
        video.codec_context.bit_rate = 4_000_000
        sounds = [container.add_stream("aac", rate=RATE) for _ in tones]
        for sound in sounds:
            sound.layout = "mono"
        for index in range(round(25 * seconds)):
            grey = np.full(size[::-1], 40 + index % 200, np.uint8) if frame is None else frame(index)
            picture = av.VideoFrame.from_ndarray(grey, "gray").reformat(format="yuv420p")
            picture.pts, picture.time_base = index + round(25 * starts), Fraction(1, 25)
            container.mux(video.encode(picture))
            if sound_seconds is not None and index >= 25 * sound_seconds:
                continue
            for tone, sound in zip(tones, sounds, strict=True):
                times = np.arange(640 * index, 640 * (index + 1)) / RATE
                wave = (0.5 * np.sin(2 * np.pi * tone * times)).astype(np.float32)
                piece = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
                piece.sample_rate, piece.time_base = RATE, Fraction(1, RATE)
                piece.pts = 640 * index + round(RATE * starts)
                container.mux(sound.encode(piece))
        for stream in (video, *sounds):
            container.mux(stream.encode(None))
    return path


def turned(path: Path, matrix: tuple[int, int, int, int], to: Path) -> Path:
    """A copy of an mp4 file whose first track has the display matrix (a, b, c, d), in units."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44  # after version, times, track, length, layer, group and volume
    a, b, c, d = (UNIT * part for part in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    to.write_bytes(content)
    return to


def default_track(path: Path, number: int, to: Path) -> Path:
    """A copy of an mp4 file of which only that track (from 1) among those of sound is enabled, which makes it the default."""
    content = bytearray(path.read_bytes())
    place = -1
    for track in range(content.count(b"tkhd")):
        place = content.index(b"tkhd", place + 1)
        content[place + 7] = 3 if track in (0, number) else 2
    to.write_bytes(content)
    return to


def same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two lists of steps are the same to the bit."""
    return len(one) == len(other) and all(
        a.time == b.time and np.array_equal(a.frame, b.frame) and np.array_equal(a.sound, b.sound)
        for a, b in zip(one, other, strict=True)
    )


@contextmanager
def piped(folder: Path, content: bytes) -> Iterator[Path]:
    """A named pipe that another thread writes to."""
    path = folder / "pipe"
    os.mkfifo(path)

    def write() -> None:
        with suppress(BrokenPipeError):
            path.write_bytes(content)

    writer = threading.Thread(target=write)
    writer.start()
    yield path
    writer.join(20)
    assert not writer.is_alive()
