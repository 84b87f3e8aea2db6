"""Files and cameras as FFmpeg opens them, and what their headers promise."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

from tokenturing.errors import MissingExtraError, TokenTuringError

ATTACHED_PICTURE = 0x400  # FFmpeg's flag for it
STREAMED_RIFF = 0x7FFF0000  # sizes from here on are what a writer puts that cannot go back to its header


class MediaError(TokenTuringError):
    """A media file or a camera cannot be opened, or broke off."""


class Source(NamedTuple):
    """Where media come from."""

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
        """The first 8 bytes of a file, none if it cannot be read."""
        try:
            with open(self.name, "rb") as file:
                return file.read(8)
        except OSError:
            return b""


def av_package() -> Any:
    """PyAV, imported when it is first needed: a heavy, optional package."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "media") from None
    return av


def reason_of(error: Exception) -> str:
    """What FFmpeg says of an error."""
    return str(getattr(error, "strerror", None) or error)


def source_of(source: str | Path) -> Source:
    """A checked file or camera."""
    if isinstance(source, str) and (source == "camera" or source.startswith("camera:")):
        number = source.removeprefix("camera").removeprefix(":") or "0"
        if not number.isdecimal():
            raise MediaError(f"{source!r} is no camera: expected 'camera' or 'camera:N', such as 'camera:1'")
        return Source(f"camera {number}", *_camera(int(number)), ("video",))
    path = Path(source)
    if path.is_dir():
        raise MediaError(f"{path} is a folder: expected a media file, such as one of those in it")
    if not path.exists():
        raise MediaError(f"there is no file {path}")
    if not path.is_file():
        raise MediaError(f"{path} is a pipe or device: expected a media file, or 'camera' for a camera")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is empty (0 bytes)")
    return Source(str(path), f"file:{path}")  # "file:", because FFmpeg takes "a:b.mp4" for a protocol


def _camera(number: int) -> tuple[str, str]:
    """The n-th camera as FFmpeg knows it: (address, input format)."""
    if sys.platform == "darwin":
        return str(number), "avfoundation"
    if sys.platform == "win32":
        devices = av_package().enumerate_input_devices("dshow")
        names = [device.name for device in devices if "video" in device.media_types]
        if number >= len(names):
            raise MediaError(f"there is no camera {number}: Windows knows {len(names)}")
        return f"video={names[number]}", "dshow"
    address = f"/dev/video{number}"
    if not Path(address).exists():
        others = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
        raise MediaError(f"there is no camera {number}: {address} does not exist (there are: {others})")
    return address, "v4l2"


def stream_of(container: Any, kind: str) -> Any:
    """The first track of that kind that can be decoded; the cover of a song is no video."""
    for stream in getattr(container.streams, kind):
        cover = getattr(stream, "disposition", 0) & ATTACHED_PICTURE  # PyAV 12 does not tell
        if stream.codec_context is not None and not cover:
            return stream
    return None


def stated_end_of(source: Source, container: Any) -> float | None:
    """Seconds that the file's header promises; None for formats whose length FFmpeg only estimates."""
    stating = any(name in container.format.name for name in ("matroska", "flac", "wav", "avi"))
    if source.format or not stating or not container.duration:
        return None
    # Of a wav or avi file FFmpeg says how long the bytes at hand last; the header, how many there should be.
    head = source.head()
    stated_size = int.from_bytes(head[4:], "little") + 8 if head[:4] == b"RIFF" else 0
    share = stated_size / container.size if stated_size < STREAMED_RIFF else 1.0
    return container.duration / 1e6 * max(share, 1.0)


def stated_track_end(container: Any, stream: Any) -> float | None:
    """Seconds, on the file's own clock, at which the header says that this track ends."""
    if "mp4" in container.format.name and stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    tag = next((value for key, value in stream.metadata.items() if key.startswith("DURATION")), "")
    try:
        hours, minutes, seconds = (float(part) for part in tag.split(":"))
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds
