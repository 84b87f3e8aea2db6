"""The official machine with the contract of every model here; `tokenturing.scenic` lists its quirks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokenturing.errors import OptionError, choose, closest
from tokenturing.memory.summarize import Summarizer
from tokenturing.models.cell import MachineState, PreparedInput
from tokenturing.models.machine import TokenTuringMachine
from tokenturing.scenic.units import (
    QUERY_HEADS,
    AddPositionEmbs,
    Encoder,
    LayerNorm,
    MixerBlock,
    MlpBlock,
    TokenAddEraseWrite,
    TokenLearnerMHA,
    TokenLearnerModuleV11,
)

UNIT, SIMPLE_UNIT = "TokenTuringMachineUnit", "TokenTuringMachineSimpleUnit"
MEMORY_MODES = ("TL", "TL-MHA", "TL-AddErase")
PROCESSING_UNITS = ("transformer", "mixer", "mlp")
_BOTH = {
    "processing_unit": "transformer",
    "num_layers": 1,
    "mlp_dim": 512,
    "num_heads": 12,
    "dropout_rate": 0.0,
}
UNITS: dict[str, dict[str, Any]] = {
    UNIT: {
        "process_size": 8,
        "memory_size": 64,
        "memory_mode": "TL",
        "use_positional_embedding": False,
        **_BOTH,
    },
    SIMPLE_UNIT: {"process_size": 16, "memory_size": 96, **_BOTH},
}
"""the official fields of each unit and their defaults"""
_LEAST = {"width": 1, "process_size": 1, "memory_size": 1, "num_layers": 0, "mlp_dim": 1}


class ScenicTokenTuringMachine(TokenTuringMachine):
    """The official machine, quirks included.

    Its parameters have Flax's names, with "." for "/", and Flax's shapes.

    Args:
        width: D.
        unit: "TokenTuringMachineUnit" or "TokenTuringMachineSimpleUnit".
        input_tokens: N where it is fixed; needed with `use_positional_embedding`.
        **fields: the unit's official fields; those left out have their official defaults.

    Raises:
        OptionError: a field is unknown or its value does not fit.
    """

    def __init__(self, width: int, *, unit: str = UNIT, input_tokens: int | None = None, **fields: Any):
        nn.Module.__init__(self)  # not the parent's, which would build a cell of our own kind
        fields = complete_fields(unit, fields)
        self.config = {"width": width, "unit": unit, "input_tokens": input_tokens, **fields}
        _check_sizes(self.config)
        self.width, self.input_tokens = width, input_tokens
        self.output_tokens, self.memory_tokens = fields["process_size"], fields["memory_size"]
        self.initial_memory = None
        self.simple = unit == SIMPLE_UNIT
        self.mode = fields.get("memory_mode", "TL")
        self.processing, self.layers = fields["processing_unit"], fields["num_layers"]
        self._add_memory(fields)
        self._add_processor(fields)

    def _add_memory(self, fields: dict[str, Any]) -> None:
        """The modules that read and write, by their Flax names."""
        width, read, slots = self.width, self.output_tokens, self.memory_tokens

        def summarizer(tokens: int) -> Summarizer:
            if self.mode == "TL-MHA":
                return TokenLearnerMHA(width, tokens)
            return TokenLearnerModuleV11(width, tokens, fields["dropout_rate"])

        kind = "TokenLearnerMHA" if self.mode == "TL-MHA" else "TokenLearnerModuleV11"
        self._reader, self._writer = f"{kind}_0", f"{kind}_1"
        self.add_module(self._reader, summarizer(read))
        if self.mode == "TL-AddErase":
            self.TokenAddEraseWrite_0 = TokenAddEraseWrite(width, read)
        elif not self.simple:
            self.add_module(self._writer, summarizer(slots))
        places = slots + (self.input_tokens or 0) if fields.get("use_positional_embedding") else None
        self.read_pos_embed = None if places is None else AddPositionEmbs(places, width)
        self.write_pos_embed = None if places is None else AddPositionEmbs(places + read, width)

    def _add_processor(self, fields: dict[str, Any]) -> None:
        """The modules that process, by their Flax names; the official unit has no module around them."""
        width, hidden, dropout = self.width, fields["mlp_dim"], fields["dropout_rate"]
        tokens = self.output_tokens + self.memory_tokens if self.simple else self.output_tokens
        if self.processing == "transformer":
            self.Encoder_0 = Encoder(width, tokens, self.layers, fields["num_heads"], hidden, dropout)
            return
        for i in range(self.layers):
            if self.processing == "mixer":
                self.add_module(f"MixerBlock_{i}", MixerBlock(width, tokens, hidden, dropout))
            else:
                self.add_module(f"LayerNorm_{i}", LayerNorm(width))
                self.add_module(f"MlpBlock_{i}", MlpBlock(width, hidden, width, dropout))
        self.add_module(self._last_norm, LayerNorm(width))

    @property
    def _last_norm(self) -> str:
        """Flax numbers modules by their kind, so that the last norm's number depends on those before."""
        return f"LayerNorm_{self.layers if self.processing == 'mlp' else 0}"

    def prepare(
        self, x: Tensor, token_mask: Tensor | None, state: Any, reset: Tensor | None, active: Tensor | None
    ) -> tuple[Any, dict[str, Tensor]]:
        """What reads and writes see of the inputs."""
        reader = self._summarizer(self._reader)
        if self.simple:
            if token_mask is not None:
                # A row without any token keeps its zeros, whose summary is zeros whatever weights they get.
                token_mask = token_mask | ~token_mask.any(dim=-1, keepdim=True)
            return (reader.combine([reader.encode(x, token_mask)]),), {}
        read = reader.encode(_place(self.read_pos_embed, x, self.memory_tokens), token_mask)
        if self.mode == "TL-AddErase":
            if self.write_pos_embed is not None:
                # Nothing uses these positions. A sum over none of them makes their gradient zero, not None.
                read = read._replace(values=read.values + self.write_pos_embed.pos_embedding[:, :0].sum())
            return PreparedInput(read, ()), {}
        placed = _place(self.write_pos_embed, x, self.memory_tokens)
        return PreparedInput(read, self._summarizer(self._writer).encode(placed, token_mask)), {}

    def advance(self, prepared: Any, state: MachineState) -> tuple[Tensor, MachineState]:
        """One step -> output tokens [B, R, D] and the next state."""
        if self.simple:
            tokens = self.process(torch.cat([state.memory, prepared[0]], dim=1))
            # Copies, as parts of one tensor would hold on to the whole of it.
            output, memory = tokens[:, : self.output_tokens].clone(), tokens[:, self.output_tokens :].clone()
            return output, state._replace(memory=memory.to(state.memory.dtype))
        reader = self._summarizer(self._reader)
        seen = reader.encode(_place(self.read_pos_embed, state.memory, 0))
        output = self.process(reader.combine([seen, prepared.read]))
        memory = self._write(state.memory, prepared.write, output)
        return output, state._replace(memory=memory.to(state.memory.dtype))

    def process(self, tokens: Tensor) -> Tensor:
        """[B, R, D] -> [B, R, D]; in the simple unit all M + R tokens at once."""
        if self.processing == "transformer":
            return self.Encoder_0(tokens)
        for i in range(self.layers):
            if self.processing == "mixer":
                tokens = self.get_submodule(f"MixerBlock_{i}")(tokens)
            else:
                tokens = self.get_submodule(f"MlpBlock_{i}")(self.get_submodule(f"LayerNorm_{i}")(tokens))
        return self.get_submodule(self._last_norm)(tokens)

    def _write(self, memory: Tensor, prepared: Any, output: Tensor) -> Tensor:
        """memory [B, M, D], output [B, R, D] -> the next memory [B, M, D]"""
        if self.mode == "TL-AddErase":
            return self.TokenAddEraseWrite_0(memory, output)
        writer = self._summarizer(self._writer)
        kept = writer.encode(_place(self.write_pos_embed, memory, 0))
        made = writer.encode(_place(self.write_pos_embed, output, self.memory_tokens + (self.input_tokens or 0)))
        return writer.combine([kept, prepared, made])

    def _summarizer(self, name: str) -> Summarizer:
        return self.get_submodule(name)  # type: ignore[return-value]


