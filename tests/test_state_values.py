"""What `parse_state` refuses though its shapes fit: counts that no stream leaves behind, and leaves of other types."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load
from zoo import ZOO, build, used_state

import tokenturing as tt
from tokenturing.checkpoint.tensors import TensorBytes, pack
from tokenturing.errors import CheckpointError

COUNTS = {
    "gated": ("age", None),
    "gated-look-back": ("quiet", None),
    "WindowTransformer": ("steps", None),
    "FullTransformer": ("steps", "cache"),
    "Retrieval": ("steps", "entries"),
    "TemporalMixer": ("steps", "recent"),
    "scenic": ("age", None),
}
"""the counts in a state, and the leaf that has room for so many"""


def altered(data: bytes, **leaves: Any) -> bytes:
    """A stranger's file: well formed, of the right model, with other values."""
    notes = {name: value for name, value in TensorBytes(data, "a state", "here").metadata.items() if name != "crc32"}
    tensors = load(data)
    return pack(tensors | {name: change(tensors[name]) for name, change in leaves.items()}, notes, checksum="crc32")


def test_every_count_of_the_zoo_is_looked_at() -> None:
    for name in ZOO:
        for leaf, tensor in tt.state.leaves(build(name).initial_state(1)):
            if tensor.dtype == torch.int64:
                state = build(name).initial_state(2)
                assert list(tt.state.faults(state)) == []
                assert list(tt.state.faults(state._replace(**{leaf: getattr(state, leaf) - 100_000}))), (name, leaf)


@pytest.mark.parametrize("name", COUNTS)
def test_impossible_counts(name: str) -> None:
    model = build(name, dtype=torch.float32)
    leaf, holder = COUNTS[name]
    state = used_state(model, 2)
    data = tt.dump_state(state, model)
    tt.parse_state(altered(data, **{leaf: lambda counts: counts * 1}), model)  # the control
    most = 2**62 if holder is None else getattr(state, holder).shape[1]
    wrong: list[tuple[Callable[[torch.Tensor], torch.Tensor], str]] = [
        (lambda counts: torch.full_like(counts, -3), "counts from -3"),
        (lambda counts: counts.float() + 0.5, "no counts"),
        (lambda counts: counts.float() * torch.nan, "no counts"),
        (lambda counts: torch.full_like(counts, most + 1), f"expected 0 to {most}"),
    ]
    for change, message in wrong:
        with pytest.raises(CheckpointError, match=message):
            tt.parse_state(altered(data, **{leaf: change}), model)
    with pytest.raises(CheckpointError, match=r"the state: .*counts from -3"):
        tt.dump_state(state._replace(**{leaf: torch.full_like(getattr(state, leaf), -3)}), model)


@pytest.mark.parametrize("name", ["gated", "LSTM", "FullTransformer", "scenic"])
def test_leaves_of_another_type(name: str) -> None:
    model = build(name, dtype=torch.float32)
    state = used_state(model, 2)
    data, leaf = tt.dump_state(state, model), state._fields[0]
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.complex64):
        with pytest.raises(CheckpointError, match=rf"{leaf} has type {dtype}: expected torch.float32"):
            tt.parse_state(altered(data, **{leaf: lambda values, dtype=dtype: values.to(dtype)}), model)
    with pytest.raises(CheckpointError, match=r"tokenturing\.state\.move\(state, torch\.float32\) converts it"):
        tt.dump_state(tt.state.move(state, torch.float64), model)


def test_counts_as_they_once_were() -> None:
    model = build("gated", dtype=torch.float32)
    state = used_state(model, 2)
    restored = tt.parse_state(altered(tt.dump_state(state, model), age=lambda age: age.float()), model)
    assert torch.equal(restored.age, state.age)
    assert restored.age.dtype == torch.int64


def test_what_is_not_this_models_state_is_not_dumped() -> None:
    gru, min_gru = tt.baselines.GRU(8), tt.baselines.MinGRU(8)
    with pytest.raises(CheckpointError, match="the state is a MinGRUState: expected a GRUState"):
        tt.dump_state(min_gru.initial_state(1), gru)
    for wrong in (None, {}, {"hidden": torch.zeros(1, 1, 8)}):
        with pytest.raises(CheckpointError, match="the state is a"):
            tt.dump_state(wrong, gru)  # type: ignore[arg-type]
