"""The official machine: its outputs, memory and gradients, as recorded in tests/golden."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tokenturing as tt
from tokenturing.errors import CheckpointError, OptionError
from tokenturing.scenic import ScenicTokenTuringMachine, from_scenic, to_scenic
from tokenturing.scenic.machine import UNITS

FILES = sorted((Path(__file__).parent / "golden").glob("*.npz"))
EXACT = 1e-5
"""of the largest absolute value of each array"""
ROUNDING = 3e-7
"""Of the largest of all gradients, on top: some gradients are zero in exact arithmetic and hold only rounding."""
every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


class Golden:
    """One recorded run."""

    def __init__(self, file: Path):
        self.arrays = dict(np.load(file))
        spec = json.loads(str(self.arrays.pop("spec")))
        self.unit, self.fields = spec["unit"], spec["fields"]
        self.params = self.named("param/")

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(prefix): a for key, a in self.arrays.items() if key.startswith(prefix)}

    def model(self, dtype: torch.dtype = torch.float32, **changes: np.ndarray) -> ScenicTokenTuringMachine:
        return from_scenic({**self.params, **changes}, unit=self.unit, **self.fields).to(dtype)

    def tensor(self, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor(self.arrays[name], dtype=dtype)


def run(model: ScenicTokenTuringMachine, golden: Golden) -> dict[str, np.ndarray]:
    """Everything that the file has, by its names, but parameters and inputs."""
    dtype = next(model.parameters()).dtype
    x, memory = (golden.tensor(name, dtype).requires_grad_() for name in ("inputs", "memory"))
    y, state = model(x, model.initial_state(x.shape[0])._replace(memory=memory))
    (y.sin().sum() + state.memory.sin().sum()).backward()
    found = {"outputs": y, "final_memory": state.memory, "grad_inputs": x.grad, "grad_memory": memory.grad}
    gradients = {f"grad/{path}": array for path, array in to_scenic(model, gradients=True).items()}
    return {name: tensor.detach().numpy() for name, tensor in found.items()} | gradients


def differences(found: dict[str, np.ndarray], golden: Golden) -> dict[str, float]:
    """By how much of what is allowed each array differs; more than 1 is wrong."""
    largest = max(np.abs(array).max() for name, array in golden.arrays.items() if name.startswith("grad"))
    allowed = {name: EXACT * np.abs(golden.arrays[name]).max() + ROUNDING * largest * name.startswith("grad") for name in found}
    return {name: np.abs(array - golden.arrays[name]).max() / allowed[name] for name, array in found.items()}


@every_file
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equals_the_official(file: Path, dtype: torch.dtype) -> None:
    golden = Golden(file)
    found = run(golden.model(dtype), golden)
    left = {"inputs", "memory", *(f"param/{path}" for path in golden.params)}
    assert found.keys() == golden.arrays.keys() - left
    assert all(array.shape == golden.arrays[name].shape for name, array in found.items())
    assert {name: ratio for name, ratio in differences(found, golden).items() if not ratio <= 1} == {}


@every_file
def test_control_any_weight_matters(file: Path) -> None:
    golden = Golden(file)
    kernel = sorted(path for path in golden.params if path.endswith("kernel"))[0]
    changed = golden.params[kernel] + np.float32(1e-2)
    ratios = differences(run(golden.model(**{kernel: changed}), golden), golden)
    assert max(ratios.values()) > 10


@every_file
def test_control_positions_of_rows_matter(file: Path) -> None:
    golden = Golden(file)
    golden.arrays["memory"] = golden.arrays["memory"][::-1].copy()
    assert differences(run(golden.model(), golden), golden)["outputs"] > 10


@every_file
def test_streaming_is_the_whole(file: Path) -> None:
    golden = Golden(file)
    model, x = golden.model(), golden.tensor("inputs")
    state, outputs = model.initial_state(x.shape[0])._replace(memory=golden.tensor("memory")), []
    with torch.no_grad():
        for t in range(x.shape[1]):
            y, state = model.step(x[:, t], state)
            outputs.append(y)
    found = {"outputs": torch.stack(outputs, 1).numpy(), "final_memory": state.memory.numpy()}
    assert max(differences(found, golden).values()) <= 1


@every_file
def test_parameters_have_flax_names_and_shapes(file: Path) -> None:
    golden = Golden(file)
    model = golden.model()
    named = {name.replace(".", "/"): p.detach().numpy() for name, p in model.named_parameters()}
    assert named.keys() == golden.params.keys() == to_scenic(model).keys()
    for path, array in golden.params.items():
        np.testing.assert_array_equal(named[path], array)
        np.testing.assert_array_equal(to_scenic(model)[path], array)


@every_file
def test_saved_and_loaded(file: Path, tmp_path: Path) -> None:
    golden = Golden(file)
    tt.save(golden.model(), tmp_path)
    loaded = tt.load(tmp_path)
    assert isinstance(loaded, ScenicTokenTuringMachine)
    assert max(differences(run(loaded, golden), golden).values()) <= 1


@pytest.mark.parametrize("unit", UNITS)
def test_begins_with_zeros(unit: str) -> None:
    model = ScenicTokenTuringMachine(24, unit=unit)
    state = model.initial_state(2)
    assert state.memory.shape == (2, UNITS[unit]["memory_size"], 24)
    assert not state.memory.any()
    assert model.step(torch.randn(2, 3, 24), state)[0].shape == (2, UNITS[unit]["process_size"], 24)


def simple(**fields: Any) -> ScenicTokenTuringMachine:
    small = {"process_size": 2, "memory_size": 3, "num_heads": 2, "mlp_dim": 8}
    return ScenicTokenTuringMachine(8, unit="TokenTuringMachineSimpleUnit", **{**small, **fields})


@pytest.mark.parametrize("processing_unit", ["transformer", "mixer", "mlp"])
def test_a_row_without_tokens_is_a_summary_of_zeros(processing_unit: str) -> None:
    model = simple(processing_unit=processing_unit)
    x = torch.full((2, 1, 4, 8), torch.nan, requires_grad=True)
    y, state = model(x, token_mask=torch.zeros(2, 1, 4, dtype=torch.bool))
    zeros, _ = model(torch.zeros(2, 1, 1, 8))
    torch.testing.assert_close(y, zeros)
    (y.sum() + state.memory.sin().sum()).backward()
    assert not x.grad.any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_dropout_is_for_training_only() -> None:
    model = ScenicTokenTuringMachine(24, dropout_rate=0.5)
    x = torch.randn(1, 2, 3, 24)
    assert not torch.equal(model(x)[0], model(x)[0])
    model.eval()
    assert torch.equal(model(x)[0], model(x)[0])


def test_arrays_are_copied_and_the_generator_left_alone() -> None:
    golden = Golden(FILES[0])
    before = torch.get_rng_state()
    model = golden.model()
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(array.any() for array in golden.params.values())


def test_takes_the_finest_type() -> None:
    golden = Golden(FILES[0])
    doubled = {path: array.astype(np.float64) for path, array in golden.params.items()}
    assert {p.dtype for p in golden.model().parameters()} == {torch.float32}
    model = from_scenic(doubled, unit=golden.unit, **golden.fields)
    assert {p.dtype for p in model.parameters()} == {torch.float64}


# --- errors

GOLDEN = Golden(next(file for file in FILES if file.stem == "mlp_summary_transformer"))


def test_names_every_path_that_does_not_fit() -> None:
    params = dict(GOLDEN.params)
    params["Encoder_0/encoder_norm/scle"] = params.pop("Encoder_0/encoder_norm/scale")
    params["Encoder_0/encoder_norm/bias"] = np.zeros(7, np.float32)
    params["Encoder_0/posembed_input/pos_embedding"] = np.zeros((1, 4, 16), np.int64)
    with pytest.raises(CheckpointError) as error:
        from_scenic(params, unit=GOLDEN.unit, **GOLDEN.fields)
    for part in (
        "1 missing: 'Encoder_0/encoder_norm/scale' [16]",
        "1 not expected: 'Encoder_0/encoder_norm/scle' [16]",
        "'Encoder_0/encoder_norm/bias' [7] float32 (expected [16], floating point)",
        "'Encoder_0/posembed_input/pos_embedding' [1, 4, 16] int64",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"memory_mode": "TL-MAH"}, "did you mean 'TL-MHA'.*official code silently ignores"),
        ({"memory_mode": "tl"}, "official code silently ignores"),
        ({"processing_unit": "transfomer"}, "did you mean 'transformer'"),
        ({"unit": "TokenTuringMachine"}, "TokenTuringMachineUnit"),
        ({"proces_size": 4}, "no field 'proces_size'.*did you mean 'process_size'"),
        ({"num_heads": 3}, "width=16 does not split into num_heads=3"),
        ({"memory_size": 0}, "memory_size=0: expected at least 1"),
        ({"dropout_rate": 1.0}, "dropout_rate=1.0"),
        ({"memory_mode": "TL-MHA"}, "missing: .*TokenLearnerMHA_0/tokens"),
        ({"use_positional_embedding": True}, "2 missing: 'read_pos_embed/pos_embedding'"),
        ({"num_layers": 1}, r"16 not expected: .*encoderblock_1"),
        ({"mlp_dim": 48}, r"Dense_0/bias' \[32\] float32 \(expected \[48\]"),
        ({"unit": "TokenTuringMachineSimpleUnit", "memory_mode": "TL"}, "no field 'memory_mode'"),
    ],
)
def test_fields_that_do_not_fit(change: dict[str, Any], match: str) -> None:
    fields = {"unit": GOLDEN.unit, **GOLDEN.fields, **change}
    with pytest.raises(ValueError, match=match) as error:
        from_scenic(GOLDEN.params, **fields)
    assert isinstance(error.value, OptionError | CheckpointError)


def test_positions_of_another_size() -> None:
    golden = Golden(next(file for file in FILES if file.stem == "mlp_summary_transformer_positions"))
    with pytest.raises(CheckpointError, match=r"write_pos_embed/pos_embedding' \[1, 15, 16\].*expected \[1, 13"):
        from_scenic(golden.params, unit=golden.unit, **{**golden.fields, "process_size": 2})
    with pytest.raises(OptionError, match="say how many input tokens"):
        ScenicTokenTuringMachine(24, use_positional_embedding=True)
    with pytest.raises(ValueError, match="N=5"):
        golden.model()(torch.zeros(1, 1, 4, 16))


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({}, "no LayerNorm scale among its 0 paths"),
        ({"a/b": np.zeros(3)}, "no LayerNorm scale among its 1 paths"),
        ({"params": {"a": np.zeros(3)}}, "flatten_dict"),
        ({f"params/{path}": array for path, array in GOLDEN.params.items()}, "Take 'params/' off the paths"),
        ({f"unit_function/{p}": a for p, a in GOLDEN.params.items()}, "Take 'unit_function/' off the paths"),
    ],
)
def test_params_of_another_form(params: dict[str, Any], match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        from_scenic(params, unit=GOLDEN.unit, **GOLDEN.fields)


def test_to_scenic_needs_gradients_of_a_machine_of_ours() -> None:
    with pytest.raises(OptionError, match="call backward"):
        to_scenic(GOLDEN.model(), gradients=True)
    with pytest.raises(OptionError, match="LSTM"):
        to_scenic(torch.nn.LSTM(2, 2))  # type: ignore[arg-type]
