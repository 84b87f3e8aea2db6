"""Small models for tests: every option of the machine at least once, every baseline, the official machine.

A law that holds for one model is tested on all of them: `@pytest.mark.parametrize("name", ZOO)`, `build(name)`.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import tokenturing as tt
from tokenturing.models.contract import RecurrentModel

WIDTH = 16


def machine(**options: Any) -> Callable[[], RecurrentModel]:
    """A small Token Turing Machine with these options."""
    small = {"width": WIDTH, "memory_tokens": 5, "read_tokens": 2, "layers": 1, "heads": 2, "hidden": 24}
    return lambda: tt.TokenTuringMachine(**{**small, **options})


def baseline(name: str, **options: Any) -> Callable[[], RecurrentModel]:
    """A small baseline, imported when it is built."""
    return lambda: getattr(importlib.import_module("tokenturing.baselines"), name)(WIDTH, read_tokens=2, **options)


def scenic(**options: Any) -> Callable[[], RecurrentModel]:
    """A small official machine."""
    small = {"process_size": 2, "memory_size": 5, "num_layers": 1, "num_heads": 2, "mlp_dim": 24}
    return lambda: importlib.import_module("tokenturing.scenic").ScenicTokenTuringMachine(WIDTH, **{**small, **options})


MACHINES = {
    "gated": machine(),
    "gated-fixed-tokens": machine(read="query", processor="tokenformer", initial_memory="zeros", input_tokens=3),
    "gated-look-back": machine(look_back=2, input_tokens=3, write_cost=0.1, horizon=6.0),
    "gated-no-positions": machine(read="pool", processor="mlp", positions=False),
    "write-mlp": machine(write="mlp", read="mlp", processor="mixer", input_tokens=3),
    "write-query": machine(write="query", read="query", initial_memory="zeros"),
    "write-pool": machine(write="pool", read="mlp", processor="tokenformer", positions=False),
    "write-erase-add": machine(write="erase_add", read="query", processor="mlp", input_tokens=3),
    "write-concat": machine(write="concat", processor="mixer", initial_memory="zeros"),
    "write-concat-more-than-slots": machine(write="concat", read="pool", memory_tokens=2, read_tokens=3),
    "write-none": machine(write="none", read="pool", positions=False),
    "dropout-in-evaluation": machine(dropout=0.5, layers=2),
}
SMALL_BASELINES: dict[str, dict[str, Any]] = {
    "LSTM": {"layers": 2, "hidden": 12},
    "GRU": {"layers": 2},
    "MinGRU": {"layers": 2},
    "Memoryless": {"layers": 1},
    "WindowTransformer": {"layers": 2, "heads": 2, "window": 4, "hidden": 24},
    "FullTransformer": {"layers": 2, "heads": 2, "hidden": 24},
    "RecurrentTransformer": {"layers": 1, "heads": 2, "state_tokens": 3, "hidden": 24},
    "TemporalMixer": {"layers": 1, "window": 4},
    "Retrieval": {"layers": 1, "heads": 2, "nearest": 2, "hidden": 24},
}
BASELINES = {
    **{name: baseline(name, **options) for name, options in SMALL_BASELINES.items()},
    **{f"{name}-fixed-tokens": baseline(name, **options, input_tokens=3) for name, options in SMALL_BASELINES.items()},
    # Three, since of two that are about as near bfloat16 may find the other.
    "Retrieval-fixed-tokens": baseline("Retrieval", layers=1, heads=2, nearest=3, hidden=24, input_tokens=3),
}
SCENIC = {
    "scenic": scenic(),
    "scenic-query": scenic(memory_mode="TL-MHA", processing_unit="mlp"),
    "scenic-add-erase": scenic(memory_mode="TL-AddErase", processing_unit="mixer", use_positional_embedding=True, input_tokens=3),
    "scenic-simple": scenic(unit="TokenTuringMachineSimpleUnit"),
}
ZOO: dict[str, Callable[[], RecurrentModel]] = {**MACHINES, **BASELINES, **SCENIC}
GROWING = [name for name, make in ZOO.items() if make().growing]
"""those whose state grows, by design"""
BOUNDED = [name for name in ZOO if name not in GROWING]


def build(name: str, *, dtype: torch.dtype = torch.float64, seed: int = 1) -> RecurrentModel:
    """The model of that name, in evaluation mode, always the same.

    Its parameters are shaken, so that nothing that starts as zeros hides what it does.
    """
    torch.manual_seed(seed)
    model = ZOO[name]().to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def inputs(model: RecurrentModel, rows: int = 3, steps: int = 7, *, seed: int = 2) -> Tensor:
    """Tokens [B, T, N, D] in the model's type; a model that looks back gets some places that stay the same."""
    generator = torch.Generator().manual_seed(seed)
    like = next(model.parameters())
    x = torch.randn(rows, steps, model.input_tokens or 3, model.width, generator=generator).to(like.dtype)
    if model.config.get("look_back"):
        x = torch.where(torch.rand(x.shape[:-1], generator=generator).unsqueeze(-1) < 0.4, 0.0, x)
    return x


def used_state(model: RecurrentModel, rows: int = 3, *, steps: int = 3, seed: int = 3) -> Any:
    """A state that has seen a few steps, with no gradients."""
    with torch.no_grad():
        return model(inputs(model, rows, steps, seed=seed))[1]


def small(**options: Any) -> tt.TokenTuringMachine:
    """A very small machine with random weights, for tests that care for files."""
    return tt.TokenTuringMachine(width=8, memory_tokens=3, read_tokens=2, layers=1, heads=2, **options)
