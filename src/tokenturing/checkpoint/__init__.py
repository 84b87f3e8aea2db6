"""Models and the states of their sessions on disk and as bytes."""

from tokenturing.checkpoint.folder import find_folder, load, load_folder, save, shipped
from tokenturing.checkpoint.owner import Owner, fingerprint
from tokenturing.checkpoint.session import dump_state, load_state, parse_state, save_state
from tokenturing.registry import find_class, register

__all__ = [
    "Owner",
    "dump_state",
    "find_class",
    "find_folder",
    "fingerprint",
    "load",
    "load_folder",
    "load_state",
    "parse_state",
    "register",
    "save",
    "save_state",
    "shipped",
]
