"""A model as it is served: the steps of several sessions at once, and each session as a value that can be kept."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from tokenturing.errors import OptionError, ShapeError, TokenTuringError
from tokenturing.models.eager import EagerEngine
from tokenturing.runtime.machine import MASK, Runtime, stack
from tokenturing.serve.arrays import Array, Value, array, to_numpy
from tokenturing.serve.messages import Event, Input, Model, Reply

INPUTS, MEDIA = "inputs", "media"
"""what a session's steps bring"""
OVERFLOW = "the model's numbers would overflow with these inputs: expected smaller ones"


class Stream(Protocol):
    """One session in memory."""

    file_kind: str
    """what a file that holds one says of itself"""

    @property
    def state(self) -> Any:
        """Of one row."""
        ...

    def encode(self, inputs: Mapping[str, Value]) -> dict[str, np.ndarray]:
        """What a client sent for a step -> the model's inputs [1, ...] by name.

        Raises:
            ShapeError: it does not fit.
        """
        ...

    def absorb(
        self, inputs: Mapping[str, np.ndarray], y: np.ndarray, state: Any, perceived: Mapping[str, np.ndarray]
    ) -> tuple[list[Event], dict[str, Array]]:
        """Take what the model made of them -> what was noticed, and what the client gets to see."""
        ...

    def ask(self, queries: Sequence[str | int]) -> list[Reply]:
        """Answers as of the last step; nothing changes.

        Raises:
            OptionError: a query is unknown, or there was no step yet.
        """
        ...

    def snapshot(self) -> dict[str, np.ndarray]:
        """All that it needs to go on."""
        ...

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from a snapshot."""
        ...


class Media(NamedTuple):
    """How sessions are begun that watch: a task's, made fit for the server."""

    begin: Callable[[], Stream]
    inputs: Mapping[str, Input]
    """what a step may bring"""
    queries: Sequence[str]
    """that can be asked"""


class Outcome(NamedTuple):
    """What a step did to one session, or why it did nothing."""

    events: list[Event]
    outputs: dict[str, Array]
    state: bytes
    error: TokenTuringError | None = None


