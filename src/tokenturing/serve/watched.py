"""Sessions of tasks that watch, made fit for a server: what a client sends becomes a `MediaStep`."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from tokenturing.errors import MissingExtraError, OptionError, ShapeError
from tokenturing.media.clock import SAMPLE_RATE, STEP_SECONDS
from tokenturing.media.steps import MediaStep
from tokenturing.runtime import Runtime
from tokenturing.serve.arrays import Array, Value, array, to_numpy
from tokenturing.serve.messages import Event, Input, Reply
from tokenturing.serve.served import Media
from tokenturing.tasks.contract import Task, queries_of

FRAME_SIZE = 32
"""pixels"""
SAMPLES = round(SAMPLE_RATE * STEP_SECONDS)
INPUTS = {"frame": Input([FRAME_SIZE, FRAME_SIZE], "float32"), "sound": Input([SAMPLES], "float32")}
FLOAT32 = np.dtype(np.float32)
WATCHES = SimpleNamespace(has_video=True, has_sound=True, duration=None)
"""the media that a client sends"""


def media_of(runtime: Runtime, task: Task) -> Media | None:
    """How sessions of a model's task are begun; None: it has none that a server can keep."""
    try:
        session = task.session(runtime, WATCHES)
    except (OptionError, MissingExtraError):
        return None
    needed = ("encode", "absorb", "snapshot", "restore")
    if not all(hasattr(session, name) for name in needed):
        return None
    return Media(lambda: WatchedStream(task.session(runtime, WATCHES)), INPUTS, queries_of(session))


class WatchedStream:
    """A session of a task behind the face that the server knows."""

    def __init__(self, session: Any):
        self._session = session
        self.file_kind = type(session).__name__

    @property
    def state(self) -> Any:
        """Of one row."""
        return self._session.state

    def encode(self, inputs: Mapping[str, Value]) -> dict[str, np.ndarray]:
        if not set(inputs) <= set(INPUTS):
            raise ShapeError(f"a step brings {' and '.join(INPUTS)}: got {', '.join(name[:40] for name in inputs)}")
        found = {name: self._checked(name, value) for name, value in inputs.items()}
        return self._session.encode(MediaStep(0.0, found.get("frame"), found.get("sound")))

    def _checked(self, name: str, value: Value) -> np.ndarray:
        part = to_numpy(name, value, FLOAT32)
        if list(part.shape) != INPUTS[name].shape:
            raise ShapeError(f"{name} has shape {list(part.shape)}: expected {INPUTS[name].shape}")
        low = 0.0 if name == "frame" else -1.0
        if part.min() < low or part.max() > 1:
            raise ShapeError(f"{name} has numbers from {part.min():g} to {part.max():g}: expected {low:g} to 1")
        return part

    def absorb(
        self, inputs: Mapping[str, np.ndarray], y: np.ndarray, state: Any, perceived: Mapping[str, np.ndarray]
    ) -> tuple[list[Event], dict[str, Array]]:
        events = self._session.absorb(inputs, y, state, perceived)
        outputs = {name: array(part[0]) for name, part in perceived.items()}
        if memory := getattr(self._session, "memory", None):
            outputs |= {name: array(part) for name, part in memory().items()}
        return [Event(*event) for event in events], outputs

    def ask(self, queries: Sequence[str | int]) -> list[Reply]:
        answers = self._session.ask(*map(str, queries))
        if queries and not answers:
            raise OptionError("nothing can be asked before the first step")
        return [Reply(*answer) for answer in answers]

    def snapshot(self) -> dict[str, np.ndarray]:
        return self._session.snapshot()

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._session.restore(arrays)
