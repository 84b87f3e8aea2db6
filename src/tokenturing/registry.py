"""The one table of names: of models, as checkpoints write them, and of tasks, as recipes do; and where each is found."""

import importlib
import os
import sys
from importlib.metadata import entry_points
from typing import Any, TypeVar

from torch import nn

from tokenturing.errors import CheckpointError, OptionError, closest

Model = TypeVar("Model", bound=nn.Module)

BASELINES = (
    "LSTM",
    "GRU",
    "MinGRU",
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
    "ActivityModel": "tokenturing.tasks.activity.model",
    "MiniRoad": "tokenturing.tasks.activity.miniroad",
    **dict.fromkeys(BASELINES, "tokenturing.baselines"),
}
"""imported only when a checkpoint names the class"""
TASKS = {
    "activity_50salads": "tokenturing.tasks.activity.tasks:Activity50Salads",
    "activity_charades": "tokenturing.tasks.activity.tasks:ActivityCharades",
    "activity_thumos": "tokenturing.tasks.activity.tasks:ActivityThumos",
    "activity_watch": "tokenturing.tasks.activity.tasks:ActivityWatch",
    "last_digits": "tokenturing.tasks.last_digits.task:LastDigits",
    "perception": "tokenturing.tasks.recall.eyes.task:RecallPerception",
    "recall": "tokenturing.tasks.recall.task:Recall",
}
TASK_ENTRY_POINTS = "tokenturing.tasks"
"""the group of entry points with which an installed package makes tasks of its own known by name"""
TASK_VARIABLE = "TOKENTURING_TASKS"
"""tasks that are not installed, module:Class with commas between them"""
_REGISTERED: dict[str, type[nn.Module]] = {}


class OwnConfig:
    """An attribute `config` whose tables are copied when it is set: what a caller does to his own later changes no model."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        try:
            return vars(instance)["config"]
        except KeyError:
            raise AttributeError(f"{type(instance).__name__} has no config yet") from None

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)["config"] = _copied(value)

    def __delete__(self, instance: Any) -> None:
        vars(instance).pop("config", None)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def register(cls: type[Model]) -> type[Model]:
    """Make a class of your own known to `save` and `load` by its name; usable as a decorator.

    Its instances need `config`, a dict of plain JSON values with which `cls(**config)` builds the same model. It is copied when
    it is set.
    """
    name = cls.__name__
    known = _REGISTERED.get(name, cls)
    # The same qualified name again is the same class written anew, as notebooks do.
    if name in _MODULES or (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise CheckpointError(f"a class named {name!r} is registered already: give yours another name")
    _REGISTERED[name] = cls
    if not hasattr(cls, "config"):
        cls.config = OwnConfig()  # type: ignore[attr-defined]
    return cls


def find_class(name: str) -> type[nn.Module]:
    """The registered class of that name; the modules of tasks are imported if need be, as they register theirs.

    Raises:
        CheckpointError: there is none.
    """
    if name not in _REGISTERED and name not in _MODULES:
        for task in (TASKS | _tasks_of_others()).values():
            _import(task, task.partition(":")[0])
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in _MODULES:
        raise CheckpointError(
            f"no class named {name!r} is known: expected {closest(name, [*_MODULES, *_REGISTERED])}; make your own known with "
            f"tokenturing.checkpoint.register, its module by an entry point of the group {TASK_ENTRY_POINTS!r} or "
            f"{TASK_VARIABLE}=module:Class"
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


def find_task(name: str, *, anywhere: bool = True) -> Any:
    """The class of a task: of the package, of an entry point, or `module:Class`.

    Args:
        name: of the task.
        anywhere: whether a `module:Class` may be imported that nobody made known: not where a checkpoint says the name, which
            may be a stranger's.

    Raises:
        OptionError: there is none of that name.
    """
    others = _tasks_of_others()
    value = (others | TASKS).get(name, name)
    module, _, attribute = value.partition(":")
    if not attribute or not module:
        raise OptionError(f"task={name!r} is not known: expected {closest(name, others | TASKS)}, or module:Class")
    if not (anywhere or value in (others | TASKS).values() or module in sys.modules):
        raise OptionError(f"task={name!r} is out of a checkpoint and not imported: if you trust it, set {TASK_VARIABLE}={name}")
    found = getattr(_import(name, module), attribute, None)
    if not hasattr(found, "Config"):
        raise OptionError(f"task={name!r}: {module} has no task {attribute!r}: expected a class with a Config, as Task has")
    return found


def _import(task: str, module: str) -> Any:
    """The module of a task; what is wrong inside it is its author's to see."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}.") and not module.startswith("tokenturing."):
            raise OptionError(
                f"task={task!r}: there is no module {error.name!r}: is its folder in PYTHONPATH, and the name right "
                f"(in the recipe, or in {TASK_VARIABLE})?"
            ) from error
        raise


def _tasks_of_others() -> dict[str, str]:
    """Name -> module:Class of tasks that installed packages and the environment make known."""
    installed = {point.name: point.value for point in entry_points(group=TASK_ENTRY_POINTS)}
    values = (value.strip() for value in os.environ.get(TASK_VARIABLE, "").split(","))
    return installed | {value: value for value in values if value}
