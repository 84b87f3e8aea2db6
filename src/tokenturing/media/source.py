"""Files and cameras as FFmpeg opens them, and what their headers state."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

from tokenturing.errors import MissingExtraError, TokenTuringError

ATTACHED_PICTURE = 0x400
"""FFmpeg's flag for the cover of a song"""
STREAMED_RIFF = 0x7FFF0000
"""bytes; larger sizes are placeholders of writers that cannot go back to the header"""


class MediaError(TokenTuringError):
    """A media file or a camera cannot be opened, breaks off or cannot be written."""


class Source(NamedTuple):
    """Where media come from."""

    name: str
    """for messages"""
    address: str
    """for FFmpeg"""
    format: str | None = None
    """FFmpeg's input device, None for a file"""
    kinds: tuple[str, ...] = ("video", "audio")

    def open(self) -> Any:
        """An open PyAV container, or a MediaError that says what is wrong."""
        # Titles need not be UTF-8, hence "replace"; a playlist posing as a video must not reach the network.
        options: dict[str, str] = {} if self.format else {"protocol_whitelist": "file"}
        if self.format == "avfoundation":
            options["framerate"] = "30"  # Apple's own cameras refuse its default of 29.97
        try:
            return av_package().open(self.address, format=self.format, container_options=options, metadata_errors="replace")
        except (av_package().FFmpegError, OSError, ValueError) as error:
            raise MediaError(self._why(reason_of(error))) from None

    def _why(self, reason: str) -> str:
        if self.format:
            return f"cannot open {self.name}: {reason}; is it connected, free and allowed to this user?"
        is_mp4 = self.head()[4:] == b"ftyp"
        hint = "a damaged mp4 file, or one cut short before its index" if is_mp4 else "no media, or damaged"
        return f"cannot open {self.name}: {reason} ({hint})"

    def head(self) -> bytes:
        """The first 8 bytes of a file, b"" if it cannot be read."""
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
    return str(getattr(error, "strerror", None) or error)


def source_of(source: str | Path) -> Source:
    """The file or camera, checked as far as possible without opening it."""
    if isinstance(source, str) and (source == "camera" or source.startswith("camera:")):
        number = source.removeprefix("camera").removeprefix(":") or "0"
        if not number.isdecimal():
            raise MediaError(f"{source!r} is not a camera: expected 'camera' or 'camera:N', such as 'camera:1'")
        return Source(f"camera {number}", *_camera(int(number)), ("video",))
    path = Path(source)
    if path.is_dir():
        raise MediaError(f"{path} is a folder: expected a media file, such as one of those in it")
    if not path.exists():
        raise MediaError(f"there is no file {path}: expected a media file")
    if not path.is_file():
        raise MediaError(f"{path} is a pipe or device: expected a media file, or 'camera' for a camera")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is empty (0 bytes): expected a media file")
    return Source(str(path), f"file:{path}")  # "file:", because FFmpeg takes "a:b.mp4" for a protocol


def _camera(number: int) -> tuple[str, str]:
    """FFmpeg's (address, input format) of the n-th camera."""
    if sys.platform == "darwin":
        return str(number), "avfoundation"
    if sys.platform == "win32":
        devices = av_package().enumerate_input_devices("dshow")
        names = [device.name for device in devices if "video" in device.media_types]
        if number >= len(names):
            raise MediaError(f"there is no camera {number}: Windows lists {len(names)}, counted from 0")
        return f"video={names[number]}", "dshow"
    address = f"/dev/video{number}"
    if not Path(address).exists():
        others = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
        raise MediaError(f"there is no camera {number}: {address} does not exist (there are: {others})")
    return address, "v4l2"


def stream_of(container: Any, kind: str) -> Any:
    """The first track of a kind that can be decoded, not counting a song's cover; None if there is none."""
    for stream in getattr(container.streams, kind):
        cover = getattr(stream, "disposition", 0) & ATTACHED_PICTURE  # PyAV 12 lacks it
        if stream.codec_context is not None and not cover:
            return stream
    return None


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
