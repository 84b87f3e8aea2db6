"""Media files and cameras on the 80 ms clock: a small grey frame and 1280 samples of sound for each step.

PyAV (FFmpeg) reads packet by packet. Picture and sound have a demuxer each, so that memory holds a frame or
two of either, however badly a file interleaves them. Time 0 is the first picture or sound, whatever the clock
of the recording; all times are in seconds.
"""

import sys
import warnings
import weakref
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from tokenturing.errors import MissingExtraError, OptionError, TokenTuringError

STEP_SECONDS = 0.08
RAGGED_SECONDS = 1.0  # damage that costs less is bridged with a warning; more is an error
GAP_SECONDS = 0.04  # sound whose timestamps are off by less is continuous: containers round and jitter
LONGEST_GAP_SECONDS = 3600.0  # a longer jump forward is a damaged timestamp, not a pause
LONGEST_RETURN_SECONDS = 10.0  # so is a longer jump back
ROUNDING_SECONDS = 1e-3  # timestamps are as coarse as this; what outlasts a step by less is no new step
RAGGED_END_SECONDS = 0.2  # an end that is this much earlier than stated is worth a warning
NO_MEDIA = ("tty", "hls", "dash", "concat")  # FFmpeg shows any .txt as text art; playlists open other files
ATTACHED_PICTURE = 0x400  # FFmpeg's flag for it
STREAMED_RIFF = 0x7FFF0000  # sizes from here on are what a writer puts that cannot go back to its header


class MediaError(TokenTuringError):
    """A media file or a camera cannot be opened, or broke off."""


class MediaStep(NamedTuple):
    """80 ms of media. None: that track is absent or has ended, or no picture has come yet."""

    time: float  # seconds at which the step begins; it covers [time, time + 0.08)
    frame: np.ndarray | None  # float32 [frame_size, frame_size], grey in 0..1: shown when the step ends
    sound: np.ndarray | None  # float32 [0.08 * sample_rate], mono in -1..1: heard during the step


def open_media(source: str | Path, *, frame_size: int = 32, sample_rate: int = 16_000) -> "Media":
    """Open a file (mp4, mkv, avi, wav, flac, ...) or a camera ("camera", "camera:1") as `MediaStep`s.

    >>> with open_media("talk.mp4") as media:
    ...     for time, frame, sound in media: ...
    """
    if frame_size < 1:
        raise OptionError(f"frame_size={frame_size} is no size: expected 1 pixel or more")
    if sample_rate < 25 or sample_rate * 2 % 25:
        raise OptionError(
            f"sample_rate={sample_rate} has no whole number of samples in 80 ms: "
            "expected a multiple of 25 Hz, such as 8000, 16000 or 48000"
        )
    return Media(_source(source), frame_size, sample_rate)


