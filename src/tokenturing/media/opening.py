"""A source that was opened: what is in it, and its tracks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokenturing.media.demuxing import Alone, Part, Shared
from tokenturing.media.pipe import Pipe
from tokenturing.media.source import IN_ORDER, WHOLE, MediaError, Source, stated_end_of, stream_of
from tokenturing.media.tracks import Track

NO_MEDIA = ("tty", "hls", "dash", "concat")
"""formats of FFmpeg's that are refused: text shown as pictures, and playlists, which open other files"""
MOST_PIXELS = 2**26
"""of a picture, 8192 x 8192: whoever sends one says how large it is"""


class Opening:
    """What is found when a source is opened. What can be read only once stays open, until its tracks have ended.

    Raises:
        MediaError: it cannot be opened, or there is neither picture nor sound in it.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.hint = f"cannot be read in order: {IN_ORDER}" if source.pipe else ""
        """what else may be wrong where not even its first step can be read"""
        self._pipe = Pipe(source.address) if source.pipe else None
        self._shared: Shared | None = None
        container = None
        try:
            container = source.open(self._pipe)
            self.streams = self._found(container)
            if source.network and "mp4" in container.format.name:
                self.hint = WHOLE
            known = not source.format and (container.duration or 0) > 0
            self.duration: float | None = container.duration / 1e6 if known else None
            self.endless = (source.pipe or source.network) and not known and container.size < 0
            self._stated_end = None if self.endless else stated_end_of(source, container)
        except BaseException:
            self._close(container)
            raise
        if source.pipe or self.endless:
            self._shared = Shared(container, self.streams, self.endless, self._pipe)
        else:
            container.close()

    @property
    def stated_end(self) -> float | None:
        """The file's end as its header states it, in seconds."""
        return self._stated_end

    @property
    def once(self) -> bool:
        """Whether it can be read only once."""
        return self._shared is not None

    @property
    def failure(self) -> str | None:
        """Why what is read only once broke off, if it did."""
        return self._shared.failure if self._shared else None

    def _found(self, container: Any) -> dict[str, Any]:
        name, form = self.source.name, container.format.name
        streams = {kind: stream_of(container, kind, self.source.audio_track) for kind in self.source.kinds}
        streams = {kind: stream for kind, stream in streams.items() if stream is not None}
        if not streams or form in NO_MEDIA:
            wanted = "picture or sound" if "audio" in self.source.kinds else "picture"
            found = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise MediaError(f"{name} has no {wanted} (FFmpeg found: {found}; format {form}): expected a media file")
        if (video := streams.get("video")) is not None and (video.width or 0) * (video.height or 0) > MOST_PIXELS:
            raise MediaError(f"the picture of {name} has {video.width} x {video.height} pixels: expected at most {MOST_PIXELS:,}")
        return streams

    @contextmanager
    def tracks(self) -> Iterator[dict[str, Track]]:
        """The tracks by kind, at their beginning; closed afterwards."""
        alone = self._stated_end if len(self.streams) == 1 else None
        found: dict[str, Track] = {}
        try:
            for kind in self.streams:
                feed = Part(self._shared, kind) if self._shared else Alone(self.source, kind)
                label = f"the {'picture' if kind == 'video' else 'sound'} of {self.source.name}"
                found[kind] = Track(feed, label, alone, self.endless)
            yield found
        finally:
            for track in found.values():
                track.close()
            self.close()

    def close(self) -> None:
        """Release what is still open."""
        self._close(self._shared.container if self._shared else None)

    def _close(self, container: Any) -> None:
        for one in (container, self._pipe):
            if one:
                one.close()
