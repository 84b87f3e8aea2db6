"""Media files that tell their time: the brightness of every picture encodes it, and every sound is a known wave."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tokenturing.media.steps import open_media

SECONDS = 2.0
TICKS = 60_000
"""a second of the picture clock, nearly a whole number of ticks per frame at every frame rate here"""
LEVELS_PER_SECOND = 60
"""grey levels by which the pictures get brighter"""
BURSTS = ((0.4, 0.7), (1.2, 1.5))
"""(begin, end) of the tone's bursts in seconds"""


def wave(times: np.ndarray) -> np.ndarray:
    """The tone in all files as a function of time in seconds: 440 Hz in bursts, at half of full scale."""
    sounding = sum(((times >= begin) & (times < end)).astype(float) for begin, end in BURSTS)
    return 0.5 * np.sin(2 * np.pi * 440 * times) * sounding


def brightness(time: float) -> int:
    return round(LEVELS_PER_SECOND * time)


def picture_times(rate: float, seconds: float = SECONDS) -> list[float]:
    return [round(index / rate, 3) for index in range(int(seconds * rate))]  # Matroska's ticks are milliseconds


def picture(level: int | np.ndarray, time: float, pixels: str, size: tuple[int, int] = (48, 36)) -> Any:
    """A frame with a timestamp, of one grey level or of levels [height, width]."""
    grey = np.broadcast_to(np.asarray(level, np.uint8), size[::-1])
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.repeat(grey[..., None], 3, 2)), "rgb24")
    # FFmpeg's threads overwrite each other's first pixels when they convert RGB to 16-bit grey of odd widths.
    frame = frame.reformat(format=pixels, threads=1)
    frame.pts, frame.time_base = round(time * TICKS), Fraction(1, TICKS)
    return frame


def sound(samples: np.ndarray, start: float, rate: int, layout: str) -> Any:
    """Mono samples, the same in each channel, as a float frame with a timestamp."""
    channels = len(av.AudioLayout(layout).channels)
    values = np.repeat(samples[None].astype(np.float32), channels, axis=0)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), "fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, round(start * rate), Fraction(1, rate)
    return frame


def write(
    path: Path,
    times: Sequence[float] = (),
    *,
    codec: str = "ffv1",
    pixels: str = "gray",
    sounds: Sequence[tuple[float, np.ndarray]] = (),
    rate: int = 16_000,
    layout: str = "mono",
    sound_codec: str = "pcm_s16le",
    options: dict[str, str] | None = None,
) -> Path:
    """A media file with a picture at each of `times` and the pieces of sound: (start in seconds, samples)."""
    with av.open(str(path), "w", options=options or {}) as container:
        due: list[tuple[float, Any, Any]] = []  # (time, stream, frame)
        streams = []
        if len(times):
            every = times[1] - times[0] if len(times) > 1 else 1 / 25
            video = container.add_stream(codec, rate=Fraction(1 / every).limit_denominator(1001))
            video.width, video.height, video.pix_fmt = 48, 36, pixels
            video.time_base = video.codec_context.time_base = Fraction(1, TICKS)
            video.codec_context.bit_rate = 4_000_000  # enough for lossy codecs to lose nothing visible
            streams.append(video)
            due += [(time, video, picture(brightness(time), time, pixels)) for time in times]
        if len(sounds):
            audio = container.add_stream(sound_codec, rate=rate)
            audio.layout = layout
            streams.append(audio)
            convert = av.AudioResampler(audio.codec_context.format.name, layout, rate)
            for start, samples in sounds:
                for at in range(0, len(samples), 1024):
                    piece = sound(samples[at : at + 1024], start + at / rate, rate, layout)
                    due += [(start + at / rate, audio, frame) for frame in convert.resample(piece)]
        for _, stream, frame in sorted(due, key=lambda item: item[0]):
            container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def whole_wave(rate: int = 16_000, seconds: float = SECONDS) -> list[tuple[float, np.ndarray]]:
    return [(0.0, wave(np.arange(int(seconds * rate)) / rate))]


def steps_of(path: Path, **options: int) -> list[Any]:
    """All steps of a file; typed Any because each test knows which pictures and sounds are there."""
    return list(open_media(path, **options))
