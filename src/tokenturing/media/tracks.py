"""One track of a file through a demuxer of its own, as the picture or the sound of each step."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from tokenturing.media.clock import STEP_SECONDS
from tokenturing.media.demuxing import Feed
from tokenturing.media.orientation import orientation_of
from tokenturing.media.source import MediaError, av_package, reason_of, stated_track_end
from tokenturing.media.view import View

RAGGED_SECONDS = 1.0
"""damage shorter than this is bridged with a warning; longer damage is an error"""
GAP_SECONDS = 0.04
"""sound whose timestamps are off by less counts as continuous: containers round and jitter"""
LONGEST_GAP_SECONDS = 3600.0
"""a longer jump forward is a damaged timestamp, not a pause"""
LONGEST_RETURN_SECONDS = 10.0
"""a longer jump back is a damaged timestamp"""
LONGEST_LIVE_GAP_SECONDS = 10.0
"""of an endless source: a longer jump forward, or one back of RAGGED_SECONDS, is a clock that was set anew: time goes on"""
ROUNDING_SECONDS = 1e-3
"""rounding of timestamps; less than this beyond a step does not make another step"""
RAGGED_END_SECONDS = 0.2
"""an end earlier than stated by this much gets a warning"""


def raise_if_broken(tracks: list["Track"], start: float) -> None:
    """Raise the earliest failure of a track that has nothing left for a step beginning at `start`."""
    failed = [track for track in tracks if track.failure and track.seconds_read <= start + ROUNDING_SECONDS]
    for track in sorted(failed, key=lambda track: track.end):
        raise MediaError(f"{track.label} breaks off at {track.seconds_read:.2f} s: {track.failure}")


class Track:
    """One track; `head` is the next decoded (time, frame), None after the last. No frame: there is nothing before that time.

    Times are on the file's own clock; `zero` is the time on it that callers see as 0.

    Args:
        feed: its packets.
        label: what to call it in messages.
        stated_end: of the file, where it states one.
        endless: whether damage and clocks that are set anew are passed over, since there is no whole to be part of.
    """

    def __init__(self, feed: Feed, label: str, stated_end: float | None, endless: bool = False) -> None:
        self._feed, self._endless = feed, endless
        self.stream, self.label = feed.stream, label
        self.stated_end = stated_track_end(feed.container, feed.stream) or stated_end
        self.zero = self._shift = 0.0
        self.end = float((self.stream.start_time or 0) * self.stream.time_base)  # all before it is decoded
        self.failure: str | None = None  # why the track breaks off, if it does
        self._begun = self._warned = self._filled = False
        self._damage: str | None = None  # why packets could not be decoded, until bridged
        self._damage_end = -np.inf  # end of the last packet that could not be decoded
        self._frames = self._decoded()
        self.head: tuple[float, Any] | None = next(self._frames, None)

    def close(self) -> None:
        """Part with its packets."""
        self._feed.close()

    def begin_at(self, zero: float) -> None:
        """Set the time that callers see as 0; a track of which nothing has come yet is silent from there on."""
        self.zero = zero
        if self.head and self.head[1] is None:
            self.head, self.end, self._begun = (zero, None), zero, True

    @property
    def seconds_read(self) -> float:
        """End of what was read so far, on the callers' clock."""
        return max(self.end - self.zero, 0.0)

    def pop(self) -> Any:
        """Take the frame of the head and decode the next one."""
        assert self.head is not None
        frame = self.head[1]
        self.head = next(self._frames, None)
        return frame

    def _decoded(self) -> Iterator[tuple[float, Any]]:
        try:
            for packet in self._feed.packets():
                if packet is None:
                    self.end += STEP_SECONDS
                    self._filled = True
                    yield self.end, None
                    continue
                for frame in self._decode(packet):
                    time = self._time_of(frame)
                    self._judge_gap(time)
                    if self.failure:
                        return
                    end = time + self._length(frame)
                    self.end = max(self.end, end) if self._begun else end
                    self._begun = True
                    yield time, frame
        except av_package().FFmpegError as error:
            self._damage = reason_of(error)
            self._damage_end = np.inf if self.stated_end is None else self._damage_end
        except IndexError:
            pass  # PyAV fails so at the end of files in which other tracks appear midway; this one is complete by then
        self.judge_end(self.stated_end)

    def _time_of(self, frame: Any) -> float:
        """When it begins; of an endless source on a clock that never jumps far."""
        time = self.end if frame.time is None else frame.time + self._shift
        gap, back = time - self.end, LONGEST_LIVE_GAP_SECONDS if self._filled else RAGGED_SECONDS
        if self._endless and self._begun and not -back <= gap <= LONGEST_LIVE_GAP_SECONDS:
            self._shift -= gap
            time = self.end
        if self._filled and time < self.end - RAGGED_SECONDS:
            self._warn(
                f"lags {self.end - time:.1f} s behind the other track at {self.seconds_read:.2f} s and is left out as long"
            )
        self._filled = False
        return time

    def _decode(self, packet: Any) -> list[Any]:
        try:
            return packet.decode()
        except av_package().FFmpegError as error:
            self._damage = reason_of(error)
            if packet.pts is not None:
                self._damage_end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            return []

    def _length(self, frame: Any) -> float:
        """Duration of a frame in seconds."""
        if hasattr(frame, "samples"):
            return frame.samples / frame.sample_rate
        ticks = getattr(frame, "duration", None)  # PyAV 12 lacks it
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(ticks * frame.time_base) if ticks else float(1 / rate) if rate else STEP_SECONDS

    def _judge_gap(self, time: float) -> None:
        """Before a frame at `time` is taken: is it after a pause or bridged damage, or can the file no longer be trusted?"""
        gap = time - self.end
        if self._begun and not -LONGEST_RETURN_SECONDS <= gap <= LONGEST_GAP_SECONDS:
            self.failure = f"its timestamps jump by {gap:.0f} s; the file is damaged or pieced together"
        elif self._damage and self._begun and gap > RAGGED_SECONDS and not self._endless:
            self.failure = f"{self._damage}; the file is damaged"
        elif self._damage:
            self._warn(f"could not be decoded near {self.seconds_read:.2f} s ({self._damage})")
            self._damage = None

    def judge_end(self, stated_end: float | None) -> None:
        """After the last frame: is the track complete, ragged (a warning) or broken (a failure)?"""
        if self._endless:
            return
        lost = max(self._damage_end if self._damage else -np.inf, stated_end or -np.inf) - self.end
        if lost > RAGGED_SECONDS:
            reason = self._damage or f"its header states {lost:.1f} s more"
            self.failure = f"{reason}; the file is damaged or was cut short"
        elif self._damage or lost > RAGGED_END_SECONDS:
            reason = self._damage or f"its header states {lost:.1f} s more"
            self._warn(f"has a ragged end at {self.seconds_read:.2f} s ({reason})")

    def _warn(self, what: str) -> None:
        """Warn once per track: damage seldom comes alone."""
        if not self._warned:
            warnings.warn(f"{self.label} {what}", stacklevel=2)
        self._warned = True


