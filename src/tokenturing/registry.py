"""The one table of names: of models, as checkpoints write them, and of tasks, as recipes do; and where each is found."""

import importlib
from importlib.metadata import entry_points
from typing import Any, TypeVar

from torch import nn

from tokenturing.errors import CheckpointError, OptionError, closest

Model = TypeVar("Model", bound=nn.Module)

BASELINES = (
    "LSTM",
    "GRU",
    "Memoryless",
    "WindowTransformer",
    "FullTransformer",
    "RecurrentTransformer",
    "TemporalMixer",
    "Retrieval",
)
_MODULES = {
    "TokenTuringMachine": "tokenturing.models.machine",
    "ScenicTokenTuringMachine": "tokenturing.scenic",
    "RecallModel": "tokenturing.tasks.recall.model",
    "Perception": "tokenturing.tasks.recall.eyes.perception",
    **dict.fromkeys(BASELINES, "tokenturing.baselines"),
}
"""imported only when a checkpoint names the class"""
TASKS = {
    "last_digits": "tokenturing.tasks.last_digits.task:LastDigits",
    "perception": "tokenturing.tasks.recall.eyes.task:RecallPerception",
    "recall": "tokenturing.tasks.recall.task:Recall",
}
TASK_ENTRY_POINTS = "tokenturing.tasks"
"""the group of entry points with which an installed package makes tasks of its own known by name"""
_REGISTERED: dict[str, type[nn.Module]] = {}


def register(cls: type[Model]) -> type[Model]:
    """Make a class of your own known to `save` and `load` by its name; usable as a decorator.

    Its instances need `config`, a dict of plain JSON values with which `cls(**config)` builds the same model.
    """
    name = cls.__name__
    known = _REGISTERED.get(name, cls)
    # The same qualified name again is the same class written anew, as notebooks do.
    if name in _MODULES or (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise CheckpointError(f"a class named {name!r} is registered already: give yours another name")
    _REGISTERED[name] = cls
    return cls


def find_class(name: str) -> type[nn.Module]:
    """The registered class of that name."""
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in _MODULES:
        raise CheckpointError(
            f"no class named {name!r} is known: expected {closest(name, [*_MODULES, *_REGISTERED])}; "
            "make your own known with tokenturing.checkpoint.register"
        )
    try:
        return getattr(importlib.import_module(_MODULES[name]), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"this version of tokenturing has no {name} ({error})") from error


def name_of(model: nn.Module) -> str:
    """The name under which the class of `model` is registered."""
    cls = type(model)
    found = find_class(cls.__name__)
    if found is not cls:
        raise CheckpointError(f"{cls} has the name of another class, {found}: rename and register it")
    return cls.__name__


def find_task(name: str) -> Any:
    """The class of a task: of the package, of an entry point, or `module:Class`.

    Raises:
        OptionError: there is none of that name.
    """
    known = {point.name: point.value for point in entry_points(group=TASK_ENTRY_POINTS)} | TASKS
    module, _, attribute = known.get(name, name).partition(":")
    if not attribute:
        raise OptionError(f"task={name!r} is not known: expected {closest(name, known)}, or module:Class")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if name in known or (isinstance(error, ImportError) and error.name not in (module, module.partition(".")[0])):
            raise
        raise OptionError(f"task={name!r} cannot be found ({error}): expected module:Class, importable from here") from error
