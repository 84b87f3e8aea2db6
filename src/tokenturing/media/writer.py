"""Frames and sound as an mp4 file."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from tokenturing.errors import MissingExtraError
from tokenturing.media.clock import SAMPLE_RATE, STEP_SAMPLES, STEPS_PER_SECOND

SCALE = 8
"""pixels of the video to a pixel of a frame"""
"""frames a second: one a step"""


def write_video(path: Path, frames: np.ndarray, waveform: np.ndarray) -> None:
    """frames [T, H, W] in [0, 1] at 12.5 a second and the sound beneath, 16 kHz [1280 T] in -1..1 -> a file."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "media") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=STEPS_PER_SECOND)
        video.height, video.width = (SCALE * size for size in frames.shape[1:])
        video.pix_fmt, video.bit_rate = "yuv420p", 400_000
        audio = container.add_stream("aac", rate=SAMPLE_RATE)
        audio.layout = "mono"
        for step, frame in enumerate(frames):
            container.mux(video.encode(_picture(frame, step)))
            samples = waveform[step * STEP_SAMPLES : (step + 1) * STEP_SAMPLES]
            container.mux(audio.encode(_sound(samples, step * STEP_SAMPLES)))
        for stream in (video, audio):
            container.mux(stream.encode(None))


def _picture(frame: np.ndarray, step: int):  # type: ignore[no-untyped-def]
    import av

    small = (frame.clip(0, 1) * 255).astype(np.uint8)
    grey = small.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    picture = av.VideoFrame.from_ndarray(grey, "gray").reformat(format="yuv420p")
    picture.pts, picture.time_base = step, 1 / STEPS_PER_SECOND
    return picture


def _sound(samples: np.ndarray, first: int):  # type: ignore[no-untyped-def]
    import av

    sound = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], "fltp", "mono")
    sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, first, Fraction(1, SAMPLE_RATE)
    return sound