class Media:
    """A file or camera: an iterable of `MediaStep` and a context manager; each `iter` begins a file anew."""

    has_video: bool
    has_sound: bool
    duration: float | None  # seconds, as the file states or FFmpeg estimates it; None if unknown

    def __init__(self, source: "_Source", frame_size: int, sample_rate: int) -> None:
        self._source, self._frame_size, self._sample_rate = source, frame_size, sample_rate
        self._running: weakref.WeakSet[Generator] = weakref.WeakSet()
        self._closed = False
        with source.open() as container:
            form = container.format.name
            self._kinds = [kind for kind in source.kinds if _stream(container, kind) is not None]
            if not self._kinds or form in NO_MEDIA:
                found = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
                raise MediaError(
                    f"{source.name} is no picture or sound (FFmpeg found: {found}; format {form})"
                )
            known = not source.format and (container.duration or 0) > 0
            self.duration = container.duration / 1e6 if known else None
            self._stated_end = _stated_end(source, container)
        self.has_video, self.has_sound = "video" in self._kinds, "audio" in self._kinds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every iteration that is under way and let go of the file or camera."""
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
            tracks = {
                kind: stack.enter_context(_Track(self._source, kind, stated_end)) for kind in self._kinds
            }
            zero = min((track.head[0] for track in tracks.values() if track.head), default=0.0)
            for track in tracks.values():
                track.zero = zero
            pictures = _Pictures(tracks["video"], self._frame_size) if self.has_video else None
            sounds = _Sounds(tracks["audio"], self._sample_rate) if self.has_sound else None
            step = 0
            while True:
                start = step * STEP_SECONDS
                try:
                    frame = pictures.shown(start) if pictures else None
                    sound = sounds.take() if sounds else None
                except _av().FFmpegError as error:
                    reason = f"its kind cannot be converted ({_reason(error)})"
                    raise MediaError(f"{self._source.name} breaks off at {start:.2f} s: {reason}") from None
                _raise_if_broken(list(tracks.values()), start)
                if frame is None and sound is None and not any(track.head for track in tracks.values()):
                    break
                yield MediaStep(start, frame, sound)
                step += 1
            self._judge_end(step, list(tracks.values()))

    def _judge_end(self, steps: int, tracks: list["_Track"]) -> None:
        """After the last step: was there anything, and is it as long as the file states?"""
        if steps == 0:
            raise MediaError(f"{self._source.name} has a length of zero: there is no picture or sound in it")
        last = max(tracks, key=lambda track: track.end)
        if self._stated_end is not None and all(track.stated_end is None for track in tracks):
            last.judge_end(self._stated_end)
            _raise_if_broken([last], np.inf)


class _Source(NamedTuple):
    name: str  # for messages
    address: str  # for FFmpeg
    format: str | None = None  # FFmpeg's input device, None for a file
    kinds: tuple[str, ...] = ("video", "audio")

    def open(self) -> Any:
        """An open PyAV container, or a MediaError that says what is wrong."""
        # Titles need not be UTF-8; what poses as a video must not reach the network.
        options: dict[str, str] = {} if self.format else {"protocol_whitelist": "file"}
        if self.format == "avfoundation":
            options["framerate"] = "30"  # its default, 29.97, is one that Apple's own cameras refuse
        try:
            return _av().open(
                self.address, format=self.format, container_options=options, metadata_errors="replace"
            )
        except (_av().FFmpegError, OSError, ValueError) as error:
            raise MediaError(self._why(_reason(error))) from None

    def _why(self, reason: str) -> str:
        if self.format:
            return f"cannot open {self.name}: {reason}; is it connected, free and allowed to this user?"
        is_mp4 = self.head()[4:] == b"ftyp"
        hint = "a damaged mp4 file, or one cut short before its index" if is_mp4 else "no media, or damaged"
        return f"cannot open {self.name}: {reason} ({hint})"

    def head(self) -> bytes:
        """The first 8 bytes of a file, none if it cannot be read."""
        try:
            with open(self.name, "rb") as file:
                return file.read(8)
        except OSError:
            return b""


def _av() -> Any:
    """PyAV, imported when it is first needed: a heavy, optional package."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "media") from None
    return av


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _source(source: str | Path) -> _Source:
    """A checked file or camera."""
    if isinstance(source, str) and (source == "camera" or source.startswith("camera:")):
        number = source.removeprefix("camera").removeprefix(":") or "0"
        if not number.isdecimal():
            raise MediaError(f"{source!r} is no camera: expected 'camera' or 'camera:N', such as 'camera:1'")
        return _Source(f"camera {number}", *_camera(int(number)), ("video",))
    path = Path(source)
    if path.is_dir():
        raise MediaError(f"{path} is a folder: expected a media file, such as one of those in it")
    if not path.exists():
        raise MediaError(f"there is no file {path}")
    if not path.is_file():
        raise MediaError(f"{path} is a pipe or device: expected a media file, or 'camera' for a camera")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is empty (0 bytes)")
    return _Source(str(path), f"file:{path}")  # "file:", because FFmpeg takes "a:b.mp4" for a protocol


def _camera(number: int) -> tuple[str, str]:
    """The n-th camera as FFmpeg knows it: (address, input format)."""
    if sys.platform == "darwin":
        return str(number), "avfoundation"
    if sys.platform == "win32":
        devices = _av().enumerate_input_devices("dshow")
        names = [device.name for device in devices if "video" in device.media_types]
        if number >= len(names):
            raise MediaError(f"there is no camera {number}: Windows knows {len(names)}")
        return f"video={names[number]}", "dshow"
    address = f"/dev/video{number}"
    if not Path(address).exists():
        others = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
        raise MediaError(f"there is no camera {number}: {address} does not exist (there are: {others})")
    return address, "v4l2"


def _stream(container: Any, kind: str) -> Any:
    """The first track of that kind that can be decoded; the cover of a song is no video."""
    for stream in getattr(container.streams, kind):
        cover = getattr(stream, "disposition", 0) & ATTACHED_PICTURE  # PyAV 12 does not tell
        if stream.codec_context is not None and not cover:
            return stream
    return None


