"""What `tokenturing stream` makes of a session that labels time: a video with a strip, segments, and how long a step takes."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tokenturing.cli.segments import Segment, Segments, agreement, as_json
from tokenturing.errors import OptionError

if TYPE_CHECKING:
    from tokenturing.media.steps import Media

SAID, TRUE = "model", "true"
"""names of the strip's rows"""


def check_labels(session: Any, named: dict[str, str]) -> None:
    """Raise an OptionError where options are given that only make sense for a session that labels time."""
    given = [option for option, value in named.items() if value]
    if given and not labels_time(session):
        raise OptionError(f"{given[0]}: this model does not label what it watches: expected one that says what goes on")


def labels_time(session: Any) -> bool:
    """Whether a session says at each step which labels are right."""
    return hasattr(session, "labels") and hasattr(session, "shares")


class Labelling:
    """Takes note of what is said of each step; a context manager, at whose end the files are written.

    Args:
        session: one that labels time.
        media: that it watches.
        out: a video to write; "": none.
        truth: what is known to be true.
    """

    def __init__(self, session: Any, media: "Media", out: str = "", truth: Sequence[Segment] = ()):
        self._session, self._media, self.truth = session, media, list(truth)
        self._segments = Segments(session.labels, getattr(session, "several", False), media.step_seconds)
        self._out = Path(out) if out else None
        self._stack = ExitStack()
        self._said: list[str] = []

    def __enter__(self) -> Self:
        if self._out:
            from tokenturing.media.film import Film
            from tokenturing.viz.strip import Strip

            self._media.keep = True
            labels = [*self._session.labels, *sorted({one.label for one in self.truth})]
            rows = [SAID, TRUE] if self.truth else [SAID]
            self._strip = Strip(rows, labels, self._media.duration)
            self._film = self._stack.enter_context(Film(self._out))
        return self

    def __exit__(self, *about: Any) -> None:
        self._stack.__exit__(*about)

    def show(self, passed: Sequence[tuple[float, Any]]) -> None:
        """Write the pictures that went by before the step's labels are known, with all that is known by then."""
        if not self._out:
            return
        since = self._strip.begin(passed[-1][0]) if passed else 0.0
        true = [one for one in self.truth if one.end > since]
        blocks = {SAID: _blocks(self._segments.since(since)), TRUE: _blocks(true)}
        for seconds, frame in passed:
            self._film.add(seconds, self._strip.below(_upright(frame, self._media.aspect), seconds, self._said, blocks))

    def add(self, start: float) -> None:
        """The session took a step that begins at `start`."""
        shares = self._session.shares
        if shares is None:
            return
        self._segments.add(start, shares)
        now = {one.label: float(shares[self._session.labels.index(one.label)]) for one in self._segments.going()}
        self._said = [f"{name} {now[name]:.0%}" for name in sorted(now, key=lambda name: -now[name])]

    @property
    def segments(self) -> list[Segment]:
        """So far."""
        return self._segments.since(0.0)

    def unknown(self) -> list[str]:
        """Labels of what is true that the model never says."""
        return sorted({one.label for one in self.truth} - set(self._session.labels))

    def agreement(self) -> float | None:
        """See `segments.agreement`, up to the last step."""
        return agreement(self.segments, self.truth, self._media.step_seconds, self._segments.end) if self.truth else None


def _blocks(segments: Sequence[Segment]) -> list[Any]:
    from tokenturing.viz.strip import Block

    return [Block(one.start, one.end, one.label, one.confidence) for one in segments]


def _upright(frame: Any, aspect: float) -> np.ndarray:
    """A decoded picture as the strip takes it, turned as the file says and with square pixels: uint8 [H, W, 3]."""
    from tokenturing.media.orientation import orientation_of
    from tokenturing.viz.strip import size_of

    orientation = orientation_of(frame)
    if orientation.transposed:
        height, width = size_of(frame.height, frame.width * aspect)  # what is stored as height is shown as width
    else:
        width, height = size_of(frame.width * aspect, frame.height)
    small = frame.reformat(width, height, "rgb24")
    return np.ascontiguousarray(orientation.apply(small.to_ndarray()))


def write_report(file: str, about: dict[str, Any], segments: Sequence[Segment]) -> None:
    """The JSON file."""
    from tokenturing.files import write_file

    Path(file).parent.mkdir(parents=True, exist_ok=True)
    write_file(Path(file), (json.dumps(about | {"segments": as_json(segments)}, indent=2) + "\n").encode())
