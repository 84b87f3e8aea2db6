"""Random numbers of a model that is being built, apart from everybody else's."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def own_draws() -> Iterator[None]:
    """Whatever this thread draws or seeds in here, torch's generator for the CPU does not notice.

    `torch.random.fork_rng` would put that generator back, and undo what other threads have drawn in the meantime.
    """
    generator = torch.Generator()
    generator.set_state(torch.get_rng_state())
    with _SEEDS.go_to(generator), _Draws(generator):
        yield


class QuickMode(TorchDispatchMode):
    """A mode without torch's guard against compiling it, which would load 2 s of compiler at its first operation."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _Draws(QuickMode):
    """Hands the generator to each operation on the CPU that draws and was given none."""

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.generator = generator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None and _is_on_cpu(args, kwargs):
            drawing = _that_takes_a_generator(func)
            if drawing is not None:
                return drawing(*args, **{**kwargs, "generator": self.generator})
        return func(*args, **kwargs)


def _is_on_cpu(args: Any, kwargs: Any) -> bool:
    first = next((each for each in args if isinstance(each, torch.Tensor)), None)
    device = kwargs.get("device") or ("cpu" if first is None else first.device)
    return torch.device(device).type == "cpu"


def _that_takes_a_generator(func: Any) -> Any:
    """The operation itself, or its twin that takes one: `rand` has `rand.generator`, `randint.low` `randint.low_generator`."""
    if any(argument.name == "generator" and argument.kwarg_only for argument in func._schema.arguments):
        return func
    name = func._overloadname
    twins = ("generator" if name == "default" else f"{name}_generator", name.replace("low", "low_generator"))
    return next((getattr(func.overloadpacket, twin) for twin in twins if twin in func.overloadpacket.overloads()), None)


class _Seeds(threading.local):
    """Stands in for the generator that `torch.manual_seed`, `get_rng_state` and the like mean, while any thread builds a model.

    Each thread gets its own generator if it has one here, and else torch's.
    """

    generator: Any = torch.random.default_generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)

    @contextmanager
    def go_to(self, generator: torch.Generator) -> Iterator[None]:
        """Seeds of this thread go to this generator."""
        global _building
        with _lock:
            _building += 1
            torch.random.default_generator = self  # type: ignore[assignment]
        before, self.generator = self.generator, generator
        try:
            yield
        finally:
            self.generator = before
            with _lock:
                _building -= 1
                if not _building:
                    torch.random.default_generator = torch.default_generator


_SEEDS = _Seeds()
_lock, _building = threading.Lock(), 0
