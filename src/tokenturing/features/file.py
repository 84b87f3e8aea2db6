"""The features of a video as a file."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokenturing.errors import CheckpointError
from tokenturing.files import write_file

FORMAT_VERSION = 1
ENDING = ".safetensors"
LARGEST = 2**33
"""bytes of a file"""
LARGEST_HEADER = 2**20
KIND = "features that tokenturing features wrote"
TYPES = {"features": ("F32", 3), "times": ("F64", 1), "sound": ("F32", 2)}
"""of the arrays: safetensors' name of the type, and how many axes"""


class Source(NamedTuple):
    """What features were made by; others can be made like them."""

    encoder: str
    hash: str
    """of its weights and of how pictures are prepared"""
    rate: float
    """steps a second"""
    grid: int
    """1: a token a step; n: n x n"""


class Video(NamedTuple):
    """What features were made of."""

    name: str
    size: int
    """bytes of the file"""
    duration: float
    """seconds"""
    sound: str
    """ "no": was not asked for; "yes"; "none": the video has none"""


class Features(NamedTuple):
    """A video, step by step."""

    features: np.ndarray
    """float32 [T, N, F]"""
    times: np.ndarray
    """float64 [T], seconds at which the steps end: each saw the newest picture of that time"""
    sound: np.ndarray | None
    """float32 [T, F2], the newest embedding of that time"""
    source: Source
    video: Video


def write_features(file: Path, found: Features) -> None:
    """Write a file, whole or not at all."""
    from safetensors.numpy import save

    arrays = {"features": found.features, "times": found.times}
    if found.sound is not None:
        arrays["sound"] = found.sound
    about = {
        "format_version": str(FORMAT_VERSION),
        "kind": "features",
        **{key: str(value) for key, value in found.source._asdict().items()},
        **{f"video_{key}": str(value) for key, value in found.video._asdict().items()},
    }
    write_file(file, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, about))


def read_features(file: str | Path) -> Features:
    """A file that `write_features` wrote, checked.

    Raises:
        CheckpointError: it is damaged or foreign.
    """
    file = Path(file)
    with _Opened(file) as opened:
        source, video = opened.about()
        arrays = opened.arrays(source, video)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise _foreign(file, f"{name} has NaN or infinite numbers")
    if len(arrays["times"]) and not (np.diff(arrays["times"]) > 0).all():
        raise _foreign(file, "times do not ascend")
    return Features(arrays["features"], arrays["times"], arrays.get("sound"), source, video)


def about_features(file: str | Path) -> tuple[Source, Video]:
    """What a file says of itself; its arrays are not read, only their shapes.

    Raises:
        CheckpointError: it is damaged or foreign.
    """
    with _Opened(Path(file)) as opened:
        source, video = opened.about()
        opened.check(source, video)
    return source, video


class _Opened:
    """A file whose header was read."""

    def __init__(self, file: Path):
        from safetensors import SafetensorError, safe_open

        self.file = file
        if not file.is_file():
            raise CheckpointError(f"there is no file {file}: expected {KIND}")
        if (size := file.stat().st_size) > LARGEST:
            raise _foreign(file, f"it has {size} bytes, more than {LARGEST}")
        with file.open("rb") as content:
            if int.from_bytes(content.read(8), "little") > LARGEST_HEADER:
                raise _foreign(file, "its header is too long")
        try:
            self._content = safe_open(str(file), framework="numpy").__enter__()
        except (SafetensorError, OSError, ValueError) as error:
            raise _foreign(file, str(error)) from error

    def __enter__(self) -> "_Opened":
        return self

    def __exit__(self, *about: Any) -> None:
        self._content.__exit__(*about)

    def about(self) -> tuple[Source, Video]:
        found = self._content.metadata() or {}
        if found.get("kind") != "features":
            raise _foreign(self.file, "it does not say that it holds features")
        if found.get("format_version") != str(FORMAT_VERSION):
            raise CheckpointError(
                f"{self.file} has the format version {found.get('format_version')}: expected {FORMAT_VERSION}; use a newer "
                "tokenturing, or make the features again"
            )
        try:
            source = Source(found["encoder"], found["hash"], float(found["rate"]), int(found["grid"]))
            length = float(found["video_duration"])
            video = Video(found["video_name"], int(found["video_size"]), length, found["video_sound"])
        except (KeyError, ValueError) as error:
            raise _foreign(self.file, f"its header lacks {error}") from error
        if not (math.isfinite(source.rate) and source.rate > 0 and source.grid > 0 and math.isfinite(length) and length >= 0):
            raise _foreign(self.file, f"rate {source.rate}, grid {source.grid} and duration {length} cannot be")
        if video.sound not in ("no", "yes", "none"):
            raise _foreign(self.file, f"sound is {video.sound!r}")
        return source, video

    def check(self, source: Source, video: Video) -> dict[str, list[int]]:
        """The shapes of the arrays, which have to fit each other."""
        wanted = {name for name in TYPES if name != "sound" or video.sound == "yes"}
        if set(self._content.keys()) != wanted:
            there = ", ".join(sorted(self._content.keys())[:10]) or "nothing"
            raise _foreign(self.file, f"it holds {there}, not {', '.join(sorted(wanted))}")
        shapes = {}
        for name in sorted(wanted):
            part = self._content.get_slice(name)
            shapes[name], dtype = list(part.get_shape()), part.get_dtype()
            if (dtype, len(shapes[name])) != TYPES[name]:
                raise _foreign(self.file, f"{name} is {dtype} {shapes[name]}")
        if len({shape[0] for shape in shapes.values()}) > 1 or shapes["features"][1] != source.grid**2:
            raise _foreign(self.file, f"the shapes {shapes} do not fit each other and the grid {source.grid}")
        return shapes

    def arrays(self, source: Source, video: Video) -> dict[str, np.ndarray]:
        return {name: self._content.get_tensor(name) for name in self.check(source, video)}


def _foreign(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{file} cannot be read ({reason}): expected {KIND}")


def expected_bytes(seconds: float, rate: float, tokens: int, width: int) -> int:
    """Of the features of a video."""
    return math.ceil(Fraction(seconds) * Fraction(rate)) * (4 * tokens * width + 8)
