"""An exported model and its state as a value."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from tokenturing.errors import CheckpointError, ShapeError, a
from tokenturing.files import read_json
from tokenturing.runtime.checks import as_array, is_array, row_indices, whole
from tokenturing.runtime.engines import Array, Engine, open_engine
from tokenturing.runtime.state import state_type

FORMAT_VERSION = 1
GRAPH, ANSWERS, INITIAL, DESCRIPTION = "model.onnx", "answers.onnx", "initial_state.safetensors", "runtime.json"
MASK = "token_mask"
ASKED = ("y", "queries")
"""what the graph of answers takes"""


def load(folder: str | Path, *, threads: int | None = None) -> "Runtime":
    """The model that was exported to a folder.

    Args:
        folder: as `tokenturing export` wrote it.
        threads: cores for one step; None: as many as there are. A small model is fastest on one.

    Raises:
        CheckpointError: the folder is missing or its files are corrupted, foreign or of a newer version.
        OptionError: there can't be so many threads.
        MissingExtraError: onnxruntime (for bf16: openvino) is not installed.
    """
    if threads is not None:
        threads = whole("threads", threads, 1)
    folder = Path(folder)
    description = described(folder)
    initial = _initial_state(folder / INITIAL, list(description["state"]))
    engine = open_engine(folder / GRAPH, description.get("precision", ""), threads)
    if set(engine.inputs) - {*initial, *(part["name"] for part in description["inputs"])}:
        raise CheckpointError(f"{folder / GRAPH} and {DESCRIPTION} are of different exports: export again")
    answers = open_engine(folder / ANSWERS, description.get("precision", ""), threads) if description.get("queries") else None
    runtime = Runtime(description, initial, engine, answers)
    runtime._loaded_from = folder.resolve(), threads
    return runtime


def _load_again(folder: Path, threads: int | None) -> "Runtime":
    return load(folder, threads=threads)


def is_export(folder: str | Path) -> bool:
    """Whether a folder is one that `tokenturing export` wrote."""
    return (Path(folder) / DESCRIPTION).is_file()


class Runtime:
    """One step of an exported model. It holds no stream: the state is a value that goes in and comes out.

    Attributes:
        description: the content of runtime.json, or of one that `tokenturing.models.eager.eager` made up.
        notes: what was noted when the model was saved, such as the speakers it was trained on.
        inputs: for each input its shape [B, ...] ("B" and other names stand for any number) and type.
        queries: how many there are to `ask`; 0: the model answers none.
    """

    def __init__(
        self, description: Mapping[str, Any], initial: Mapping[str, Array], engine: Engine, answers: Engine | None = None
    ):
        self.description = description
        self.notes: dict[str, Any] = description.get("notes", {})
        self.inputs: dict[str, tuple[tuple[int | str, ...], np.dtype[Any]]] = {
            part["name"]: (tuple(part["shape"]), np.dtype(part["dtype"])) for part in description["inputs"]
        }
        self._leaves: list[str] = list(description["state"])
        self._perceived: list[str] = list(description.get("perceived", []))
        self._initial = [initial[name] for name in self._leaves]
        self._state = state_type(tuple(self._leaves))
        self._grows = bool(description.get("grows"))
        self._engine, self._answers = engine, answers
        self.queries: int = description.get("queries", 0)
        self._loaded_from: tuple[Path, int | None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process loads the folder again."""
        if self._loaded_from is None:
            raise TypeError("only a runtime that was loaded from a folder can be pickled or copied: export the model")
        return _load_again, self._loaded_from

    def initial_state(self, batch_size: int) -> Any:
        """The state of `batch_size` rows before their first step: a NamedTuple of arrays [B, ...].

        Raises:
            OptionError: there can't be so many rows.
        """
        rows = whole("batch_size", batch_size, 0)
        return self._state(*(np.repeat(leaf, rows, axis=0) for leaf in self._initial))

    def reset(self, state: Any, rows: Sequence[int] | Array) -> Any:
        """The state with these rows (indices, or true in a bool [B]) as before their first step; `state` is not changed."""
        fresh = []
        for leaf, first in zip(self._leaves_of(state), self._initial, strict=True):
            leaf = leaf.copy()
            leaf[row_indices(rows, len(leaf))] = first[0]
            fresh.append(leaf)
        return self._state(*fresh)

    def step(
        self, x: Array | Mapping[str, Array] | Sequence[Array], state: Any, *, token_mask: Array | None = None
    ) -> tuple[Array, Any]:
        """One step of the stream.

        Args:
            x: tokens [B, N, D]; where the model has more than one input, a mapping or sequence of arrays [B, ...].
            state: as `initial_state` or an earlier step returned it; it is not changed.
            token_mask: bool [B, N], false where a token is absent; None: all are present.

        Returns:
            y [B, ...] and the next state.

        Raises:
            ShapeError: an array has another shape or type than the model's.
        """
        y, state, _ = self.step_and_perceive(x, state, token_mask=token_mask)
        return y, state

    def step_and_perceive(
        self, x: Array | Mapping[str, Array] | Sequence[Array], state: Any, *, token_mask: Array | None = None
    ) -> tuple[Array, Any, dict[str, Array]]:
        """The same, and what the model finds in this very step.

        Returns:
            y [B, ...], the next state, and arrays [B, ...] by name: what the model observes, and its outputs but the first.
        """
        feed = self._inputs(x, token_mask)
        rows = {len(array) for array in feed.values()}
        for name, leaf, first in zip(self._leaves, self._leaves_of(state), self._initial, strict=True):
            fits = leaf.ndim == first.ndim and (leaf.shape[1:] == first.shape[1:] or self._grows)
            if not fits or leaf.dtype != first.dtype or {len(leaf)} != rows:
                raise ShapeError(
                    f"state: {name} has shape {list(leaf.shape)} and type {leaf.dtype}: expected "
                    f"[B, {', '.join(map(str, first.shape[1:]))}] and {first.dtype} with the same B as the inputs, {sorted(rows)}"
                )
            feed[name] = np.ascontiguousarray(leaf)
        y, *others = self._engine.run(feed)
        following, perceived = others[: len(self._leaves)], others[len(self._leaves) :]
        return y, self._state(*following), dict(zip(self._perceived, perceived, strict=True))

    def ask(self, y: Array, queries: Sequence[Sequence[int]] | Array) -> Array:
        """Ask about a step; the stream does not notice.

        Args:
            y: what the step returned, [B, ...], or some of its rows.
            queries: int [B, Q], any number of each row, below `self.queries`.

        Returns:
            Logits of the answers [B, Q, C].

        Raises:
            ShapeError: an array has another shape or type, or there is no such query.
        """
        y, asked = as_array("y", y), as_array("queries", queries)
        if self._answers is None:
            raise ShapeError(
                f"{self.description.get('class_name', 'this model')} answers no queries: its step's y is all it says"
            )
        shape = tuple(self.description["output"])
        if y.shape[1:] != shape or y.dtype != np.float32:
            raise ShapeError(
                f"y has shape {list(y.shape)} and type {y.dtype}: expected {['B', *shape]} and float32, as of a step"
            )
        if asked.ndim != 2 or len(asked) != len(y) or asked.dtype.kind not in "iu":
            raise ShapeError(f"queries have shape {list(asked.shape)} and type {asked.dtype}: expected whole [B={len(y)}, Q]")
        if asked.size and not 0 <= asked.min() <= asked.max() < self.queries:
            raise ShapeError(f"queries from {asked.min()} to {asked.max()}: expected 0 to {self.queries - 1}")
        return self._answers.run(dict(zip(ASKED, (np.ascontiguousarray(y), asked.astype(np.int64)), strict=True)))[0]

    def _leaves_of(self, state: Any) -> list[Array]:
        """A state's arrays, where it is one of this model by its form."""
        came = getattr(state, "_fields", self._state._fields)
        if not isinstance(state, tuple) or len(state) != len(self._leaves) or came != self._state._fields:
            found = f"one of {', '.join(came)}" if came != self._state._fields else a(type(state))
            raise ShapeError(
                f"the state is {found}: expected what initial_state() or a step of this model returned, {', '.join(self._leaves)}"
            )
        return [as_array(name, leaf) for name, leaf in zip(self._leaves, state, strict=True)]

    def _inputs(self, x: Any, token_mask: Array | None) -> dict[str, Array]:
        names = [name for name in self.inputs if name != MASK]
        if isinstance(x, Mapping):
            parts = dict(x)
        elif is_array(x) and len(names) == 1:
            parts = {names[0]: x}
        elif is_array(x) or not isinstance(x, Sequence):
            raise ShapeError(f"x is {a(type(x))}: expected arrays of {', '.join(names)}, in this order or by name")
        elif len(x) != len(names):
            raise ShapeError(f"{len(x)} inputs: expected {names}")
        else:
            parts = dict(zip(names, x, strict=True))
        if set(parts) != set(names):
            raise ShapeError(f"inputs {sorted(parts)}: expected {names}")
        if MASK in self.inputs:
            parts[names[0]] = as_array(names[0], parts[names[0]])
            parts[MASK] = np.ones(parts[names[0]].shape[:-1], bool) if token_mask is None else token_mask
        elif token_mask is not None:
            raise ShapeError("token_mask: this model's inputs say themselves what is absent")
        feed = {name: self._checked(name, parts[name]) for name in self.inputs}
        if len({len(array) for array in feed.values()}) != 1:
            sizes = {name: len(array) for name, array in feed.items()}
            raise ShapeError(f"the inputs have different numbers of rows, {sizes}: expected one B")
        return feed

    def _checked(self, name: str, value: Any) -> Array:
        shape, dtype = self.inputs[name]
        array = as_array(name, value)
        fits = array.ndim == len(shape) and all(
            isinstance(wanted, str) or wanted == came for wanted, came in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype.kind != dtype.kind:
            wanted = ", ".join(map(str, shape))
            raise ShapeError(f"{name} has shape {list(array.shape)} and type {array.dtype}: expected [{wanted}] and {dtype}")
        return np.ascontiguousarray(array, dtype)


def take(state: Any, rows: Sequence[int] | Array) -> Any:
    """The rows with these indices (or where a bool [B] is true), as a new state; of none, a state of no rows."""
    leaves = [as_array(name, leaf) for name, leaf in zip(state._fields, state, strict=True)]
    return type(state)(*(leaf[row_indices(rows, len(leaf))] for leaf in leaves))


def stack(states: Sequence[Any]) -> Any:
    """Join states of some rows each into one batch, in order.

    Raises:
        ShapeError: there are none, or they are of different models.
    """
    if not states:
        raise ShapeError("stack() needs at least one state")
    forms = [[(name, leaf.dtype, leaf.shape[1:]) for name, leaf in zip(one._fields, one, strict=True)] for one in states]
    for number, form in enumerate(forms):
        if form != forms[0]:
            one, other = next((one, other) for one, other in zip_longest(forms[0], form) if one != other)
            raise ShapeError(f"state {number} has {_said(other)}, and state 0 {_said(one)}: expected states of one model")
    return type(states[0])(*(np.concatenate(parts) for parts in zip(*states, strict=True)))


def _said(leaf: Any) -> str:
    return f"{leaf[0]} {leaf[1]} [B, {', '.join(map(str, leaf[2]))}]" if leaf else "no more leaves"


def described(folder: Path) -> dict[str, Any]:
    """What an export says of itself.

    Raises:
        CheckpointError: the folder is none, or of a newer version.
    """
    content = read_json(folder / DESCRIPTION, "tokenturing export")
    version = content.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / DESCRIPTION} has format_version {version!r}: expected at most {FORMAT_VERSION}; "
            "it is of a newer tokenturing, or of another program"
        )
    return content


def _initial_state(file: Path, leaves: list[str]) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): export the model again") from error
    if set(found) != set(leaves):
        raise CheckpointError(f"{file} has the leaves {sorted(found)}: expected {leaves}; export the model again")
    return found
