"""Frames and sound as a video file."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tokenturing.errors import OptionError, ShapeError
from tokenturing.media.clock import SAMPLE_RATE, STEP_SAMPLES, STEPS_PER_SECOND
from tokenturing.media.source import MediaError, av_package, reason_of

SCALE = 8
"""pixels of the video per pixel of a frame"""
ENDINGS = (".mp4", ".mkv", ".mov")


def write_video(path: Path, frames: np.ndarray, waveform: np.ndarray) -> None:
    """Write frames [T, H, W] in [0, 1], one a step, and sound [1280 T] in -1..1, 16 kHz mono, as a video file."""
    _check_arguments(path, frames, waveform)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with av_package().open(str(path), "w") as container:
            _write(container, frames, waveform)
    except OSError as error:
        raise MediaError(f"cannot write {path}: {reason_of(error)}") from error


def _check_arguments(path: Path, frames: np.ndarray, waveform: np.ndarray) -> None:
    if path.suffix.lower() not in ENDINGS:
        raise OptionError(f"cannot write {path} as a video: expected a name that ends in {', '.join(ENDINGS)}")
    if frames.ndim != 3 or not frames.size:
        raise ShapeError(f"frames have the shape {list(frames.shape)}: expected [T, H, W], grey, each at least 1")
    if waveform.shape != (len(frames) * STEP_SAMPLES,):
        raise ShapeError(
            f"the sound has the shape {list(waveform.shape)}: expected [{len(frames) * STEP_SAMPLES}], "
            f"which is {STEP_SAMPLES} samples for each of the {len(frames)} frames"
        )


def _write(container: Any, frames: np.ndarray, waveform: np.ndarray) -> None:
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


def _picture(frame: np.ndarray, step: int) -> Any:
    small = (frame.clip(0, 1) * 255).astype(np.uint8)
    grey = small.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    picture = av_package().VideoFrame.from_ndarray(grey, "gray").reformat(format="yuv420p")
    picture.pts, picture.time_base = step, 1 / STEPS_PER_SECOND
    return picture


def _sound(samples: np.ndarray, first: int) -> Any:
    sound = av_package().AudioFrame.from_ndarray(samples.astype(np.float32)[None], "fltp", "mono")
    sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, first, Fraction(1, SAMPLE_RATE)
    return sound
