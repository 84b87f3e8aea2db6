"""Whose a state is: what saving and loading states has to know of a model, computed once for each."""

import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.optimizer import register_optimizer_step_post_hook

from tokenturing import state as states
from tokenturing.checkpoint.format import abbreviated, config_of, to_json, unwrapped
from tokenturing.checkpoint.tensors import digest
from tokenturing.checkpoint.weights import weights_of
from tokenturing.errors import CheckpointError, OptionError, ShapeError, a
from tokenturing.state import MOST_STEPS


def fingerprint(model: nn.Module) -> str:
    """A hash of the class, the config and every weight: which model a state belongs to.

    A model that was saved in a smaller type (`save(..., dtype=)`) comes back with other weights: another one.
    """
    model = unwrapped(model)
    if not isinstance(model, nn.Module):
        raise OptionError(f"model is {a(type(model))}: expected a model, whose weights and config are its fingerprint")
    return digest(weights_of(model).items(), type(model).__name__, to_json(config_of(model), "config"))


STATE = "the state"
"""how a state at hand is called in messages, as against one in a file"""
ONCE_OF_COUNTS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""types that older versions kept counts of steps in"""


class Leaf(NamedTuple):
    """One leaf of the states of a model."""

    shape: tuple[int, ...]
    """without B, before the first step"""
    dtype: torch.dtype
    grows: bool
    """along its first axis here (axis 1 of the leaf)"""


class Owner:
    """A model as its states know it: the fingerprint, and the leaves that a state of it has.

    `Owner(model)` hashes all weights. `Owner.of(model)` does so once and again after the weights were changed.
    """

    def __init__(self, model: Any):
        model = unwrapped(model)
        self.class_name = type(model).__name__
        self.fingerprint = fingerprint(model)
        with torch.no_grad():
            first = model.initial_state(1)
        growing = frozenset(getattr(model, "growing", ()))
        self.leaves = {name: Leaf(tuple(leaf.shape[1:]), leaf.dtype, name in growing) for name, leaf in states.leaves(first)}
        if unknown := growing - self.leaves.keys():
            raise CheckpointError(
                f"{self.class_name}.growing names {abbreviated(unknown)}: expected leaves of its state, "
                f"{abbreviated(self.leaves)}"
            )
        self.device = next(states.leaves(first))[1].device
        self._structure = states.map_state(lambda leaf: leaf.new_empty(0), first)

    @property
    def growing(self) -> frozenset[str]:
        """The names of the leaves that get longer with the stream."""
        return frozenset(name for name, leaf in self.leaves.items() if leaf.grows)

    @classmethod
    def of(cls, model: Any) -> "Owner":
        """The owner of a model's states, computed anew only if the model was changed since the last call.

        It notices steps of optimizers, `load_state_dict`, `.to()`, other tensors in place of those that were there (in
        `p.data` too), a changed config, and whatever else torch counts as a change. It can't notice writes past torch's
        count: in place through `p.data`, through numpy or another process that shares the memory, by a replayed CUDA
        graph, by kernels of your own. After such writes use `Owner(model)`.
        """
        model = unwrapped(model)
        if not isinstance(model, nn.Module):
            raise OptionError(f"model is {a(type(model))}: expected the model that made the state, or its checkpoint.Owner")
        known = _KNOWN.get(model)
        if known is not None and known.hold(model):
            return known.owner
        _watch_optimizers()
        marks = _Marks(model)  # before the weights are read: what changes meanwhile must not go unnoticed
        marks.owner = cls(model)
        _KNOWN[model] = marks
        return marks.owner

    def check_kind(self, state: Any) -> None:
        """Refuse what has not the classes of this model's states."""
        try:
            fits = states.alike(self._structure, state)
        except ShapeError as error:
            raise CheckpointError(f"the state {error}".replace("the state state", "the state")) from error
        if not fits:
            raise CheckpointError(
                f"the state is {a(type(state))}: expected {a(type(self._structure))}, as initial_state() or a step of this "
                f"{self.class_name} returned it"
            )

    def check(self, leaves: Mapping[str, tuple[tuple[int, ...], torch.dtype]], where: object) -> None:
        """Refuse leaves, by their names with shape and type, that no state of this model has.

        Counts may be fractions, as they were once.
        """
        if self.leaves.keys() != leaves.keys():
            raise CheckpointError(f"{where} has the leaves {abbreviated(leaves)}: expected {abbreviated(self.leaves)}")
        one_size = len({shape[:1] for shape, _ in leaves.values()}) == 1
        for name, (first, dtype, grows) in self.leaves.items():
            shape, came = leaves[name]
            longer = grows and len(shape) > 1 and shape[1] >= first[0]
            fits = shape[2:] == first[1:] if longer else shape[1:] == first
            if not (fits and shape and one_size):
                sizes = ["B", *map(str, first)]
                if grows:
                    sizes[1] = f"at least {sizes[1]}"
                expected = f"[{', '.join(sizes)}] with one B for all"
                raise CheckpointError(f"{where}: {name} has shape {list(shape)}: expected {expected}")
            counts = dtype == torch.int64 and came in ONCE_OF_COUNTS
            if came != dtype and not counts:
                convert = f"tokenturing.state.move(state, {dtype}) converts it"
                if where != STATE:
                    convert = f"load it for a model in {came}, and then {convert}"
                hint = f"; {convert}" if came.is_floating_point else ""
                raise CheckpointError(f"{where}: {name} has type {came}: expected {dtype}{hint}")

    def rebuild(self, tensors: dict[str, Tensor], where: object) -> Any:
        """The state of these leaves, with counts as whole numbers.

        Raises:
            CheckpointError: there are values that no stream leaves behind.
        """
        counts = {}
        for name, leaf in self.leaves.items():
            given = tensors[name]
            if leaf.dtype == torch.int64 and given.is_floating_point():
                if not bool(((given == given.round()) & (given.abs() < MOST_STEPS)).all()):
                    raise CheckpointError(f"{where}: {name} has values that are no counts: expected whole numbers from 0")
                counts[name] = given.to(leaf.dtype)
        state = states.rebuild(self._structure, tensors | counts)
        self.check_values(state, where)
        return state

    def check_values(self, state: Any, where: object) -> None:
        """Refuse what the classes of the state find impossible: ages below 0, more steps than a cache has."""
        if found := next(states.faults(state), None):
            raise CheckpointError(f"{where}: {found}; it is damaged, or not what a stream left behind")

    def __repr__(self) -> str:
        return f"Owner({self.class_name}, {self.fingerprint})"


