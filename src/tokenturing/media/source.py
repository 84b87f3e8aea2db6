"""Where pictures and sound come from, as FFmpeg opens it: a file, a camera, a pipe or an address in a network."""

from typing import Any, NamedTuple

from tokenturing.errors import MissingExtraError, TokenTuringError
from tokenturing.media.pipe import Pipe

STREAMED_RIFF = 0x7FFF0000
"""bytes; larger sizes are placeholders of writers that cannot go back to the header"""
OPEN_SECONDS, READ_SECONDS = 20.0, 15.0
"""for which a network source may keep silent, at first and later, before it counts as broken off"""

IN_ORDER = "of mp4, only the fragmented kind and that with its index in front can; mpegts and mkv can always"
WHOLE = (
    "its index may stand at the end, which a server that sends no parts of files (ranges) does not let us read first: fetch the "
    "whole file and watch that, or put the index in front (fast start: ffmpeg -i IN.mp4 -c copy -movflags +faststart OUT.mp4)"
)
"""what may be wrong with an mp4 at an address"""


class MediaError(TokenTuringError):
    """Media cannot be opened, break off or cannot be written."""


class Source(NamedTuple):
    """Where media come from."""

    name: str
    """for messages"""
    address: str
    """for FFmpeg"""
    format: str | None = None
    """FFmpeg's input device, None for a file"""
    kinds: tuple[str, ...] = ("video", "audio")
    audio_track: int | str | None = None
    """which sound track: its number from 1, or its language; None: the default one"""
    options: tuple[tuple[str, str], ...] = ()
    """for FFmpeg, besides those of `open`"""
    pipe: bool = False
    """whether it is read by Python, once and in order"""
    network: bool = False

    def open(self, pipe: Pipe | None = None) -> Any:
        """An open PyAV container, or a MediaError that says what is wrong; a pipe is opened before and closed after."""
        # Titles need not be UTF-8, hence "replace"; a playlist posing as a video must not reach the network.
        options = {} if self.format else {"protocol_whitelist": "file"}
        if self.format == "avfoundation":
            options["framerate"] = "30"  # Apple's own cameras refuse its default of 29.97
        options |= dict(self.options)
        timeout = (OPEN_SECONDS, READ_SECONDS) if self.network else None
        av = av_package()
        file = pipe or self.address
        try:
            return av.open(file, format=self.format, container_options=options, metadata_errors="replace", timeout=timeout)
        except (av.FFmpegError, OSError, ValueError) as error:
            if pipe:
                pipe.check()
            raise MediaError(self._why(reason_of(error))) from None

    def _why(self, reason: str) -> str:
        if self.format:
            return f"cannot open {self.name}: {reason}; is it connected, free and allowed to this user?"
        if self.network:
            return f"cannot open {self.name}: {reason}; is the address right, and does it send pictures or sound now?"
        if self.pipe:
            return f"cannot open {self.name}: {reason} (nothing came, or no media that can be read in order: {IN_ORDER})"
        is_mp4 = self.head()[4:] == b"ftyp"
        hint = "a damaged mp4 file, or one cut short before its index" if is_mp4 else "no media, or damaged"
        return f"cannot open {self.name}: {reason} ({hint})"

    def head(self) -> bytes:
        """The first 8 bytes of a file, b"" if it cannot be read or is none."""
        if self.pipe or self.network:
            return b""
        try:
            with open(self.name, "rb") as file:
                return file.read(8)
        except OSError:
            return b""


def av_package() -> Any:
    """PyAV, a heavy and optional package, imported on first use."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "media") from None
    return av


def reason_of(error: Exception) -> str:
    """FFmpeg's words for an error."""
    if type(error).__name__ == "ExitError":
        return "nothing came for too long"
    return str(getattr(error, "strerror", None) or error)


def stream_of(container: Any, kind: str, audio_track: int | str | None = None) -> Any:
    """The track of a kind to watch or hear, None if there is none that can be decoded.

    The one that the file marks as its default, not a commentary nor a song's cover; the first of several such ones. Of sound
    tracks another one can be chosen.

    Raises:
        MediaError: there is no such sound track.
    """
    streams = list(getattr(container.streams, kind))
    if kind == "audio" and audio_track is not None:
        return _chosen(streams, audio_track)
    usable = [stream for stream in streams if stream.codec_context is not None and not _marks(stream, *COVERS)]
    return max(usable, key=lambda stream: (_marks(stream, "default"), not _marks(stream, *ASIDE)), default=None)


COVERS = ("attached_pic", "timed_thumbnails", "still_image")
ASIDE = ("comment", "hearing_impaired", "visual_impaired", "dub", "karaoke", "dependent", "descriptions")
"""FFmpeg's words for tracks that are no picture to watch, and for those beside the main one"""


def _marks(stream: Any, *names: str) -> bool:
    """Whether a track bears any of these marks of FFmpeg's."""
    marks = getattr(stream, "disposition", None)  # PyAV 12 lacks it
    return marks is not None and any(marks & getattr(type(marks), name, 0) for name in names)


def _chosen(streams: list[Any], wanted: int | str) -> Any:
    for number, stream in enumerate(streams, start=1):
        if wanted in (number, str(number), stream.metadata.get("language")) and stream.codec_context is not None:
            return stream
    there = ", ".join(f"{number} ({_described(stream)})" for number, stream in enumerate(streams[:20], start=1)) or "none"
    raise MediaError(f"there is no sound track {wanted!r}: expected its number or its language; there are: {there}")


def _described(stream: Any) -> str:
    """A track's language and title, or its codec."""
    parts = [stream.metadata.get(key, "")[:40] for key in ("language", "title")]
    return ", ".join(part for part in parts if part) or getattr(stream.codec_context, "name", "not to be decoded")


def stated_end_of(source: Source, container: Any) -> float | None:
    """Duration in seconds as stated in the file's header; None for formats whose duration FFmpeg only estimates."""
    states_length = any(name in container.format.name for name in ("matroska", "flac", "wav", "avi"))
    if source.format or not states_length or not container.duration:
        return None
    # For wav and avi, FFmpeg's duration is that of the bytes in the file; the header says how many there should be.
    head = source.head()
    stated_size = int.from_bytes(head[4:], "little") + 8 if head[:4] == b"RIFF" else 0
    share = stated_size / container.size if stated_size < STREAMED_RIFF else 1.0
    return container.duration / 1e6 * max(share, 1.0)


def stated_track_end(container: Any, stream: Any) -> float | None:
    """End of this track as stated in the header, in seconds on the file's own clock; None if not stated."""
    if "mp4" in container.format.name and stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    tag = next((value for key, value in stream.metadata.items() if key.startswith("DURATION")), "")
    try:
        hours, minutes, seconds = (float(part) for part in tag.split(":"))
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds
