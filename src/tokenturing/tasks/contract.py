"""What a task promises: a model, batches to train it on, losses, figures, and a session that watches and answers.

A task is a class with a frozen dataclass `Config`, whose fields are the recipe's keys and tables beside [train]; it is built as
`Class(config, seed)`. `registry.py` names those of the package; `module:Class` in a recipe names any other.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tokenturing.errors import OptionError
from tokenturing.evaluate.figures import Figure
from tokenturing.media.steps import MediaStep
from tokenturing.media.view import View

Report = Callable[[str, int, int], None]
"""called with (what is going on, done, total) by work that may take long"""


class Batch(NamedTuple):
    """Chunks of B streams, T steps each: trees of [B, T, ...]."""

    inputs: Any
    targets: Any
    reset: Tensor
    """bool [B, T], true where a stream begins"""

    def to(self, device: str | torch.device) -> "Batch":
        """The same on a device."""
        return tree_map(lambda part: part.to(device) if isinstance(part, Tensor) else part, self)

    @property
    def counts(self) -> Mapping[str, Tensor]:
        """What `losses` divides by in place of the batch's own counts; empty unless it is a part of another."""
        return {}


class Part(Batch):
    """Some of the rows of a batch, cut so that it costs the mean of what its parts cost."""

    _counts: Mapping[str, Tensor]

    @classmethod
    def of(cls, rows: Batch, counts: Mapping[str, Tensor]) -> "Part":
        """These rows, and `Task.counts` of the whole batch by the number of its parts."""
        part = cls(*rows)
        part._counts = counts
        return part

    def to(self, device: str | torch.device) -> "Part":
        """The same on a device."""
        return Part.of(Batch(*self).to(device), {name: count.to(device) for name, count in self._counts.items()})

    @property
    def counts(self) -> Mapping[str, Tensor]:
        """What `losses` divides by."""
        return self._counts


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


class Batches(Protocol):
    """An endless iterator over the chunks of streams that go on from chunk to chunk."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def state(self) -> dict[str, Any]:
        """Where it stands, as plain JSON values; under "rows", where there is such a key, one for each of its rows."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state()` was taken; "rows" are all from global row 0 on, whoever drew them."""
        ...


class Event(NamedTuple):
    """Something that a session noticed."""

    sense: str
    """how, such as "sees" """
    what: str
    confidence: float
    """0 to 1"""


NOTHING_YET = "nothing yet"
"""the answer where nothing was noticed that there is to say; `tokenturing stream` sums these up"""


class Answer(NamedTuple):
    """What a session says to a question."""

    question: str
    answer: str
    confidence: float
    """0 to 1"""


class Segment(NamedTuple):
    """What goes on in a stretch of a recording."""

    start: float
    end: float
    """seconds"""
    label: str
    confidence: float = 1.0
    """0 to 1, the mean of its steps"""


class Session(Protocol):
    """One stream that is watched; asking changes nothing.

    One that can be kept in a file (`tokenturing stream --state`) has also `model`, that which it runs; `snapshot()`, all that it
    needs to go on as arrays by name, which have the same shapes and types always; and `restore(arrays)`, the way back.

    One that a server can keep, and step together with others, has these and `state`, that of the model; `encode(step)`, the
    model's inputs [1, ...] by name; and `absorb(inputs, y, state, perceived)`, which takes what the model made of them and
    returns what is noticed. `take` is one after the other. One that says at each step which labels are right has `labels`, their
    names; `shares`, of each as of the last step, None before the first; and, where any number may be right at once, `several`,
    which is true. Where it has a `memory()`, arrays by name that tell what the last
    step did to its memory, those who watch get to see them.
    """

    questions: Sequence[str]
    """all that can be asked"""
    rotation: Sequence[str]
    """those worth asking now and then"""
    knows: str = ""
    """what it recognises and when it takes note of it, to be read after "NAME knows"; may be left out"""

    def take(self, step: MediaStep) -> list[Event]:
        """Go on by one step -> what is noticed in it."""
        ...

    def ask(self, *questions: str) -> list[Answer]:
        """The answers as of the last step taken."""
        ...


def queries_of(session: Session) -> list[str]:
    """All that a session can be asked."""
    return list(session.questions)


class Task(Protocol):
    """A task; those that subclass it get what may be left out."""

    Config: ClassVar[type]
    extras: ClassVar[tuple[str, ...]] = ()
    """of this package, that training and evaluating need"""
    page: ClassVar[Path | None] = None
    """a folder with index.html, in which people can talk to a model in the browser; a server shows it at /"""

    @abstractmethod
    def build(self) -> nn.Module:
        """An untrained model that streams."""
        ...

    @abstractmethod
    def batches(self, split: str, rows: range, steps: int, model: nn.Module) -> Batches:
        """Batches of a split, B = len(rows): seeded by (seed, global row, number), whatever other rows there are."""
        ...

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch, state: Any) -> tuple[dict[str, Tensor], Any]:
        """What a chunk costs and the state after it; "loss" is minimised, the others are logged."""
        ...

    @abstractmethod
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Shares right and the like on validation data."""
        ...

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many things each mean of `losses` is over, by names of the task's own, where rows do not count the same.

        With them `losses` divides by `batch.counts or self.counts(batch)`, so that parts of a batch cost what it costs whole.
        """
        return {}

    def schedule(self, model: nn.Module, update: int) -> None:
        """Set what depends on the number of updates done; called before each."""
        return

    def folds(self) -> list[str]:
        """Settings of a recipe, one for each part of the data to test on, such as "data.fold=1"; none without such parts."""
        return []

    def fingerprint(self) -> dict[str, str]:
        """What each thing holds that there is to learn from, by its name: a run goes on with the same only."""
        return {}

    def notes(self) -> dict[str, Any]:
        """What a checkpoint should say of how it was made, as plain JSON values."""
        return {}

    def evaluate(
        self, models: Mapping[str, Any], options: Mapping[str, str], report: Report | None = None
    ) -> dict[str, list[Figure]]:
        """Figures on test data of each model; options as strings from the command line."""
        raise OptionError(f"the task {type(self).__name__} has no evaluation")

    def tests_like(self, other: "Task") -> bool:
        """Whether this task may evaluate the models of another of its class: where options change nothing in the test."""
        return getattr(self, "options", None) == getattr(other, "options", None)

    def view(self, model: Any) -> View:
        """What a session of this model wants to see and hear of media; opening what it needs for that may take a moment."""
        return View()

    def session(self, model: Any, media: Any) -> Session:
        """A session of a model (as trained, or on the runtime) that watches media."""
        raise OptionError(f"the task {type(self).__name__} has no sessions")

    def label(self, model: Any, recording: Path, report: Report | None = None) -> list[Segment]:
        """What goes on in a recording in a file, watched step by step; the model is one as trained, or on the runtime."""
        raise OptionError(
            f"{recording} is labelled by no model of the task {type(self).__name__}: expected a video or sound file"
        )


def mean(total: Tensor, count: Tensor) -> Tensor:
    """A loss's mean over the whole batch, of which this process may have some rows only.

    The mean over the processes of what this gives is the sum of all totals by the sum of all counts.
    """
    if dist.is_available() and dist.is_initialized():
        count = count.clone().to(total.dtype)
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return total / count
