"""Models and the states of their sessions on disk."""

from tokenturing.checkpoint.folder import find_folder, load, load_folder, save, shipped
from tokenturing.checkpoint.session import fingerprint, load_state, save_state
from tokenturing.registry import find_class, register

__all__ = [
    "find_class",
    "find_folder",
    "fingerprint",
    "load",
    "load_folder",
    "load_state",
    "register",
    "save",
    "save_state",
    "shipped",
]
