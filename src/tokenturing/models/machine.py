"""The Token Turing Machine (Ryoo et al., CVPR 2023, arXiv 2211.09119)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tokenturing.errors import OptionError, choose
from tokenturing.layers.age import HORIZON
from tokenturing.layers.look_back import LookBack, Past
from tokenturing.layers.positions import SCALE, NoPositions, TokenPositions
from tokenturing.memory.clock import SlotClock
from tokenturing.memory.summarize import build_summarizer
from tokenturing.memory.write import build_write
from tokenturing.models.arguments import check_batch_size
from tokenturing.models.cell import Cell, LookingBackState, MachineState
from tokenturing.models.contract import RecurrentModel
from tokenturing.models.fast import covers, fast_segment
from tokenturing.models.look_back import look_back as look_back_over
from tokenturing.models.numbers import check_flag, check_real, check_whole
from tokenturing.models.scan import add_terms, prepare_one
from tokenturing.processors import build_processor


class TokenTuringMachine(RecurrentModel):
    """A recurrent Transformer whose state is a fixed set of memory tokens.

    Args:
        width: D, of every token.
        memory_tokens: M.
        read_tokens: R, read from memory and input at each step, and given out.
        layers: of the processor.
        heads: of every attention; a divisor of the width.
        input_tokens: N where it is fixed (each input place then has a position), else None.
        read: how tokens are read: "mlp", "query" or "pool" (paper section 3.1).
        write: how the memory is written: "gated", "mlp", "query", "pool", "erase_add", "concat" or "none".
        processor: "transformer", "mixer", "mlp" or "tokenformer".
        initial_memory: "learned" or "zeros".
        positions: add learned positions to slots, kinds of token and input places.
        hidden: width of the processor's MLP; None: 4 D.
        dropout: inside the processor.
        look_back: K, how many of the last inputs each input is seen with, and how long its place has held the same; it needs
            `input_tokens`.
        horizon: steps at which ages saturate (of the slots with write "gated", of the inputs with a look back); streams to
            train on should be longer.
        write_cost: what a write costs in training (write "gated"), so that what is not worth writing is not written, and what
            is, once. This times the gates, summed over slots and active steps and averaged over rows, is the term "write" for a
            loss to add.

    Raises:
        OptionError: an option has no such value, or the numbers do not fit together.
    """

    look_back: int = 0
    never: int = math.ceil(HORIZON)
    """what the clock of an input place shows before its first step, where there is a look back"""
    write_cost: float = 0.0
    fast: bool = True
    """whether training takes chunks of steps as one operation, where that gives the same; false: step by step, as the cell says,
    with derivatives of any order"""

    def __init__(
        self,
        width: int = 256,
        memory_tokens: int = 96,
        read_tokens: int = 16,
        layers: int = 4,
        heads: int = 8,
        *,
        input_tokens: int | None = None,
        read: str = "mlp",
        write: str = "gated",
        processor: str = "transformer",
        initial_memory: str = "learned",
        positions: bool = True,
        hidden: int | None = None,
        dropout: float = 0.0,
        look_back: int = 0,
        horizon: float = HORIZON,
        write_cost: float = 0.0,
    ):
        super().__init__()
        self.config: dict[str, Any] = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        check_whole(self.config, ("width", "memory_tokens", "read_tokens", "layers", "heads", "input_tokens", "hidden"))
        check_whole(self.config, ("look_back",), least=0)
        check_real("dropout", dropout, least=0, below=1)
        check_real("horizon", horizon, above=0)
        check_real("write_cost", write_cost, least=0)
        check_flag("positions", positions)
        choose("initial_memory", initial_memory, ("learned", "zeros"))
        self.width, self.output_tokens, self.input_tokens = width, read_tokens, input_tokens
        self.memory_tokens = memory_tokens
        if look_back and input_tokens is None:
            raise OptionError(f"look_back={look_back} with input_tokens=None: expected how many tokens come in, or look_back=0")
        self.look_back, self.never, self.write_cost = look_back, math.ceil(horizon), write_cost

        def token_positions(slots: int | None, output: bool) -> TokenPositions | NoPositions:
            return TokenPositions(width, slots, input_tokens, output=output) if positions else NoPositions()

        self.cell = Cell(
            read=build_summarizer(read, width, read_tokens, heads, option="read"),
            processor=build_processor(
                processor,
                width=width,
                tokens=read_tokens,
                layers=layers,
                heads=heads,
                hidden=hidden or 4 * width,
                dropout=dropout,
            ),
            # The gated write sees the slots as the read does.
            write=build_write(
                write, width, memory_tokens, heads, token_positions(None if write == "gated" else memory_tokens, output=True)
            ),
            positions=token_positions(memory_tokens, output=False),
            clock=SlotClock(width, horizon) if write == "gated" else None,
            look_back=LookBack(width, look_back, horizon) if look_back else None,
        )
        start = torch.randn(memory_tokens, width) * SCALE if initial_memory == "learned" else torch.zeros(0)
        self.initial_memory = nn.Parameter(start) if initial_memory == "learned" else None

    def initial_state(self, batch_size: int) -> MachineState | LookingBackState:
        """The memory before the first step; slot i begins as if written i + 1 steps ago, so that no two tie."""
        check_batch_size(batch_size)
        like = next(self.parameters())
        memory = like.new_zeros(self.memory_tokens, self.width) if self.initial_memory is None else self.initial_memory
        age = torch.arange(1, self.memory_tokens + 1, device=like.device)
        rows = memory.expand(batch_size, -1, -1).clone(), age.expand(batch_size, -1).clone()
        if not self.look_back:
            return MachineState(*rows)
        assert self.input_tokens is not None
        return LookingBackState(
            *rows,
            like.new_zeros(batch_size, self.look_back, self.input_tokens, self.width),
            age.new_full((batch_size, self.input_tokens), self.never),
        )

    def prepare(
        self, x: Tensor, token_mask: Tensor | None, state: Any, reset: Tensor | None, active: Tensor | None
    ) -> tuple[Any, dict[str, Tensor]]:
        """What the read and the write see of each input; with a look back also what the state then knows of the past."""
        if not self.look_back:
            return self.cell.prepare(x, token_mask), {}
        past, after = look_back_over(Past(state.recent, state.quiet), self.never, x, reset, active)
        return self.cell.prepare(x, token_mask, past), after._asdict()

    def segment(
        self,
        state: Any,
        x: Tensor,
        token_mask: Tensor | None,
        reset: Tensor | None,
        active: Tensor | None,
        terms: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Any]:
        """T steps, with gradients written out by hand where there are such."""
        if not (self.fast and "cell" in self._modules and covers(self.cell, state.memory, x)):
            return super().segment(state, x, token_mask, reset, active, terms)
        prepared, known = self.prepare(x, token_mask, state, reset, active)
        fresh = state if reset is None else self.initial_state(len(x))
        y, memory, age, gate = fast_segment(self.cell, prepared, state, fresh, reset, active)
        if active is not None:
            y = torch.where(active[:, :, None, None], y, 0.0)
            gate = torch.where(active.unsqueeze(-1), gate, 0.0)
        if terms is not None and self.write_cost:
            for cost in (self.write_cost * gate.sum(2)).sum(0).div(max(len(x), 1)).unbind(0):
                add_terms(terms, {"write": cost})
        return y, state._replace(memory=memory, age=age, **known)

    def step_and_watch(self, x: Tensor, state: Any, token_mask: Tensor | None) -> tuple[Tensor, Any, dict[str, Tensor]]:
        """A step as `step` makes it, and what it did to each slot [B, M]: "read", the most that any read token took of it, and
        of a write with gates "written", how much of it was replaced."""
        prepared, known = prepare_one(self, x, token_mask, state)
        y, following, gate = self.cell(prepared, state)
        read = self.cell.read
        weights = read.weights([read.encode(self.cell.slots(state).tokens), prepared.read])[:, : self.memory_tokens]
        watched = {"read": weights.unflatten(-1, (read.heads, -1)).mean(-2).amax(-1)}
        return y, following._replace(**known), watched if gate is None else watched | {"written": gate.squeeze(-1)}

    def advance(self, prepared: Any, state: Any) -> tuple[Tensor, Any]:
        y, following, _ = self.cell(prepared, state)
        return y, following

    def advance_with_terms(self, prepared: Any, state: Any) -> tuple[Tensor, Any, dict[str, Tensor]]:
        if not self.write_cost:
            return super().advance_with_terms(prepared, state)
        y, following, gate = self.cell(prepared, state)
        if gate is None:
            return y, following, {}
        # A sum over slots and then over steps: half precision would lose the small ones.
        gates = gate.sum(dim=(1, 2), dtype=torch.promote_types(gate.dtype, torch.float32))
        return y, following, {"write": self.write_cost * gates}