class Pictures:
    """A picture track as the frame shown at the end of each step.

    Args:
        track: of pictures.
        view: which frames are wanted.
        keep: whether `passed` is wanted.
    """

    def __init__(self, track: Track, view: View, keep: bool = False) -> None:
        from av.video.reformatter import VideoReformatter

        self._track, self._view, self._keep = track, view, keep
        self.aspect = float(track.stream.sample_aspect_ratio or 1)
        """of a pixel, its width / height, as stored"""
        self._to_format, self._to_size = VideoReformatter(), VideoReformatter()
        self._shown: np.ndarray | None = None
        self.passed: list[tuple[float, Any]] = []
        """when each picture of the last step began, and the picture, as decoded"""

    def shown(self, start: float) -> np.ndarray | None:
        """float32 [size, size], or [size, size, 3] in colour, in 0..1 for the step that begins at `start`.

        None before the first frame and after the last.
        """
        end = self._track.zero + start + self._view.step_seconds + 1e-6  # both sides are rounded
        newest, self.passed = None, []
        while self._track.head and self._track.head[0] <= end:
            time = self._track.head[0] - self._track.zero
            newest = (frame := self._track.pop()) or newest
            if self._keep and frame:
                self.passed.append((time, frame))
        if newest is not None:
            self._shown = self._scaled(newest)
        ended = not self._track.head and self._track.seconds_read <= start + ROUNDING_SECONDS
        return None if ended or self._shown is None else self._shown.copy()

    def _scaled(self, frame: Any) -> np.ndarray:
        """The centred square of a frame."""
        colour, size = self._view.colour, self._view.frame_size
        form = "rgb24" if colour else "gray"
        picture = self._to_format.reformat(frame, format=form).to_ndarray()
        height, width = picture.shape[:2]
        side = min(height, width * self.aspect) * self._view.crop  # in pixel heights
        rows, columns = max(round(side), 1), max(round(side / self.aspect), 1)
        top, left = (height - rows) // 2, (width - columns) // 2
        square = np.ascontiguousarray(picture[top : top + rows, left : left + columns])
        whole = av_package().VideoFrame.from_ndarray(square, form)
        # Encoders of colour pictures were trained on those that bicubic interpolation made.
        small = self._to_size.reformat(whole, size, size, form, interpolation="BICUBIC" if colour else "AREA")
        return orientation_of(frame).apply(small.to_ndarray()).astype(np.float32) / 255


