"""A module of the user's own as one that streams: encoder, machine and head, or anything else with a state."""

import copy
import inspect
import keyword
import re
from collections import namedtuple
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tokenturing.errors import OptionError, a
from tokenturing.models.contract import Input
from tokenturing.models.flat import ROWS, example


class OwnModel(nn.Module):
    """A copy of a module with `initial_state(B)` and `step(inputs, state) -> y, state` behind the contract of models here.

    Inputs, state and outputs may be a tensor or any tree (tuple, NamedTuple, list, dict) of tensors [B, ...].

    Args:
        module: is not changed.
        inputs: one step's, as `step` takes them, of any number of rows; None: the module has a `signature`.

    Raises:
        OptionError: it has no such methods, or a tensor is not batch-first.
    """

    def __init__(self, module: nn.Module, inputs: Any = None):
        super().__init__()
        if missing := [part for part in ("initial_state", "step") if not callable(getattr(module, part, None))]:
            raise OptionError(
                f"{a(type(module))} cannot be exported, it has no {' and no '.join(missing)}: expected a module with "
                "initial_state(B) -> state and step(inputs, state) -> y, state"
            )
        self.module: Any = copy.deepcopy(module).eval()
        self.config: dict[str, Any] = {}
        self._signature, self._inputs = self._described(inputs)
        state, more = self._first(ROWS), self._first(ROWS + 1)
        self._state = _tree(state, "state")
        _check_rows(self._state, state, more)
        names = _names(self._state, "state", taken=self._signature)
        self._leaves: Any = namedtuple("State", names)  # type: ignore[misc]
        self._outputs: Any = None
        self.growing = self._grown(state)

    @property
    def notes(self) -> dict[str, Any]:
        return getattr(self.module, "notes", {})

    def for_streaming(self) -> "OwnModel":
        return self

    def signature(self) -> dict[str, Input]:
        return self._signature

    def initial_state(self, rows: int) -> Any:
        return self._leaves(*pytree.tree_leaves(self.module.initial_state(rows)))

    def step(self, inputs: Any, state: Any, **optional: Tensor) -> tuple[Any, Any]:
        if self._inputs is not None:
            inputs = pytree.tree_unflatten(pytree.tree_leaves(inputs), self._inputs)
        y, following = self.module.step(inputs, pytree.tree_unflatten(list(state), self._state.spec), **optional)
        leaves, spec = pytree.tree_flatten(following)
        if spec != self._state.spec:
            raise OptionError(f"step returned a state of another form than initial_state's: {spec}, expected {self._state.spec}")
        return y if isinstance(y, Tensor) else self._named(y), self._leaves(*leaves)

    @torch.no_grad()
    def _first(self, rows: int) -> Any:
        return self.module.initial_state(rows)

    def _described(self, inputs: Any) -> tuple[dict[str, Input], Any]:
        """What a step takes by name, and the tree of it; None where that is the module's own `signature`."""
        if inputs is None:
            if not callable(getattr(self.module, "signature", None)):
                raise OptionError(
                    f"{a(type(self.module))} does not say what its step takes: give one step's inputs, as in "
                    "export_onnx(model, folder, inputs=torch.randn(1, 3, 16)), or the model a `signature`"
                )
            return {name: Input(*one) for name, one in self.module.signature().items()}, None
        tree = _tree(inputs, "inputs")
        parameter = next(iter(inspect.signature(self.module.step).parameters), "x")
        for name, leaf in zip(tree.paths, tree.leaves, strict=True):
            if not leaf.dim():
                raise OptionError(f"inputs{name} has no rows: expected tensors [B, ...]")
        shapes = [Input(tuple(leaf.shape[1:]), leaf.dtype) for leaf in tree.leaves]
        return dict(zip(_names(tree, parameter, taken=()), shapes, strict=True)), tree.spec

    @torch.no_grad()
    def _grown(self, state: Any) -> frozenset[str]:
        """The leaves that a step makes longer, beside those that the module itself names."""
        before = self._leaves(*pytree.tree_leaves(state))
        parts = example(self._signature)
        needed = [name for name, one in self._signature.items() if not one.optional]
        optional = {name: part for name, part in parts.items() if name not in needed}
        given = [parts[name] for name in needed]
        first = given[0] if len(given) == 1 else namedtuple("Inputs", needed)(*given)  # type: ignore[misc]
        returned = self.step(first, before, **optional)
        for leaf in pytree.tree_leaves(returned[0]):
            if not isinstance(leaf, Tensor) or leaf.shape[:1] != (ROWS,):
                raise OptionError(f"step returned y with {_said(leaf)} for {ROWS} rows: expected tensors [B={ROWS}, ...]")
        after = zip(self._leaves._fields, before, returned[1], strict=True)
        return frozenset(name for name, old, new in after if old.shape != new.shape) | frozenset(
            getattr(self.module, "growing", ())
        )

    def _named(self, y: Any) -> Any:
        """Outputs of several tensors as a NamedTuple."""
        if self._outputs is None:
            taken = [*self._signature, *self._leaves._fields, *(f"next_{name}" for name in self._leaves._fields)]
            self._outputs = namedtuple("Outputs", _names(_tree(y, "y"), "y", taken=taken))  # type: ignore[misc]
        return self._outputs(*pytree.tree_leaves(y))


class _Tree:
    """A tree of tensors: its leaves, the path of each as code has it (".memory", "[0]", "['h']"), and its form."""

    def __init__(self, tree: Any):
        found, self.spec = pytree.tree_flatten_with_path(tree)
        self.paths = [pytree.keystr(path) for path, _ in found]
        self.leaves: list[Tensor] = [leaf for _, leaf in found]


def _tree(tree: Any, what: str) -> _Tree:
    found = _Tree(tree)
    for path, leaf in zip(found.paths, found.leaves, strict=True):
        if not isinstance(leaf, Tensor):
            raise OptionError(f"{what}{path} is {a(type(leaf))}: expected tensors [B, ...], also for counters and flags")
    return found


def _check_rows(tree: _Tree, state: Any, more: Any) -> None:
    """That the rows are the first axis of each leaf of the state."""
    for path, two, three in zip(tree.paths, pytree.tree_leaves(state), pytree.tree_leaves(more), strict=True):
        if two.shape[:1] == (ROWS,) and three.shape[:1] == (ROWS + 1,):
            continue
        where = [axis for axis, sizes in enumerate(zip(two.shape, three.shape, strict=True)) if sizes == (ROWS, ROWS + 1)]
        found = f"has its rows on axis {where[0]}" if where else "has no axis of rows"
        raise OptionError(
            f"state{path} of shape {list(two.shape)} for {ROWS} rows {found}: expected the first, [B, ...], so that rows can be "
            "taken and joined; transpose it in initial_state and step"
        )


def _names(tree: _Tree, alone: str, taken: Iterable[str]) -> list[str]:
    """A name that Python and a graph can have for each leaf, from its path; of a single tensor or one by number, from `alone`."""
    used, names = set(taken), []
    for path in tree.paths:
        name = "_".join(re.findall(r"\w+", path))
        if not name or not name[0].isalpha() or keyword.iskeyword(name):
            name = f"{alone}_{name.lstrip('_')}" if name else alone
        while name in used:
            name = f"{alone}_{name}"
        used.add(name)
        names.append(name)
    return names


def _said(leaf: Any) -> str:
    return f"a tensor of shape {list(leaf.shape)}" if isinstance(leaf, Tensor) else a(type(leaf))
