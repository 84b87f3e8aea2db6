"""What people write for a source, as a `Source`: checked as far as possible without opening it."""

import os
import re
import ssl
import stat
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tokenturing.media.pipe import STANDARD_INPUT
from tokenturing.media.source import MediaError, Source, av_package

WEB, RTSP = "http,https,tcp,tls,httpproxy", "tcp,tls"
PROTOCOLS = {"http": WEB, "https": WEB, "rtsp": RTSP, "rtsps": RTSP}
"""by the beginning of an address: what FFmpeg may speak for it"""
FORMATS = (
    "matroska,webm,mov,mp4,mpegts,mpeg,flv,asf,avi,nut,ogg,wav,w64,flac,mp3,aac,ac3,eac3,aiff,au,caf,amr,ivf,mpjpeg,mjpeg,h264,hevc,"
    "m4v,mpegvideo,yuv4mpegpipe,rtsp"
)
"""FFmpeg's names of what strangers may send: media only, no playlists, which would have us open what they name"""
PLAYLISTS = (".m3u8", ".m3u", ".mpd", ".pls")
WORDS = "a media file, 'camera', '-' for standard input, a named pipe, or an address such as http://... or rtsp://..."


def source_of(source: str | Path, audio_track: int | str | None = None) -> Source:
    """The file, camera, pipe or address.

    Raises:
        MediaError: there is none, or it is something else.
    """
    found = _source(source)
    if audio_track is not None and "audio" not in found.kinds:
        raise MediaError(f"{found.name} has pictures only: there is no sound track {audio_track!r}")
    return found._replace(audio_track=audio_track)


def _source(source: str | Path) -> Source:
    if isinstance(source, str):
        if source == "camera" or source.startswith("camera:"):
            return _camera_of(source)
        if source == STANDARD_INPUT:
            return _standard_input()
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source):
            return _address(source)
    path = Path(source)
    if path.is_dir():
        raise MediaError(f"{path} is a folder: expected a media file, such as one of those in it")
    if not path.exists():
        raise MediaError(f"there is no file {path}: expected {WORDS}")
    if path.is_fifo():
        return _pipe(str(path), str(path))
    if path.is_char_device() and path.resolve().name.startswith("video"):
        return Source(str(path), str(path), "v4l2", ("video",))
    if not path.is_file():
        raise MediaError(f"{path} is a device or socket: expected {WORDS}")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is empty (0 bytes): expected a media file")
    return Source(str(path), f"file:{path}")  # "file:", because FFmpeg takes "a:b.mp4" for a protocol


def _pipe(name: str, path: str) -> Source:
    return Source(name, path, options=(("format_whitelist", FORMATS),), pipe=True)


def _standard_input() -> Source:
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        raise MediaError("standard input is closed: pipe media into it, or name a file") from None
    if stat.S_ISCHR(mode) and os.isatty(0):
        raise MediaError("standard input is a terminal: pipe media into it, or name a file")
    if stat.S_ISREG(mode) and Path("/proc/self/fd/0").exists():  # `- < film.mp4`: a file that may be opened again
        return Source("/dev/stdin", "file:/dev/stdin")
    return _pipe("standard input", STANDARD_INPUT)


def _address(address: str) -> Source:
    """Of a network. Where it has a password, messages do not."""
    name = re.sub(r"//[^/@]*@", "//...@", address)
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise MediaError(f"{name} is no address ({error}): expected one such as http://192.168.1.20:8080/live.ts") from None
    scheme = parts.scheme.lower()
    if scheme not in PROTOCOLS or not host:
        raise MediaError(f"cannot open {name}: expected {WORDS}")
    if parts.path.lower().endswith(PLAYLISTS):
        raise MediaError(
            f"{name} is a playlist, which names other addresses, and these are not followed: expected the stream itself, or "
            f"ffmpeg -i {name} -c copy -f mpegts - | tokenturing stream NAME -"
        )
    options = {"protocol_whitelist": PROTOCOLS[scheme], "format_whitelist": FORMATS, "tls_verify": "1"}
    if authorities := ssl.get_default_verify_paths().cafile:  # FFmpeg as PyAV brings it does not know where they are
        options["ca_file"] = authorities
    if scheme.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # over UDP it would open ports to all the network
    else:
        options |= {"reconnect": "1", "reconnect_delay_max": "5"}  # of a file of known length: goes on where it stopped
    return Source(name, address, options=tuple(options.items()), network=True)


def _camera_of(source: str) -> Source:
    number = source.removeprefix("camera").removeprefix(":") or "0"
    if not (number.isascii() and number.isdecimal() and len(number) < 5):
        raise MediaError(f"{source!r} is not a camera: expected 'camera' or 'camera:N', such as 'camera:1'")
    return Source(f"camera {number}", *_camera(int(number)), ("video",))


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
