"""The features of one video."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tokenturing.features.file import LARGEST, Features, Source, Video
from tokenturing.features.frozen import Encoder, Tokens, view_of
from tokenturing.media.source import MediaError
from tokenturing.media.steps import Media, open_media
from tokenturing.media.view import View

if TYPE_CHECKING:
    from tokenturing.encoders.sound import SpeechEmbedding


def source_of(encoder: Encoder, rate: float, grid: int) -> Source:
    """What features of this encoder are said to be made by."""
    return Source(encoder.name, encoder.hash, float(rate), grid)


def extract(
    video: Path,
    encoder: Encoder,
    *,
    rate: float = 4.0,
    grid: int = 1,
    sound: bool = False,
    advanced: Callable[[float], None] | None = None,
) -> Features:
    """Decode a video and encode the newest picture of each step.

    Args:
        video: a file.
        encoder: frozen.
        rate: steps a second.
        grid: 1: one token a step, n: n x n.
        sound: whether the speech embedding of its sound is made too.
        advanced: called with the seconds of video done after each step.

    Raises:
        MediaError: it cannot be read to its end, or has no pictures.
    """
    tokens, view = Tokens(encoder, grid), view_of(encoder, rate, sound)
    rows: list[np.ndarray] = []
    heard: list[np.ndarray] = []
    total = 0
    with open_media(video, **view._asdict()) as media:
        if not media.has_video:
            raise MediaError(f"{video} has no picture (only sound): expected a video")
        ears = Ears(view) if sound and media.has_sound else None
        for step in media:
            if step.frame is None and rows and rows[-1].any():  # the pictures are over, and only sound goes on
                break
            rows.append(tokens.take(step.frame))
            if ears:
                heard.append(ears.take(step.sound))
            total += rows[-1].nbytes
            if total > LARGEST // 2:
                raise MediaError(f"{video} is too long: its features have more than {LARGEST // 2} bytes; make fewer, or cut it")
            if advanced:
                advanced(min(step.time + media.step_seconds, media.duration or np.inf))
        duration = _duration(media, len(rows))
    times = (1 + np.arange(len(rows))) * media.step_seconds
    about = Video(video.name, video.stat().st_size, duration, "yes" if heard else "none" if sound else "no")
    return Features(np.stack(rows), times, np.stack(heard) if heard else None, source_of(encoder, rate, grid), about)


def _duration(media: Media, steps: int) -> float:
    """Seconds, as the file states; what was read where it does not."""
    return media.duration or steps * media.step_seconds


class Ears:
    """The newest speech embedding at the end of each step, however long a step is.

    Args:
        view: of the media that are heard.
    """

    def __init__(self, view: View):
        from tokenturing.encoders.sound import STEP_SAMPLES, shared_embedding

        self._embedding: SpeechEmbedding = shared_embedding()
        self._block, self._samples = STEP_SAMPLES, view.step_samples
        vectors, self._state = self._embedding.advance(np.zeros(STEP_SAMPLES, np.float32), self._embedding.initial_state())
        self._vector, self._rest = vectors[0], np.zeros(0, np.float32)

    def take(self, sound: np.ndarray | None) -> np.ndarray:
        """Samples float32 [step_samples], None for silence -> float32 [F2]."""
        came = np.concatenate([self._rest, np.zeros(self._samples, np.float32) if sound is None else sound])
        whole = len(came) // self._block * self._block
        vectors, self._state = self._embedding.advance(came[:whole], self._state)
        self._rest = came[whole:]
        if len(vectors):
            self._vector = vectors[-1]
        return self._vector
