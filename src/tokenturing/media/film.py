"""Pictures of any times as a video file, written whole or not at all."""

from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np

from tokenturing.errors import OptionError
from tokenturing.files.aside import aside
from tokenturing.media.source import MediaError, av_package, reason_of
from tokenturing.media.writer import ENDINGS

TIME_BASE = Fraction(1, 90_000)
"""of the times in the file, seconds"""
CODECS: tuple[tuple[str, dict[str, str]], ...] = (("libx264", {"preset": "ultrafast", "crf": "23"}), ("mpeg4", {"qscale": "3"}))
"""of which the first one that is there is used"""


class Film:
    """A context manager; the file is there once it is left without an error, or by Ctrl-C.

    Args:
        path: of the file.
        rate: pictures a second, about.

    Raises:
        OptionError: the name is none of a video.
    """

    def __init__(self, path: Path, rate: float = 25.0):
        if path.suffix.lower() not in ENDINGS:
            raise OptionError(f"cannot write {path} as a video: expected a name that ends in {', '.join(ENDINGS)}")
        self.path, self._rate = path, Fraction(rate).limit_denominator(1001)
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> Self:
        target = self.path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        self._aside = aside(target, folder=False)
        self._partial = self._aside.__enter__()
        self._target = target
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            if self._container:
                self._finish()
                if kind is None or issubclass(kind, KeyboardInterrupt | GeneratorExit):
                    self._partial.replace(self._target)
        finally:
            self._aside.__exit__(None, None, None)

    def add(self, seconds: float, picture: np.ndarray) -> None:
        """A picture uint8 [H, W, 3], red, green and blue, that is shown from then on; all have the same even sizes."""
        av = av_package()
        try:
            if self._container is None:
                self._open(av, *picture.shape[:2])
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
            self._last = max(round(seconds / TIME_BASE), self._last + 1)
            frame.pts, frame.time_base = self._last, TIME_BASE
            self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"cannot write {self.path}: {reason_of(error)}") from error

    def _open(self, av: Any, height: int, width: int) -> None:
        form = {".mkv": "matroska"}.get(self.path.suffix.lower(), self.path.suffix.lower()[1:])
        codec, options = next(pair for pair in CODECS if pair[0] in av.codecs_available)
        self._container = av.open(str(self._partial), "w", format=form)
        self._stream = self._container.add_stream(codec, rate=self._rate, options=options)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        self._stream.codec_context.time_base = TIME_BASE

    def _finish(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._container = None
