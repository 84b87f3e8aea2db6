"""Packets of tracks: of a file each track through a demuxer of its own, of what can be read only once all through one."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from tokenturing.media.pipe import Pipe
from tokenturing.media.source import Source, av_package, reason_of, stream_of

MOST_PACKETS, MOST_BYTES = 4096, 64 * 2**20
"""that wait for one track while another is looked for, whatever a source sends"""
STALLED_SECONDS = 3.0
"""of an endless source: after so long without a packet a track counts as silent, and the other goes on"""


class Feed(Protocol):
    """The packets of one track."""

    container: Any
    stream: Any

    def packets(self) -> Iterator[Any]:
        """In order; None where nothing comes for now, though other tracks go on."""
        ...

    def close(self) -> None:
        """Part with them."""
        ...


class Alone:
    """A track through a demuxer of its own, so that memory holds little of it however badly a file interleaves its tracks."""

    def __init__(self, source: Source, kind: str) -> None:
        self.container = source.open()
        self.stream = stream_of(self.container, kind, source.audio_track)

    def packets(self) -> Iterator[Any]:
        """All of this track."""
        return self.container.demux(self.stream)

    def close(self) -> None:
        """Release the file."""
        self.container.close()


class Waiting(NamedTuple):
    """A packet that another track's turn brought along."""

    packet: Any
    since: float


class Shared:
    """An open source that is read once, its tracks taken apart as they come.

    Where one track gets far ahead of another, so much waits for it that it has to go on: then the other's feed gives None, and
    so it does where that one falls silent.

    Args:
        container: open; it is closed with this.
        streams: by kind.
        endless: whether a track may fall silent at any time.
        pipe: what it is read from, where that is done in Python.
    """

    def __init__(self, container: Any, streams: dict[str, Any], endless: bool, pipe: Pipe | None = None) -> None:
        self._pipe = pipe
        self.container, self.streams, self._endless = container, streams, endless
        self._packets = container.demux(*streams.values())
        self._waiting: dict[int, deque[Waiting]] = {stream.index: deque() for stream in streams.values()}
        self._came = dict.fromkeys(self._waiting, 0.0)
        self._clock = 0.0  # seconds spent reading: one that is slow to take its packets must not make a track seem silent
        self._ended = False
        self.failure: str | None = None

    def packets(self, index: int) -> Iterator[Any]:
        """Those of the stream of that index."""
        own = self._waiting[index]
        while True:
            if own:
                yield own.popleft().packet
            elif self._ended:
                return
            elif self._is_starved(index):
                yield None
            else:
                self._read()

    def _read(self) -> None:
        began = time.monotonic()
        try:
            packet = next(self._packets, None)
        except av_package().FFmpegError as error:
            packet, self.failure = None, reason_of(error)
        except IndexError:
            packet = None  # see Track
        if self._pipe:
            self._pipe.check()
        self._clock += time.monotonic() - began
        if packet is None:
            self._ended = True
        elif (index := packet.stream.index) in self._waiting:
            self._came[index] = self._clock
            self._waiting[index].append(Waiting(packet, self._clock))

    def _is_starved(self, index: int) -> bool:
        others = [queue for other, queue in self._waiting.items() if other != index]
        if any(len(queue) >= MOST_PACKETS or sum(one.packet.size for one in queue) >= MOST_BYTES for queue in others):
            return True
        silent = self._clock - self._came[index] > STALLED_SECONDS
        return self._endless and silent and any(queue and self._clock - queue[0].since > STALLED_SECONDS for queue in others)


class Part:
    """One track of a `Shared`."""

    def __init__(self, shared: Shared, kind: str) -> None:
        self._shared = shared
        self.container, self.stream = shared.container, shared.streams[kind]

    def packets(self) -> Iterator[Any]:
        """Of this track."""
        return self._shared.packets(self.stream.index)

    def close(self) -> None:
        """Nothing: the source is closed as a whole."""
