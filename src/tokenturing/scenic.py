"""The door for weights of the official implementation (google-research/scenic, `projects/token_turing/model.py`, Flax).

    model = from_scenic(params, unit="TokenTuringMachineUnit", process_size=16, memory_size=96, num_layers=4)
    gradients = to_scenic(model, gradients=True)

`params` maps Flax paths, "Encoder_0/encoder_norm/scale", to arrays; `flax.traverse_util.flatten_dict(tree, sep="/")`
makes it from a tree. The machine's parameters keep Flax's names (with "." for "/") and Flax's shapes (kernels are
[in, out]), so `dict(model.named_parameters())["Encoder_0.encoder_norm.scale"].grad` is the gradient of that path as it is.

Quirks of the official code live behind this door only:

- The initial memory is zeros.
- `vit.Encoder` adds learned positions of its own to the tokens it processes, whatever `use_positional_embedding` says.
- `use_positional_embedding` gives each place of [memory || input] (read) and [memory || input || output] (write) a position,
  so N is fixed. With "TL-AddErase" the write has positions that nothing uses: their gradient is zero.
- "TL-AddErase" reads as "TL" does. Its write has no sigmoid on the erase vector, adds mean(1 - w a) where the NTM adds
  sum(w a), and always has 8 heads with a hidden width of 64 and no dropout.
- "TL-MHA" always has 8 heads, without a norm before and without dropout.
- The "mlp" processor has no residual connections; the Mixer's token MLP is 128 wide whatever `mlp_dim` is.
- `TokenTuringMachineSimpleUnit` processes [memory || summary of the input] and gives out the *first* R rows, while the
  remaining M become the memory: with M > R the output is made at old memory slots, and every slot shifts by R at each step.
- A misspelt `memory_mode` is silently ignored there (nothing is summarised and the memory grows); here it is an OptionError.
- GELU is the tanh approximation, LayerNorm's epsilon 1e-6.

The official code knows no `token_mask`. Here an absent token gets no weight in any summary; where a row of the simple
unit has no token at all, its summary is zeros.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenturing.errors import CheckpointError, OptionError, ShapeError, choose, closest
from tokenturing.memory.summarize import Summarizer
from tokenturing.models.cell import MachineState, PreparedInput
from tokenturing.models.machine import TokenTuringMachine
from tokenturing.scenic_units import (
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

MEMORY_MODES = ("TL", "TL-MHA", "TL-AddErase")
PROCESSING_UNITS = ("transformer", "mixer", "mlp")
_PROCESSING = {"processing_unit": "transformer", "num_layers": 1, "mlp_dim": 512, "num_heads": 12, "dropout_rate": 0.0}
UNITS: dict[str, dict[str, Any]] = {
    "TokenTuringMachineUnit": {
        "process_size": 8, "memory_size": 64, "memory_mode": "TL", "use_positional_embedding": False, **_PROCESSING,
    },
    "TokenTuringMachineSimpleUnit": {"process_size": 16, "memory_size": 96, **_PROCESSING},
}  # fmt: skip
"""the official fields of each unit and their defaults"""


class ScenicTokenTuringMachine(TokenTuringMachine):
    """The official machine, quirks included, with the contract of every model here.

    Args:
        width: D.
        unit: "TokenTuringMachineUnit" or "TokenTuringMachineSimpleUnit".
        input_tokens: N where it is fixed; needed with `use_positional_embedding`.
        **fields: the unit's official fields; those left out have their official defaults.

    Raises:
        OptionError: a field is unknown or its value does not fit.
    """

    def __init__(
        self, width: int, *, unit: str = "TokenTuringMachineUnit", input_tokens: int | None = None, **fields: Any
    ):
        nn.Module.__init__(self)  # not the parent's, which would build a cell of our own kind
        fields = complete_fields(unit, fields)
        self.config = {"width": width, "unit": unit, "input_tokens": input_tokens, **fields}
        _check_sizes(self.config)
        self.width, self.input_tokens = width, input_tokens
        self.output_tokens, self.memory_tokens = fields["process_size"], fields["memory_size"]
        self.initial_memory = None
        self.simple = unit == "TokenTuringMachineSimpleUnit"
        self.mode = fields.get("memory_mode", "TL")
        self._add_memory(fields)
        self._add_processor(fields)

    def _add_memory(self, fields: dict[str, Any]) -> None:
        """The modules that read and write, under their Flax names."""
        width, read, slots = self.width, self.output_tokens, self.memory_tokens
        kind = "TokenLearnerMHA" if self.mode == "TL-MHA" else "TokenLearnerModuleV11"
        self._reader, self._writer = f"{kind}_0", f"{kind}_1"
        for name, tokens in ((self._reader, read), (self._writer, slots)):
            if name == self._writer and (self.simple or self.mode == "TL-AddErase"):
                continue
            summarizer = (
                TokenLearnerMHA(width, tokens) if kind == "TokenLearnerMHA"
                else TokenLearnerModuleV11(width, tokens, fields["dropout_rate"])
            )  # fmt: skip
            self.add_module(name, summarizer)
        if self.mode == "TL-AddErase":
            self.TokenAddEraseWrite_0 = TokenAddEraseWrite(width, read)
        places = slots + (self.input_tokens or 0) if fields.get("use_positional_embedding") else None
        self.read_pos_embed = None if places is None else AddPositionEmbs(places, width)
        self.write_pos_embed = None if places is None else AddPositionEmbs(places + read, width)

    def _add_processor(self, fields: dict[str, Any]) -> None:
        """The modules that process, under their Flax names; the official unit has no module around them."""
        self.processing, self.layers = fields["processing_unit"], fields["num_layers"]
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
        self.add_module(f"LayerNorm_{self.layers if self.processing == 'mlp' else 0}", LayerNorm(width))

    def prepare(self, x: Tensor, token_mask: Tensor | None) -> Any:
        """x [..., N, D] (absent tokens are zeros), token_mask bool [..., N] -> what reads and writes see of it."""
        reader = self._summarizer(self._reader)
        if self.simple:
            if token_mask is not None:
                # A row without any token keeps its zeros: their summary is zeros, whatever weights they get.
                token_mask = token_mask | ~token_mask.any(dim=-1, keepdim=True)
            return (reader.combine([reader.encode(x, token_mask)]),)
        read = reader.encode(_place(self.read_pos_embed, x, self.memory_tokens), token_mask)
        if self.mode == "TL-AddErase":
            if self.write_pos_embed is not None:
                # Nothing uses these positions. The sum of none of them gives them a gradient of zero, not none.
                read = read._replace(values=read.values + self.write_pos_embed.pos_embedding[:, :0].sum())
            return PreparedInput(read, ())
        written = _place(self.write_pos_embed, x, self.memory_tokens)
        return PreparedInput(read, self._summarizer(self._writer).encode(written, token_mask))

    def advance(self, prepared: Any, state: MachineState) -> tuple[Tensor, MachineState]:
        """One step -> output tokens [B, R, D] and the next state."""
        if self.simple:
            tokens = self.process(torch.cat([state.memory, prepared[0]], dim=1))
            return tokens[:, : self.output_tokens], state._replace(memory=tokens[:, self.output_tokens :])
        reader = self._summarizer(self._reader)
        seen = reader.encode(_place(self.read_pos_embed, state.memory, 0))
        output = self.process(reader.combine([seen, prepared.read]))
        return output, state._replace(memory=self._write(state.memory, prepared.write, output))

    def process(self, tokens: Tensor) -> Tensor:
        """[B, R, D] -> [B, R, D]; in the simple unit all M + R tokens at once."""
        if self.processing == "transformer":
            return self.Encoder_0(tokens)
        for i in range(self.layers):
            if self.processing == "mixer":
                tokens = self.get_submodule(f"MixerBlock_{i}")(tokens)
            else:
                tokens = self.get_submodule(f"MlpBlock_{i}")(self.get_submodule(f"LayerNorm_{i}")(tokens))
        return self.get_submodule(f"LayerNorm_{self.layers if self.processing == 'mlp' else 0}")(tokens)

    def _write(self, memory: Tensor, prepared: Any, output: Tensor) -> Tensor:
        """memory [B, M, D], output [B, R, D] -> the next memory [B, M, D]"""
        if self.mode == "TL-AddErase":
            return self.TokenAddEraseWrite_0(memory, output)
        writer = self._summarizer(self._writer)
        kept = writer.encode(_place(self.write_pos_embed, memory, 0))
        places = self.memory_tokens + (self.input_tokens or 0)
        return writer.combine([kept, prepared, writer.encode(_place(self.write_pos_embed, output, places))])

    def _summarizer(self, name: str) -> Summarizer:
        return self.get_submodule(name)  # type: ignore[return-value]


def from_scenic(params: Mapping[str, Any], *, unit: str, **fields: Any) -> ScenicTokenTuringMachine:
    """The official machine with these weights; outputs, memory and gradients are the official ones.

    Args:
        params: Flax paths "a/b/c" -> arrays, all of the unit's and no others. They are copied. The machine is float64 if
            one of them is, else float32.
        unit: "TokenTuringMachineUnit" or "TokenTuringMachineSimpleUnit".
        **fields: the unit's official fields; those left out have their official defaults.

    Raises:
        OptionError: the unit or a field is unknown, or a value does not fit.
        CheckpointError: paths are missing, not expected, or have other shapes; all of them are named.
    """
    complete = complete_fields(unit, fields)
    for path, value in params.items():
        if isinstance(value, Mapping):
            raise CheckpointError(
                f"params[{path!r}] is a mapping: expected paths 'a/b/c' and arrays; "
                "flatten the tree with flax.traverse_util.flatten_dict(tree, sep='/')"
            )
    arrays = {path: np.asarray(value) for path, value in params.items()}
    input_tokens = _input_tokens(arrays, complete) if complete.get("use_positional_embedding") else None
    with torch.device("meta"):
        model = ScenicTokenTuringMachine(_width(arrays), unit=unit, input_tokens=input_tokens, **complete)
    _check_params(model, arrays)
    dtype = np.float64 if any(array.dtype == np.float64 for array in arrays.values()) else np.float32
    tensors = {path.replace("/", "."): torch.from_numpy(np.array(a, dtype=dtype)) for path, a in arrays.items()}
    model.load_state_dict(tensors, assign=True)
    return model


def to_scenic(model: ScenicTokenTuringMachine, *, gradients: bool = False) -> dict[str, np.ndarray]:
    """The machine's parameters, or their gradients, by Flax path and in Flax's shapes; the inverse of `from_scenic`.

    A parameter that got no gradient while others did has zeros, as in JAX.
    """
    if not isinstance(model, ScenicTokenTuringMachine):
        raise OptionError(f"model is a {type(model).__name__}: expected what from_scenic() returned")
    named = {name.replace(".", "/"): parameter for name, parameter in model.named_parameters()}
    if not gradients:
        return {path: parameter.detach().cpu().numpy().copy() for path, parameter in named.items()}
    if all(parameter.grad is None for parameter in named.values()):
        raise OptionError("no parameter has a gradient: call backward() on a loss of the model's outputs first")
    return {
        path: (torch.zeros_like(p) if p.grad is None else p.grad).detach().cpu().numpy().copy()
        for path, p in named.items()
    }


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
            f"memory_mode={mode!r} is not known: expected {closest(mode, MEMORY_MODES)}. "
            "The official code silently ignores a misspelt memory_mode and summarises nothing; here it is an error"
        )
    choose("processing_unit", complete["processing_unit"], PROCESSING_UNITS)
    return complete


def _check_sizes(config: dict[str, Any]) -> None:
    for name, least in (("width", 1), ("process_size", 1), ("memory_size", 1), ("num_layers", 0), ("mlp_dim", 1)):
        if config[name] < least:
            raise OptionError(f"{name}={config[name]}: expected at least {least}")
    if not 0 <= config["dropout_rate"] < 1:
        raise OptionError(f"dropout_rate={config['dropout_rate']}: expected at least 0 and less than 1")
    width, heads = config["width"], config["num_heads"]
    if config["processing_unit"] == "transformer" and (heads < 1 or width % heads):
        raise OptionError(f"width={width} cannot be split into num_heads={heads}: choose a divisor of the width")
    if config.get("memory_mode") == "TL-MHA" and width % QUERY_HEADS:
        raise OptionError(f"width={width} does not suit memory_mode='TL-MHA': it always has {QUERY_HEADS} heads")
    if config.get("use_positional_embedding") and (config["input_tokens"] or 0) < 1:
        raise OptionError(
            f"use_positional_embedding=True with input_tokens={config['input_tokens']}: "
            "every input place has a position, so say how many input tokens N there are"
        )


def _place(positions: nn.Module | None, tokens: Tensor, start: int) -> Tensor:
    """Add the positions from `start` on to tokens [..., n, D], if there are any."""
    return tokens if positions is None else positions(tokens, start)


def _width(arrays: dict[str, np.ndarray]) -> int:
    """D, as most LayerNorm scales have it: every unit has some, and all are over the width."""
    widths = [a.shape[0] for path, a in arrays.items() if path.rpartition("/")[2] == "scale" and a.ndim == 1]
    if not widths:
        raise CheckpointError(
            f"params has no LayerNorm scale among its {len(arrays)} paths ({_listed(list(map(repr, arrays)))}): "
            "expected Flax paths 'a/b/c' of an official unit, such as 'TokenLearnerModuleV11_0/LayerNorm_0/scale'"
        )
    return max(widths, key=widths.count)


def _input_tokens(arrays: dict[str, np.ndarray], fields: dict[str, Any]) -> int:
    """N, as the positions have it; 1 where they are missing, which `_check_params` will say."""
    slots, read = fields["memory_size"], fields["process_size"]
    for path, other in (("read_pos_embed/pos_embedding", slots), ("write_pos_embed/pos_embedding", slots + read)):
        if path in arrays and arrays[path].ndim == 3:
            places = arrays[path].shape[1]
            if places <= other:
                raise ShapeError(
                    f"{path!r} has {places} places, of which {other} are taken by memory_size={slots} (and for the "
                    f"write process_size={read}): expected more, one for each input token; check these fields"
                )
            return places - other
    return 1


def _check_params(model: ScenicTokenTuringMachine, arrays: dict[str, np.ndarray]) -> None:
    """One error that names every path that is missing, not expected or misshapen."""
    expected = {name.replace(".", "/"): list(p.shape) for name, p in model.named_parameters()}
    missing = [f"{path!r} {shape}" for path, shape in expected.items() if path not in arrays]
    extra = [f"{path!r} {list(array.shape)}" for path, array in arrays.items() if path not in expected]
    misshapen = [
        f"{path!r} {list(arrays[path].shape)} {arrays[path].dtype} (expected {shape} of floating point)"
        for path, shape in expected.items()
        if path in arrays and (list(arrays[path].shape) != shape or arrays[path].dtype.kind not in "fV")
    ]
    if not (missing or extra or misshapen):
        return
    groups = (("missing", missing), ("not expected", extra), ("of another shape or type", misshapen))
    found = "; ".join(f"{len(paths)} {what}: {_listed(paths)}" for what, paths in groups if paths)
    raise CheckpointError(
        f"params do not fit {model.config['unit']} with "
        + ", ".join(f"{name}={model.config[name]!r}" for name in UNITS[model.config["unit"]])
        + f" and width D={model.width}. {found}. {_advice(arrays, expected)}"
    )


def _advice(arrays: dict[str, np.ndarray], expected: dict[str, list[int]]) -> str:
    for prefix in ("params/unit_function/", "params/", "unit_function/"):
        if any(path.removeprefix(prefix) in expected for path in arrays if path.startswith(prefix)):
            return f"Take {prefix!r} off the paths"
    return "Check that unit and fields are those of the model that the parameters come from"


def _listed(items: list[str], most: int = 20) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
