"""Media in steps, of 80 ms as a rule: a small grey frame and 1280 samples of sound each. Files, cameras, pipes, network streams.

PyAV (FFmpeg) reads packet by packet. The tracks of a file have a demuxer each, so memory holds a frame or two of either, however
badly a file interleaves them. Time 0 is the first picture or sound, whatever the recording's own clock; all times are in seconds.
"""

import time
import warnings
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from tokenturing.errors import OptionError
from tokenturing.media.clock import SAMPLE_RATE, STEPS_PER_SECOND
from tokenturing.media.opening import Opening
from tokenturing.media.places import source_of
from tokenturing.media.source import MediaError, Source, av_package, reason_of
from tokenturing.media.tracks import Pictures, Sounds, Track, raise_if_broken
from tokenturing.media.view import View

RECONNECT_SECONDS = 60.0
LONGEST_RECONNECT_SECONDS = 86_400.0
WAITS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""seconds before each try to reach a network stream again; the last one ever after"""
SETTLED_SECONDS = 1.0
"""after so long the next loss begins with the shortest wait again"""


class MediaStep(NamedTuple):
    """One step of media; None where a track is absent or has ended, or before the first picture."""

    time: float
    """seconds at which the step begins; it lasts `Media.step_seconds`"""
    frame: np.ndarray | None
    """float32 [frame_size, frame_size], grey in 0..1, or [frame_size, frame_size, 3], red, green and blue: the picture shown at
    the end of the step"""
    sound: np.ndarray | None
    """float32 [step_seconds * sample_rate], mono in -1..1: the sound during the step"""


def open_media(
    source: str | Path,
    *,
    frame_size: int = 32,
    sample_rate: int = SAMPLE_RATE,
    colour: bool = False,
    crop: float = 1.0,
    rate: Fraction | float = STEPS_PER_SECOND,
    sound: bool = True,
    audio_track: int | str | None = None,
    reconnect: float = RECONNECT_SECONDS,
) -> "Media":
    """Open what is to be watched or heard as `MediaStep`s.

    A network stream that states no length is endless. Where it breaks off or ends it is tried again: at once, then after 1, 2, 4
    ... 30 s, until `reconnect` seconds have passed since its last step; only then it is over. Time goes on meanwhile: the steps
    that were missed follow without pictures and sound.

    >>> with open_media("talk.mp4") as media:
    ...     for time, frame, sound in media: ...

    Args:
        source: a file (mp4, mkv, avi, wav, flac, ...), a camera ("camera", "camera:1", "/dev/video0"), "-" for standard input, a
            named pipe, or an address (http, https, rtsp, rtsps).
        frame_size: pixels of a frame's side.
        sample_rate: of the sound.
        colour: whether frames are in colour.
        crop: how much of the side of the largest centred square is shown.
        rate: steps a second.
        sound: whether sound is heard, where there is any.
        audio_track: which sound track: its number from 1, or its language; None: the file's default.
        reconnect: seconds in which to reach an endless network stream again; 0: not at all.
    """
    view = View(frame_size, sample_rate, colour, crop, rate, sound)
    view.check()
    if not 0 <= reconnect <= LONGEST_RECONNECT_SECONDS:
        raise OptionError(f"reconnect={reconnect:g}: expected 0 to {LONGEST_RECONNECT_SECONDS:g} seconds")
    found = source_of(source, audio_track)
    return Media(found if sound else found._replace(kinds=("video",)), view, reconnect)


class Media:
    """An iterable of `MediaStep` and a context manager; each `iter` begins a file anew, and pipes can be read only once."""

    has_video: bool
    has_sound: bool
    duration: float | None
    """seconds, as the file states or FFmpeg estimates; None if unknown"""
    live: bool
    """whether it goes on whether or not anybody reads: a camera, or an endless network stream; pipes wait"""
    is_file: bool
    """whether it is one, here or at an address: it is as long as it is, and waits to be read"""
    keep: bool = False
    """whether `passed` is wanted; to be set before it is read"""
    passed: Sequence[tuple[float, Any]]
    """all pictures that went by in the last step, each with the seconds at which it begins: PyAV's frames, as decoded"""
    aspect: float = 1.0
    """of a pixel of theirs, its width / height"""

    def __init__(self, source: Source, view: View, reconnect: float = RECONNECT_SECONDS) -> None:
        self._source, self.view, self._reconnect = source, view, reconnect
        self.step_seconds = view.step_seconds
        self.passed = ()
        self._running: weakref.WeakSet[Generator] = weakref.WeakSet()
        self._closed = False
        opening = Opening(source)
        self.duration = opening.duration
        self.has_video, self.has_sound = "video" in opening.streams, "audio" in opening.streams
        self.live = source.format is not None or (opening.endless and source.network)
        self.is_file = not (self.live or source.pipe)
        self._next: Opening | None = opening

    @property
    def name(self) -> str:
        """What is watched, without passwords."""
        return self._source.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all running iterations and release the source."""
        self._closed = True
        for steps in list(self._running):
            with suppress(ValueError):  # it waits for its source in another thread
                steps.close()
        if self._next:
            self._next.close()

    def __iter__(self) -> Iterator[MediaStep]:
        if self._closed:
            raise MediaError(f"{self._source.name} is closed: open it again with open_media")
        if self._next is None and self._source.pipe:
            raise MediaError(f"{self._source.name} has been read: what comes through a pipe can be read only once")
        opening = self._next or Opening(self._source)
        if opening.once:
            self._next = None
        endless = opening.endless and self._source.network
        steps = self._reconnecting(opening) if endless else self._read(opening)
        self._running.add(steps)
        return steps

    def _read(self, opening: Opening) -> Generator[MediaStep, None, None]:
        """The steps of a source that was opened, from 0 on."""
        with opening.tracks() as tracks:
            zero = min((track.head[0] for track in tracks.values() if track.head and track.head[1] is not None), default=0.0)
            for track in tracks.values():
                track.begin_at(zero)
            pictures = Pictures(tracks["video"], self.view, self.keep) if "video" in tracks else None
            sounds = Sounds(tracks["audio"], self.view) if "audio" in tracks else None
            step = 0
            while True:
                start = step * self.step_seconds
                try:
                    frame = pictures.shown(start) if pictures else None
                    sound = sounds.take() if sounds else None
                except av_package().FFmpegError as error:
                    reason = f"its kind cannot be converted ({reason_of(error)})"
                    raise MediaError(f"{self._source.name} breaks off at {start:.2f} s: {reason}") from None
                try:
                    raise_if_broken(list(tracks.values()), start)
                except MediaError as error:
                    if step or not opening.hint:
                        raise
                    raise MediaError(f"{error}, or {opening.hint}") from None
                if frame is None and sound is None and not any(track.head for track in tracks.values()):
                    break
                if pictures:
                    self.passed, self.aspect = pictures.passed, pictures.aspect
                yield MediaStep(start, frame, sound)
                step += 1
            self._judge_end(step, list(tracks.values()), opening)

    def _judge_end(self, steps: int, tracks: list[Track], opening: Opening) -> None:
        """After the last step: was there any, and is the file as long as it states?"""
        if opening.failure and not opening.endless:
            raise MediaError(f"{self._source.name} breaks off at {steps * self.step_seconds:.2f} s: {opening.failure}")
        if steps == 0:
            raise MediaError(f"{self._source.name} has a length of zero: expected pictures or sound in it")
        last = max(tracks, key=lambda track: track.end)
        if opening.stated_end is not None and all(track.stated_end is None for track in tracks):
            last.judge_end(opening.stated_end)
            raise_if_broken([last], np.inf)

    def _reconnecting(self, opening: Opening | None) -> Generator[MediaStep, None, None]:
        """The steps of an endless network stream, over all its connections, and those that were missed between them."""
        name, number, tries, reason = self._source.name, 0, 0, ""
        alive = time.monotonic()
        while True:
            began = number
            try:
                opening = opening or Opening(self._source)
                missed = round((time.monotonic() - alive) / self.step_seconds) if number else 0
                for step in self._read(opening):
                    passed = self.passed
                    for _ in range(missed):
                        self.passed = ()
                        yield MediaStep(number * self.step_seconds, None, None)
                        number += 1
                    missed = 0
                    shift = number * self.step_seconds - step.time
                    self.passed = [(begins + shift, picture) for begins, picture in passed]
                    yield step._replace(time=number * self.step_seconds)
                    number += 1
                    alive = time.monotonic()
                reason = opening.failure or "it ended"
            except MediaError as error:
                reason = str(error)
            opening = None
            tries = 0 if (number - began) * self.step_seconds >= SETTLED_SECONDS else tries
            if tries == 0 and self._reconnect:
                warnings.warn(f"{name} broke off at {number * self.step_seconds:.2f} s ({reason}): trying again", stacklevel=2)
            wait = WAITS[min(tries, len(WAITS) - 1)]
            tries += 1
            if time.monotonic() + wait - alive > self._reconnect:
                break
            time.sleep(wait)
        if not number:
            raise MediaError(reason)
        given_up = f": not reached again within {self._reconnect:g} s" if self._reconnect else ""
        warnings.warn(f"{name} is over at {number * self.step_seconds:.2f} s ({reason}){given_up}", stacklevel=2)