def _stated_end(source: _Source, container: Any) -> float | None:
    """Seconds that the file's header promises; None for formats whose length FFmpeg only estimates."""
    stating = any(name in container.format.name for name in ("matroska", "flac", "wav", "avi"))
    if source.format or not stating or not container.duration:
        return None
    # Of a wav or avi file FFmpeg says how long the bytes at hand last; the header, how many there should be.
    head = source.head()
    stated_size = int.from_bytes(head[4:], "little") + 8 if head[:4] == b"RIFF" else 0
    share = stated_size / container.size if stated_size < STREAMED_RIFF else 1.0
    return container.duration / 1e6 * max(share, 1.0)


def _stated_track_end(container: Any, stream: Any) -> float | None:
    """Seconds, on the file's own clock, at which the header says that this track ends."""
    if "mp4" in container.format.name and stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    tag = next((value for key, value in stream.metadata.items() if key.startswith("DURATION")), "")
    try:
        hours, minutes, seconds = (float(part) for part in tag.split(":"))
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds


def _raise_if_broken(tracks: list["_Track"], start: float) -> None:
    """Raise the earliest failure of a track that has nothing left for a step beginning at `start`."""
    failed = [track for track in tracks if track.failure and track.seconds_read <= start + ROUNDING_SECONDS]
    for track in sorted(failed, key=lambda track: track.end):
        raise MediaError(f"{track.label} breaks off at {track.seconds_read:.2f} s: {track.failure}")