class Served:
    """A model under a name.

    Args:
        name: that clients use.
        runtime: the model, exported or in PyTorch. In PyTorch each row is computed by itself: then a session's outcome is the
            same to the bit whoever shares its batch.
        media: how to begin sessions that watch, where its task has such.
    """

    def __init__(self, name: str, runtime: Runtime, media: Media | None = None):
        self.name, self.runtime, self.media = name, runtime, media
        self.fingerprint = str(runtime.description.get("fingerprint"))
        self.alone = isinstance(runtime._engine, EagerEngine)
        self._like = {INPUTS: _layout(InputsStream(runtime))} | ({MEDIA: _layout(media.begin())} if media else {})

    def about(self) -> Model:
        """What clients are told."""
        inputs = {name: Input(list(shape[1:]), dtype.name) for name, (shape, dtype) in self.runtime.inputs.items()}
        queries: Any = list(self.media.queries) if self.media else self.runtime.queries
        return Model(self.name, self.fingerprint, self.kinds, inputs, dict(self.media.inputs) if self.media else {}, queries)

    @property
    def kinds(self) -> list[str]:
        """Of sessions that it can have."""
        return list(self._like)

    def begin(self, kind: str) -> Stream:
        """A session before its first step.

        Raises:
            OptionError: the model has none of that kind.
        """
        if kind not in self._like:
            raise OptionError(f"{self.name} has no {kind[:20]!r} sessions: expected {' or '.join(self._like)}")
        return InputsStream(self.runtime) if kind == INPUTS or self.media is None else self.media.begin()

    def resume(self, kind: str, data: bytes) -> Stream:
        """A session out of the bytes of `dump`.

        Raises:
            OptionError: they are damaged or another model's.
        """
        stream = self.begin(kind)
        stream.restore(self.checked(kind, _parse(data)))
        return stream

    def checked(self, kind: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A snapshot that may be restored.

        Raises:
            OptionError: a part is missing, foreign, or of another shape or type than this model's.
        """
        like, grows = self._like[kind], bool(self.runtime.description.get("grows"))
        for name, part in arrays.items():
            dtype, shape = like.get(name, ("", ()))
            fits = part.dtype.str == dtype and (part.shape == shape or (grows and part.ndim == len(shape)))
            if not fits:
                raise OptionError(
                    f"the session's {name} is {part.dtype} {list(part.shape)}: expected {dtype or 'no such part'} {list(shape)}"
                )
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                raise OptionError(f"the session's {name} has NaN or infinite numbers: expected finite ones")
        if missing := like.keys() - arrays.keys():
            raise OptionError(f"the session lacks {', '.join(sorted(missing))}, which this model has")
        return dict(arrays)

    def step(self, streams: Sequence[Stream], inputs: Sequence[Mapping[str, Value]]) -> list[Outcome]:
        """One step of each session, together where shapes allow it. A stream whose outcome is an error must not be used again."""
        outcomes: list[Outcome | None] = [None] * len(streams)
        groups: dict[Any, list[tuple[int, dict[str, np.ndarray]]]] = {}
        for place, (stream, sent) in enumerate(zip(streams, inputs, strict=True)):
            try:
                encoded = stream.encode(sent)
            except TokenTuringError as error:
                outcomes[place] = Outcome([], {}, b"", error)
                continue
            shapes = tuple(part.shape for part in (*encoded.values(), *stream.state))
            groups.setdefault((place if self.alone else 0, shapes), []).append((place, encoded))
        for group in groups.values():
            places = [place for place, _ in group]
            together = {name: np.concatenate([encoded[name] for _, encoded in group]) for name in group[0][1]}
            mask = together.pop(MASK, None)
            states = stack([streams[place].state for place in places])
            y, states, perceived = self.runtime.step_and_perceive(together, states, token_mask=mask)
            finite = _finite_rows((y, *states))
            for row, (place, encoded) in enumerate(group):
                if not finite[row]:
                    outcomes[place] = Outcome([], {}, b"", ShapeError(OVERFLOW))
                    continue
                one = {name: part[row : row + 1].copy() for name, part in perceived.items()}
                state = type(states)(*(leaf[row : row + 1].copy() for leaf in states))
                events, outputs = streams[place].absorb(encoded, y[row : row + 1].copy(), state, one)
                outcomes[place] = Outcome(events, outputs, dump(streams[place]))
        return [outcome for outcome in outcomes if outcome is not None]


class InputsStream:
    """A session whose steps bring the model's own inputs by name."""

    file_kind = INPUTS

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self.state = runtime.initial_state(1)
        self._y: np.ndarray | None = None

    def encode(self, inputs: Mapping[str, Value]) -> dict[str, np.ndarray]:
        expected = self._runtime.inputs
        needed = set(expected) - {MASK}
        if not needed <= set(inputs) <= set(expected):
            came = ", ".join(name[:40] for name in inputs) or "nothing"
            raise ShapeError(f"a step takes {', '.join(expected)}: got {came}")
        found = {}
        for name, (shape, dtype) in expected.items():
            if name not in inputs:
                continue
            value = to_numpy(name, inputs[name], dtype)
            fits = value.ndim == len(shape) - 1 and all(
                wanted == size or (isinstance(wanted, str) and size > 0)
                for wanted, size in zip(shape[1:], value.shape, strict=True)
            )
            if not fits:
                raise ShapeError(f"{name} has shape {list(value.shape)}: expected [{', '.join(map(str, shape[1:]))}]")
            found[name] = value[None]
        if MASK in expected:
            tokens = found[next(name for name in expected if name != MASK)].shape[:2]
            mask = found.setdefault(MASK, np.ones(tokens, bool))
            if mask.shape != tokens:
                raise ShapeError(f"{MASK} has shape {list(mask.shape[1:])}: expected [{tokens[1]}], one for each token")
        return found

    def absorb(
        self, inputs: Mapping[str, np.ndarray], y: np.ndarray, state: Any, perceived: Mapping[str, np.ndarray]
    ) -> tuple[list[Event], dict[str, Array]]:
        self._y, self.state = y, state
        return [], {"y": array(y[0]), **{name: array(part[0]) for name, part in perceived.items()}}

    def ask(self, queries: Sequence[str | int]) -> list[Reply]:
        count = self._runtime.queries
        numbers = [query for query in queries if isinstance(query, int) and 0 <= query < count]
        if len(numbers) != len(queries):
            raise OptionError(
                f"queries {list(queries)[:5]}: expected numbers from 0 to {count - 1}"
                if count
                else "this model answers no queries"
            )
        if self._y is None:
            raise OptionError("nothing can be asked before the first step")
        if not numbers:
            return []
        logits = self._runtime.ask(self._y, [numbers])[0].astype(np.float64)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return [Reply(number, int(share.argmax()), float(share.max())) for number, share in zip(numbers, shares, strict=True)]

    def snapshot(self) -> dict[str, np.ndarray]:
        y = np.zeros((1, *self._runtime.description["output"]), np.float32) if self._y is None else self._y
        leaves = {f"state.{name}": leaf for name, leaf in zip(self.state._fields, self.state, strict=True)}
        return {"began": np.array([self._y is not None]), "y": y, **leaves}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._y = arrays["y"] if arrays["began"][0] else None
        self.state = type(self.state)(*(arrays[f"state.{name}"] for name in self.state._fields))


def _finite_rows(parts: Sequence[np.ndarray]) -> np.ndarray:
    """bool [B], whether all floats of a row are finite."""
    found = [np.isfinite(part).all(tuple(range(1, part.ndim))) for part in parts if part.dtype.kind == "f"]
    return np.logical_and.reduce(found)


def dump(stream: Stream) -> bytes:
    """A session as bytes with a checksum."""
    parts = [(name, part.dtype.str, part.shape, part.tobytes()) for name, part in stream.snapshot().items()]
    packed = _ENCODER.encode(parts)
    return zlib.crc32(packed).to_bytes(4, "little") + packed


Layout = dict[str, tuple[str, tuple[int, ...]]]
Parts = list[tuple[str, str, tuple[int, ...], bytes]]
_ENCODER, _DECODER = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Parts)


def _layout(stream: Stream) -> Layout:
    return {name: (part.dtype.str, part.shape) for name, part in stream.snapshot().items()}


def _parse(data: bytes) -> dict[str, np.ndarray]:
    if zlib.crc32(memoryview(data)[4:]).to_bytes(4, "little") != data[:4]:
        raise OptionError("the session's bytes are damaged: their checksum is another")
    try:
        parts = _DECODER.decode(memoryview(data)[4:])
    except msgspec.DecodeError as error:
        raise OptionError(f"the session's bytes are of another version ({error})") from None
    return {name: np.frombuffer(bytearray(content), dtype).reshape(shape) for name, dtype, shape, content in parts}