class Sounds:
    """A sound track as one block of samples for each step, with silence where the track has none."""

    def __init__(self, track: Track, view: View) -> None:
        self._track, self._rate, self._size = track, view.sample_rate, view.step_samples
        self._rest = np.zeros(0, np.float32)
        self._pieces = self._placed()

    def take(self) -> np.ndarray | None:
        """The next step's sound, float32 [size]; the last step is padded with silence, None after it."""
        parts, count = [self._rest], len(self._rest)
        while count < self._size and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            count += len(piece)
        if count <= self._rate * ROUNDING_SECONDS:
            return None
        parts.append(np.zeros(max(self._size - count, 0), np.float32))
        sound = np.concatenate(parts)
        self._rest = sound[self._size :].copy()
        return sound[: self._size].copy()

    def _placed(self) -> Iterator[np.ndarray]:
        """Pieces float32 [n] that put each sample at its time: silence in gaps, no overlaps."""
        written = skip = 0  # samples since time 0; samples to drop because their place is taken
        expected, known, resampler = -np.inf, None, None
        while self._track.head:
            time = self._track.head[0] - self._track.zero
            frame = self._track.pop()
            if frame is None:
                yield from self._silence(round(time * self._rate) - written)
                written = max(written, round(time * self._rate))
                continue
            kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            if kind != known or abs(time - expected) > GAP_SECONDS:
                rest = _resampled(resampler, None)[skip:]
                yield rest
                written += len(rest)
                place = round(time * self._rate)
                yield from self._silence(place - written)
                written, skip = max(written, place), max(written - place, 0)
                # 32-bit integers, because FFmpeg's mixdown to floats can exceed 1.
                resampler = av_package().AudioResampler(format="s32", layout="mono", rate=self._rate)
                expected, known = time, kind
            expected += frame.samples / frame.sample_rate
            samples = _resampled(resampler, frame)
            yield samples[skip:]
            written += max(len(samples) - skip, 0)
            skip = max(skip - len(samples), 0)
        yield _resampled(resampler, None)[skip:]

    def _silence(self, samples: int) -> Iterator[np.ndarray]:
        """Silence in pieces of at most a step: a gap may be long."""
        while samples > 0:
            yield np.zeros(min(samples, self._size), np.float32)
            samples -= self._size


def _resampled(resampler: Any | None, frame: Any | None) -> np.ndarray:
    """The output of a resampler for a frame, or its last samples for None: float32 [n] in -1..1."""
    frames = resampler.resample(frame) if resampler else []
    pieces = [piece.to_ndarray()[0] for piece in frames if piece is not None]
    return np.concatenate([np.zeros(0, np.int32), *pieces]).astype(np.float32) / np.float32(2**31)
