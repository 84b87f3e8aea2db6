"""The door for weights of the official implementation: token_turing in google-research/scenic (Flax).

    model = from_scenic(params, unit="TokenTuringMachineUnit", process_size=16, memory_size=96, num_layers=4)
    gradients = to_scenic(model, gradients=True)

`params` maps Flax paths, "Encoder_0/encoder_norm/scale", to arrays; `flax.traverse_util.flatten_dict(tree,
sep="/")` makes them from a tree. The machine's parameters keep Flax's names (with "." for "/") and Flax's
shapes (kernels are [in, out]): `dict(model.named_parameters())["Encoder_0.encoder_norm.scale"].grad` is
what Flax has as the gradient of that path.

Quirks of the official code live behind this door only:

- The initial memory is zeros.
- `vit.Encoder` adds learned positions of its own to the tokens it processes, `use_positional_embedding` or
  not, and ends with a LayerNorm.
- `use_positional_embedding` gives a position to each place of [memory || input] (read) and of [memory ||
  input || output] (write), so N is fixed. With "TL-AddErase" nothing uses those of the write: their
  gradient is zero.
- "TL-AddErase" reads as "TL" does. Its write has no sigmoid on the erase vector, adds mean(1 - w a) where
  the NTM adds sum(w a), and always has 8 heads with a hidden width of 64 and no dropout. Nothing bounds the
  memory: with large weights and many steps it is chaotic, and then float32 agrees with float32 to few
  places, there as here.
- "TL-MHA" always has 8 heads, no norm before them and no dropout.
- The "mlp" processor has no residual connections; the Mixer's token MLP is 128 wide whatever `mlp_dim` is.
- `TokenTuringMachineSimpleUnit` processes [memory || summary of the input] and gives out the *first* R
  rows, while the other M become the memory: outputs are made in the first slots' places, and slots shift by
  R at each step.
- A misspelt `memory_mode` is silently ignored there (nothing is summarised); here it is an OptionError.
- GELU is the tanh approximation, LayerNorm's epsilon 1e-6.

The official code drops the last memory and knows no `token_mask`. Here the memory is the state, and an
absent token gets no weight in any summary; where a row of the simple unit has no token at all, its summary
is zeros.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenturing.checkpoint.draws import own_draws
from tokenturing.errors import CheckpointError, OptionError, a
from tokenturing.scenic.machine import UNITS, ScenicTokenTuringMachine, complete_fields

__all__ = ["ScenicTokenTuringMachine", "from_scenic", "to_scenic"]

MOST_NAMED = 20
"""paths of a kind that an error names"""


def from_scenic(params: Mapping[str, Any], *, unit: str, **fields: Any) -> ScenicTokenTuringMachine:
    """The official machine with these weights: its outputs, memory and gradients are the official ones.

    Args:
        params: Flax paths "a/b/c" -> arrays, all of the unit's and no others. They are copied. The machine is
            float64 if one of them is, else float32.
        unit: "TokenTuringMachineUnit" or "TokenTuringMachineSimpleUnit".
        **fields: the unit's official fields; those left out have their official defaults.

    Raises:
        OptionError: the unit or a field is unknown, or a value does not fit.
        CheckpointError: paths are missing, not expected, or of another shape; they are named.
    """
    fields = complete_fields(unit, fields)
    arrays = {path: _array(path, value) for path, value in params.items()}
    input_tokens = _input_tokens(arrays, fields) if fields.get("use_positional_embedding") else None
    with own_draws():  # the random parameters are replaced: no reason to disturb the caller's
        model = ScenicTokenTuringMachine(_width(arrays), unit=unit, input_tokens=input_tokens, **fields)
    _check_params(model, arrays)
    dtype = np.float64 if any(array.dtype == np.float64 for array in arrays.values()) else np.float32
    tensors = {path: torch.from_numpy(np.array(array, dtype=dtype)) for path, array in arrays.items()}
    model.load_state_dict({path.replace("/", "."): tensor for path, tensor in tensors.items()}, assign=True)
    return model


def to_scenic(model: ScenicTokenTuringMachine, *, gradients: bool = False) -> dict[str, np.ndarray]:
    """The machine's parameters, or their gradients, by Flax path; the inverse of `from_scenic`.

    Where some parameters have gradients, those without have zeros, as in JAX.
    """
    if not isinstance(model, ScenicTokenTuringMachine):
        raise OptionError(f"model is {a(type(model))}: expected what from_scenic() returned")
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    if gradients:
        if all(p.grad is None for p in tensors.values()):
            raise OptionError("no parameter has a gradient: call backward() on a loss of the outputs first")
        tensors = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in tensors.items()}
    return {name.replace(".", "/"): t.detach().cpu().numpy().copy() for name, t in tensors.items()}


def _array(path: str, value: Any) -> np.ndarray:
    if isinstance(value, Mapping):
        raise CheckpointError(
            f"params[{path!r}] is a mapping: expected an array; make paths 'a/b/c' of the tree with "
            "flax.traverse_util.flatten_dict(tree, sep='/')"
        )
    return np.asarray(value)


def _width(arrays: dict[str, np.ndarray]) -> int:
    """D, as most LayerNorm scales have it: every unit has some, and all are over the width."""
    widths = [a.shape[0] for path, a in arrays.items() if path.endswith("scale") and a.ndim == 1]
    if not widths:
        raise CheckpointError(
            f"params has no LayerNorm scale among its {len(arrays)} paths ({_listed(list(arrays))}): "
            "expected Flax paths 'a/b/c' of an official unit, such as 'TokenLearnerModuleV11_0/LayerNorm_0/scale'"
        )
    return max(widths, key=widths.count)


def _input_tokens(arrays: dict[str, np.ndarray], fields: dict[str, Any]) -> int:
    """N, as the positions have it; at least 1, so that `_check_params` can say what is wrong with them."""
    others = {"read": fields["memory_size"], "write": fields["memory_size"] + fields["process_size"]}
    for which, other in others.items():
        positions = arrays.get(f"{which}_pos_embed/pos_embedding")
        if positions is not None and positions.ndim == 3:
            return max(1, positions.shape[1] - other)
    return 1


def _check_params(model: ScenicTokenTuringMachine, arrays: dict[str, np.ndarray]) -> None:
    """One error that names what is missing, not expected and misshapen."""
    expected = {name.replace(".", "/"): list(p.shape) for name, p in model.named_parameters()}
    missing = [f"{path!r} {shape}" for path, shape in expected.items() if path not in arrays]
    extra = [f"{path!r} {list(array.shape)}" for path, array in arrays.items() if path not in expected]
    misshapen = [
        f"{path!r} {list(arrays[path].shape)} {arrays[path].dtype} (expected {shape}, floating point)"
        for path, shape in expected.items()
        if path in arrays and (list(arrays[path].shape) != shape or not _is_floating(arrays[path]))
    ]
    if not (missing or extra or misshapen):
        return
    groups = (("missing", missing), ("not expected", extra), ("of another shape or type", misshapen))
    found = "; ".join(f"{len(paths)} {what}: {_listed(paths)}" for what, paths in groups if paths)
    unit = model.config["unit"]
    fields = ", ".join(f"{name}={model.config[name]!r}" for name in UNITS[unit])
    raise CheckpointError(f"params do not fit {unit}({fields}) of width D={model.width}. {found}. {_advice(arrays, expected)}")


def _is_floating(array: np.ndarray) -> bool:
    """Whether it holds floating-point numbers; JAX's bfloat16 is of a kind that numpy does not know."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _advice(arrays: dict[str, np.ndarray], expected: dict[str, list[int]]) -> str:
    for prefix in ("params/unit_function/", "params/", "unit_function/"):
        if any(path.startswith(prefix) and path.removeprefix(prefix) in expected for path in arrays):
            return f"Take {prefix!r} off the paths"
    return "Check that the unit and its fields are those that the parameters were made with"


def _listed(items: list[str]) -> str:
    more = len(items) - MOST_NAMED
    return ", ".join(items[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
