"""The door for weights of the official implementation; `convert` lists the quirks that live behind it."""

from tokenturing.scenic.convert import from_scenic, to_scenic
from tokenturing.scenic.machine import ScenicTokenTuringMachine

__all__ = ["ScenicTokenTuringMachine", "from_scenic", "to_scenic"]
