"""What a task's model hands on to its memory: the state, what grows of it, and the step that is compiled."""

from typing import Any

from tokenturing.checkpoint.hub import HubMixin
from tokenturing.errors import OptionError
from tokenturing.models.contract import RecurrentModel
from tokenturing.models.graphs import DEFAULT, compile_cell


class AroundMemory(HubMixin):
    """A model that puts something before a recurrent model, its `memory`, and something behind it, and keeps no state of its own.

    A subclass sets `memory`, and the name of its class as `config["memory"]`.
    """

    memory: RecurrentModel

    @property
    def growing(self) -> frozenset[str]:
        """Leaves of the state that grow with the stream: the memory's."""
        return self.memory.growing

    def initial_state(self, rows: int) -> Any:
        """The memory's state before the first step."""
        return self.memory.initial_state(rows)

    def compile_step(self, mode: str = DEFAULT) -> None:
        """Have torch.compile make the memory's step, in a mode of `models/graphs.py`.

        Raises:
            OptionError: its memory is none of which a single step can be compiled, or there is no such mode.
        """
        cell: Any = getattr(self.memory, "cell", None)
        if cell is None:
            raise OptionError(
                f"train.compile with memory={self.config['memory']!r}: expected a TokenTuringMachine, or compile=false"
            )
        compile_cell(cell, mode)
