"""Token Turing Machines for streams: recurrent Transformers with a fixed set of memory tokens."""

import importlib
from typing import TYPE_CHECKING, Any

from tokenturing.errors import MissingExtraError

if TYPE_CHECKING:
    from tokenturing import baselines, runtime, state, testing
    from tokenturing.checkpoint import dump_state, fingerprint, load, load_state, parse_state, save, save_state
    from tokenturing.models.machine import TokenTuringMachine
    from tokenturing.scenic import from_scenic

__version__ = "0.1.0"
__all__ = [
    "TokenTuringMachine",
    "baselines",
    "dump_state",
    "fingerprint",
    "from_scenic",
    "load",
    "load_state",
    "parse_state",
    "runtime",
    "save",
    "save_state",
    "state",
    "testing",
]

_LAZY = {
    "TokenTuringMachine": "tokenturing.models.machine",
    "baselines": "tokenturing.baselines",
    "dump_state": "tokenturing.checkpoint",
    "fingerprint": "tokenturing.checkpoint",
    "from_scenic": "tokenturing.scenic",
    "load": "tokenturing.checkpoint",
    "load_state": "tokenturing.checkpoint",
    "parse_state": "tokenturing.checkpoint",
    "runtime": "tokenturing.runtime",
    "save": "tokenturing.checkpoint",
    "save_state": "tokenturing.checkpoint",
    "scenic": "tokenturing.scenic",
    "state": "tokenturing.state",
    "testing": "tokenturing.testing",
}
"""public names, imported at their first use: `tokenturing.runtime` does without torch"""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_LAZY[name])
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "torch") from error
    value = getattr(module, name, module)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