def _place(positions: nn.Module | None, tokens: Tensor, start: int) -> Tensor:
    """Add the positions from `start` on to tokens [..., n, D], if there are any."""
    return tokens if positions is None else positions(tokens, start)


def complete_fields(unit: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """All official fields of a unit: those given, and the official defaults of the others."""
    choose("unit", unit, UNITS)
    defaults = UNITS[unit]
    for name in fields:
        if name not in defaults:
            raise OptionError(f"{unit} has no field {name!r}: expected {closest(name, defaults)}")
    complete = {**defaults, **fields}
    mode = complete.get("memory_mode", "TL")
    if mode not in MEMORY_MODES:
        raise OptionError(
            f"memory_mode={mode!r} is not known: expected {closest(mode, MEMORY_MODES)}. The official code "
            "silently ignores a misspelt memory_mode and summarises nothing; here it is an error"
        )
    choose("processing_unit", complete["processing_unit"], PROCESSING_UNITS)
    return complete


def _check_sizes(config: dict[str, Any]) -> None:
    for name, least in _LEAST.items():
        if config[name] < least:
            raise OptionError(f"{name}={config[name]}: expected at least {least}")
    if not 0 <= config["dropout_rate"] < 1:
        raise OptionError(f"dropout_rate={config['dropout_rate']}: expected at least 0 and less than 1")
    width, heads = config["width"], config["num_heads"]
    if config["processing_unit"] == "transformer" and (heads < 1 or width % heads):
        raise OptionError(f"width={width} does not split into num_heads={heads}: choose a divisor of the width")
    if config.get("memory_mode") == "TL-MHA" and width % QUERY_HEADS:
        raise OptionError(f"width={width} does not split into the {QUERY_HEADS} heads of memory_mode='TL-MHA'")
    if config.get("use_positional_embedding") and (config["input_tokens"] or 0) < 1:
        raise OptionError(
            f"use_positional_embedding=True with input_tokens={config['input_tokens']}: "
            "every input place has a position, so say how many input tokens N there are"
        )
