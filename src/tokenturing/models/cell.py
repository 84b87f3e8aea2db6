"""One step of the Token Turing Machine: read, process, write (paper section 3, figure 2)."""

from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from tokenturing.layers.look_back import LookBack, Past
from tokenturing.layers.positions import NoPositions, TokenPositions
from tokenturing.memory.clock import SlotClock
from tokenturing.memory.summarize import Encoded, Summarizer
from tokenturing.memory.write import Slots, Write
from tokenturing.state import out_of_range


class MachineState(NamedTuple):
    """The state of a Token Turing Machine: M * D numbers and one more for each slot.

    Ages are whole numbers: they never stall, so that no two that differ ever tie, and no cast to a smaller type touches them.
    """

    memory: Tensor
    """[B, M, D]"""
    age: Tensor
    """[B, M] int64, steps since each slot was last written (gated write; else it stays as it began)"""

    def fault(self) -> str | None:
        return out_of_range("age", self.age)


class LookingBackState(NamedTuple):
    """The same of a machine that looks back at its inputs: N * (K * D + 1) numbers more."""

    memory: Tensor
    age: Tensor
    recent: Tensor
    """[B, K, N, D], the last inputs"""
    quiet: Tensor
    """[B, N] int64, steps for which each input place has held the same token"""

    def fault(self) -> str | None:
        return out_of_range("age", self.age) or out_of_range("quiet", self.quiet)


class PreparedInput(NamedTuple):
    """The inputs as the read and the write see them, before the memory is known."""

    read: Encoded
    write: tuple


State = TypeVar("State", MachineState, LookingBackState)


class Cell(nn.Module):
    """Z = S_R([memory || input]); O = Process(Z); memory = Write(memory, input, O).

    Args:
        read: the summariser S_R.
        processor: [B, R, D] -> [B, R, D].
        write: what makes the next memory.
        positions: added before the read; the write has its own.
        clock: adds each slot's age and order, or None.
        look_back: adds what the past of each input place says of this input, or None.
    """

    def __init__(
        self,
        read: Summarizer,
        processor: nn.Module,
        write: Write,
        positions: TokenPositions | NoPositions,
        clock: SlotClock | None,
        look_back: LookBack | None = None,
    ):
        super().__init__()
        self.read = read
        self.processor = processor
        self.write = write
        self.positions = positions
        self.clock = clock
        self.look_back = look_back

    def prepare(self, x: Tensor, mask: Tensor | None, past: Past | None = None) -> PreparedInput:
        """What needs only the inputs [..., N, D] and their past, for all steps at once."""
        if self.look_back is not None:
            x = self.look_back(x, past)
        return PreparedInput(self.read.encode(self.positions.input(x), mask), self.write.prepare(x, mask))

    def slots(self, state: MachineState | LookingBackState) -> Slots:
        """The memory with what each slot knows of its place, age and order."""
        tokens = self.positions.memory(state.memory)
        if self.clock is not None:
            tokens = tokens + self.clock(state.memory, state.age)
        return Slots(state.memory, tokens, state.age)

    def forward(self, prepared: PreparedInput, state: State) -> tuple[Tensor, State, Tensor | None]:
        """One step -> the output tokens [B, R, D], the next state and, of a write that has them, the gates [B, M, 1]."""
        slots = self.slots(state)
        z = self.read.combine([self.read.encode(slots.tokens), prepared.read])
        output = self.processor(z)
        memory, age, gate = self.write(slots, prepared.write, output)
        # Under autocast a memory made anew comes in a smaller type; a state keeps the types it began with.
        return output, state._replace(memory=memory.to(state.memory.dtype), age=age), gate
