"""Media files and cameras in steps of 80 ms: a small grey frame and 1280 samples of sound each.

PyAV (FFmpeg) reads packet by packet. Pictures and sound have a demuxer each, so memory holds a frame or two of either, however
badly a file interleaves them. Time 0 is the first picture or sound, whatever the recording's own clock; all times are in seconds.
"""

import weakref
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from tokenturing.errors import OptionError
from tokenturing.media.clock import SAMPLE_RATE, STEP_SECONDS, STEPS_PER_SECOND
from tokenturing.media.source import (
    MediaError,
    Source,
    av_package,
    reason_of,
    source_of,
    stated_end_of,
    stream_of,
)
from tokenturing.media.tracks import Pictures, Sounds, Track, raise_if_broken

NO_MEDIA = ("tty", "hls", "dash", "concat")
"""formats of FFmpeg's that are refused: text shown as pictures, and playlists, which open other files"""


class MediaStep(NamedTuple):
    """One step of media; None where a track is absent or has ended, or before the first picture."""

    time: float
    """seconds at which the step begins; it lasts STEP_SECONDS"""
    frame: np.ndarray | None
    """float32 [frame_size, frame_size], grey in 0..1: the picture shown at the end of the step"""
    sound: np.ndarray | None
    """float32 [STEP_SECONDS * sample_rate], mono in -1..1: the sound during the step"""


def open_media(source: str | Path, *, frame_size: int = 32, sample_rate: int = SAMPLE_RATE) -> "Media":
    """Open a file (mp4, mkv, avi, wav, flac, ...) or a camera ("camera", "camera:1") as `MediaStep`s.

    >>> with open_media("talk.mp4") as media:
    ...     for time, frame, sound in media: ...
    """
    if frame_size < 1:
        raise OptionError(f"frame_size={frame_size}: expected 1 pixel or more")
    samples = Fraction(sample_rate) / STEPS_PER_SECOND
    if samples < 1 or samples.denominator != 1:
        raise OptionError(
            f"sample_rate={sample_rate} has no whole number of samples in a step of {1000 * STEP_SECONDS:g} ms: "
            f"expected a multiple of {STEPS_PER_SECOND.numerator} Hz, such as 8000, 16000 or 48000"
        )
    return Media(source_of(source), frame_size, sample_rate)


class Media:
    """A file or camera: an iterable of `MediaStep` and a context manager; each `iter` begins a file anew."""

    has_video: bool
    has_sound: bool
    duration: float | None
    """seconds, as the file states or FFmpeg estimates; None if unknown"""

    def __init__(self, source: Source, frame_size: int, sample_rate: int) -> None:
        self._source, self._frame_size, self._sample_rate = source, frame_size, sample_rate
        self._running: weakref.WeakSet[Generator] = weakref.WeakSet()
        self._closed = False
        with source.open() as container:
            form = container.format.name
            self._kinds = [kind for kind in source.kinds if stream_of(container, kind) is not None]
            if not self._kinds or form in NO_MEDIA:
                found = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
                raise MediaError(
                    f"{source.name} has no picture or sound (FFmpeg found: {found}; format {form}): expected a media file"
                )
            known = not source.format and (container.duration or 0) > 0
            self.duration = container.duration / 1e6 if known else None
            self._stated_end = stated_end_of(source, container)
        self.has_video, self.has_sound = "video" in self._kinds, "audio" in self._kinds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all running iterations and release the file or camera."""
        self._closed = True
        for steps in list(self._running):
            steps.close()

    def __iter__(self) -> Iterator[MediaStep]:
        if self._closed:
            raise MediaError(f"{self._source.name} is closed: open it again with open_media")
        steps = self._steps()
        self._running.add(steps)
        return steps

    def _steps(self) -> Generator[MediaStep, None, None]:
        with ExitStack() as stack:
            stated_end = self._stated_end if len(self._kinds) == 1 else None
            tracks = {kind: stack.enter_context(Track(self._source, kind, stated_end)) for kind in self._kinds}
            zero = min((track.head[0] for track in tracks.values() if track.head), default=0.0)
            for track in tracks.values():
                track.zero = zero
            pictures = Pictures(tracks["video"], self._frame_size) if self.has_video else None
            sounds = Sounds(tracks["audio"], self._sample_rate) if self.has_sound else None
            step = 0
            while True:
                start = step * STEP_SECONDS
                try:
                    frame = pictures.shown(start) if pictures else None
                    sound = sounds.take() if sounds else None
                except av_package().FFmpegError as error:
                    reason = f"its kind cannot be converted ({reason_of(error)})"
                    raise MediaError(f"{self._source.name} breaks off at {start:.2f} s: {reason}") from None
                raise_if_broken(list(tracks.values()), start)
                if frame is None and sound is None and not any(track.head for track in tracks.values()):
                    break
                yield MediaStep(start, frame, sound)
                step += 1
            self._judge_end(step, list(tracks.values()))

    def _judge_end(self, steps: int, tracks: list[Track]) -> None:
        """After the last step: was there any, and is the file as long as it states?"""
        if steps == 0:
            raise MediaError(f"{self._source.name} has a length of zero: expected pictures or sound in it")
        last = max(tracks, key=lambda track: track.end)
        if self._stated_end is not None and all(track.stated_end is None for track in tracks):
            last.judge_end(self._stated_end)
            raise_if_broken([last], np.inf)