class _Marks:
    """By what a model's weights and config are recognised as unchanged; it keeps none of them alive."""

    owner: Owner

    def __init__(self, model: nn.Module):
        tensors = _weights(model)
        self.config, self.optimizer_steps = repr(config_of(model)), _optimizer_steps
        self.versions = _versions(tensors)
        self.lost = self.versions is None
        # Ids and addresses of what is gone are used again. A lost tensor is noted, and a storage's stays taken.
        self.tensors = [weakref.ref(tensor, self._lose) for tensor in tensors]
        self.storages = [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]

    def _lose(self, _: Any) -> None:
        self.lost = True

    def hold(self, model: nn.Module) -> bool:
        """Whether nothing has changed."""
        same = not self.lost and self.optimizer_steps == _optimizer_steps and self.config == repr(config_of(model))
        return same and self.versions == _versions(_weights(model)) and not self.lost


def _weights(model: nn.Module) -> list[Tensor]:
    """The tensors of the model's state dict, at a third of its cost."""
    found: list[Tensor | None] = []
    modules: list[nn.Module | None] = [model]
    while modules:
        if (module := modules.pop()) is not None:
            found += module._parameters.values()
            if module._buffers:
                unsaved = module._non_persistent_buffers_set
                found += [buffer for name, buffer in module._buffers.items() if name not in unsaved]
            modules += module._modules.values()
    return [tensor for tensor in found if tensor is not None]


def _versions(tensors: list[Tensor]) -> list[tuple[Any, ...]] | None:
    """Of each, which tensor it is, what it shows of which storage, and how often torch saw it change.

    None where torch does not count: such a model is taken for changed every time.
    """
    try:
        return [(id(each), each._version, each.untyped_storage()._cdata, each.data_ptr(), each.stride()) for each in tensors]
    except RuntimeError:  # of inference mode
        return None


_KNOWN: "weakref.WeakKeyDictionary[nn.Module, _Marks]" = weakref.WeakKeyDictionary()
_optimizer_steps = 0
_optimizers_are_watched = False


def _watch_optimizers() -> None:
    """Fused optimizers change weights without being counted by torch: each step of any counts as a change of all."""
    global _optimizers_are_watched
    if not _optimizers_are_watched:
        register_optimizer_step_post_hook(_count_step)
        _optimizers_are_watched = True


def _count_step(*_: Any) -> None:
    global _optimizer_steps
    _optimizer_steps += 1
