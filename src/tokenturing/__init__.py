"""Token Turing Machines for streams: recurrent Transformers with a fixed set of memory tokens."""

from tokenturing.models.machine import TokenTuringMachine

__version__ = "0.1.0"
__all__ = ["TokenTuringMachine"]
