"""Token Turing Machines for streams: recurrent Transformers with a fixed set of memory tokens."""

import importlib
from typing import TYPE_CHECKING, Any

from tokenturing import state
from tokenturing.checkpoint import fingerprint, load, load_state, save, save_state
from tokenturing.models.machine import TokenTuringMachine

if TYPE_CHECKING:
    from tokenturing import baselines, testing
    from tokenturing.scenic import from_scenic

__version__ = "0.1.0"
__all__ = [
    "TokenTuringMachine",
    "baselines",
    "fingerprint",
    "from_scenic",
    "load",
    "load_state",
    "save",
    "save_state",
    "state",
    "testing",
]

_LAZY = {
    "baselines": "tokenturing.baselines",
    "from_scenic": "tokenturing.scenic",
    "testing": "tokenturing.testing",
    "scenic": "tokenturing.scenic",
}
"""public names that are imported at their first use"""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    value = getattr(module, name, module)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