class _Track:
    """One track through a demuxer of its own; `head` is the next decoded (time, frame), None after the last.

    Times are on the file's own clock; `zero` is the time on it that users see as 0.
    """

    def __init__(self, source: _Source, kind: str, stated_end: float | None) -> None:
        self._container = source.open()
        self.stream = _stream(self._container, kind)
        self.label = f"the {'picture' if kind == 'video' else 'sound'} of {source.name}"
        self.stated_end = _stated_track_end(self._container, self.stream) or stated_end
        self.zero = 0.0
        self.end = float((self.stream.start_time or 0) * self.stream.time_base)  # up to here all is decoded
        self.failure: str | None = None  # why it broke off, if it did
        self._begun = self._warned = False
        self._damage: str | None = None  # why a packet could not be decoded, until bridged
        self._damage_end = -np.inf  # how far the packets reach that could not be decoded
        self._frames = self._decoded()
        self.head: tuple[float, Any] | None = next(self._frames, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def seconds_read(self) -> float:
        """Where the track has ended so far, as users see it."""
        return max(self.end - self.zero, 0.0)

    def pop(self) -> Any:
        """The frame of the head; the next one moves up."""
        assert self.head is not None
        frame = self.head[1]
        self.head = next(self._frames, None)
        return frame

    def _decoded(self) -> Iterator[tuple[float, Any]]:
        try:
            for packet in self._container.demux(self.stream):
                for frame in self._decode(packet):
                    time = self.end if frame.time is None else frame.time
                    self._judge_gap(time)
                    if self.failure:
                        return
                    end = time + self._length(frame)
                    self.end = max(self.end, end) if self._begun else end
                    self._begun = True
                    yield time, frame
        except _av().FFmpegError as error:
            self._damage = _reason(error)
            self._damage_end = np.inf if self.stated_end is None else self._damage_end
        except IndexError:
            pass  # PyAV stumbles at the end over tracks that appeared midway; this one is through by then
        self.judge_end(self.stated_end)

    def _decode(self, packet: Any) -> list[Any]:
        try:
            return packet.decode()
        except _av().FFmpegError as error:
            self._damage = _reason(error)
            if packet.pts is not None:
                self._damage_end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            return []

    def _length(self, frame: Any) -> float:
        """Seconds that a frame lasts."""
        if hasattr(frame, "samples"):
            return frame.samples / frame.sample_rate
        ticks = getattr(frame, "duration", None)  # PyAV 12 does not tell
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(ticks * frame.time_base) if ticks else float(1 / rate) if rate else STEP_SECONDS

    def _judge_gap(self, time: float) -> None:
        """Before a frame at `time` is taken: a pause, a bridged damage, or the end of what can be trusted?"""
        gap = time - self.end
        if self._begun and not -LONGEST_RETURN_SECONDS <= gap <= LONGEST_GAP_SECONDS:
            self.failure = f"its timestamps jump by {gap:.0f} s; the file is damaged or pieced together"
        elif self._damage and self._begun and gap > RAGGED_SECONDS:
            self.failure = f"{self._damage}; the file is damaged"
        elif self._damage:
            self._warn(f"could not be decoded near {self.seconds_read:.2f} s ({self._damage})")
            self._damage = None

    def judge_end(self, stated_end: float | None) -> None:
        """After the last frame: complete, ragged (a warning) or broken (a failure)?"""
        lost = max(self._damage_end if self._damage else -np.inf, stated_end or -np.inf) - self.end
        if lost > RAGGED_SECONDS:
            reason = self._damage or f"by its header it lasts {lost:.1f} s longer"
            self.failure = f"{reason}; the file is damaged or was cut short"
        elif self._damage or lost > RAGGED_END_SECONDS:
            reason = self._damage or f"by its header it lasts {lost:.1f} s longer"
            self._warn(f"has a ragged end at {self.seconds_read:.2f} s ({reason})")

    def _warn(self, what: str) -> None:
        """Once a track: damage seldom comes alone."""
        if not self._warned:
            warnings.warn(f"{self.label} {what}", stacklevel=2)
        self._warned = True


class _Pictures:
    """A picture track as the frame that is shown at the end of each step."""

    def __init__(self, track: _Track, size: int) -> None:
        from av.video.reformatter import VideoReformatter

        self._track, self._size = track, size
        self._aspect = float(track.stream.sample_aspect_ratio or 1)  # a pixel's width by its height
        self._to_grey, self._to_size = VideoReformatter(), VideoReformatter()
        self._shown: np.ndarray | None = None

    def shown(self, start: float) -> np.ndarray | None:
        """float32 [size, size] for the step from `start` on, None before the first and after the last."""
        end = self._track.zero + start + STEP_SECONDS + 1e-6  # both sides are rounded
        newest = None
        while self._track.head and self._track.head[0] <= end:
            newest = self._track.pop()
        if newest is not None:
            self._shown = self._scaled(newest)
        ended = not self._track.head and self._track.seconds_read <= start + ROUNDING_SECONDS
        return None if ended or self._shown is None else self._shown.copy()

    def _scaled(self, frame: Any) -> np.ndarray:
        """The middle square of a frame, as large as it fits, in grey: float32 [size, size] in 0..1."""
        grey = self._to_grey.reformat(frame, format="gray").to_ndarray()
        height, width = grey.shape
        side = min(height, width * self._aspect)  # in units of a pixel's height
        rows, columns = max(round(side), 1), max(round(side / self._aspect), 1)
        top, left = (height - rows) // 2, (width - columns) // 2
        square = np.ascontiguousarray(grey[top : top + rows, left : left + columns])
        whole = _av().VideoFrame.from_ndarray(square, "gray")
        small = self._to_size.reformat(whole, self._size, self._size, "gray", interpolation="AREA")
        return small.to_ndarray().astype(np.float32) / 255


class _Sounds:
    """A sound track as one block of samples for each step, with silence where the track has none."""

    def __init__(self, track: _Track, rate: int) -> None:
        self._track, self._rate = track, rate
        self._size = rate * 2 // 25
        self._rest = np.zeros(0, np.float32)
        self._pieces = self._placed()

    def take(self) -> np.ndarray | None:
        """The next step's sound, float32 [size]; the last one is filled up with silence, None after it."""
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
        """float32 [n] after float32 [n], each sample where its time puts it: silence in gaps, no overlaps."""
        written = skip = 0  # samples since time 0; samples to drop, for their place is taken
        expected, known, resampler = -np.inf, None, None
        while self._track.head:
            time = self._track.head[0] - self._track.zero
            frame = self._track.pop()
            kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            if kind != known or abs(time - expected) > GAP_SECONDS:
                rest = _resampled(resampler, None)[skip:]
                yield rest
                written += len(rest)
                place = round(time * self._rate)
                yield from self._silence(place - written)
                written, skip = max(written, place), max(written - place, 0)
                # 32-bit integers, because to floats FFmpeg mixes channels down without keeping them below 1.
                resampler = _av().AudioResampler(format="s32", layout="mono", rate=self._rate)
                expected, known = time, kind
            expected += frame.samples / frame.sample_rate
            samples = _resampled(resampler, frame)
            yield samples[skip:]
            written += max(len(samples) - skip, 0)
            skip = max(skip - len(samples), 0)
        yield _resampled(resampler, None)[skip:]

    def _silence(self, samples: int) -> Iterator[np.ndarray]:
        """Step by step: a gap may be long."""
        while samples > 0:
            yield np.zeros(min(samples, self._size), np.float32)
            samples -= self._size


def _resampled(resampler: Any | None, frame: Any | None) -> np.ndarray:
    """What comes out of a resampler for a frame, or (None) its last samples: float32 [n] in -1..1."""
    frames = resampler.resample(frame) if resampler else []
    pieces = [piece.to_ndarray()[0] for piece in frames if piece is not None]
    return np.concatenate([np.zeros(0, np.int32), *pieces]).astype(np.float32) / np.float32(2**31)
