"""Graphs in 8 bits: near to the model, and a row alone is the row among strangers, however loud or broken they are."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import nn

import tokenturing as tt
from tokenturing import runtime
from tokenturing.errors import CheckpointError, OptionError
from tokenturing.export import compare, export_onnx, quantize
from tokenturing.models.flat import FlatStep

STEPS = 5


@pytest.fixture(scope="module", params=["gated", "LSTM"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """Small models, as if they were worth it."""
    model = zoo.build(request.param, dtype=torch.float32).train()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "LEAST", 1)
        folder = export_onnx(model, tmp_path_factory.mktemp("int8") / request.param, precision="int8")
    assert model.training, "exporting changed the model"
    return model.eval(), folder


def run(machine: runtime.Runtime, x: np.ndarray) -> tuple[list[np.ndarray], Any]:
    """x [B, T, N, D] -> y of each step, and the last state."""
    state, found = machine.initial_state(len(x)), []
    for step in range(x.shape[1]):
        y, state = machine.step(x[:, step], state)
        found.append(y)
    return found, state


def test_it_stays_near(exported: tuple[nn.Module, Path]) -> None:
    model, folder = exported
    machine = runtime.load(folder, threads=1)
    x = zoo.inputs(model, 3, 1)[:, 0]
    with torch.no_grad():
        y, _ = model.step(x, model.initial_state(3))
    found, _ = machine.step(x.numpy(), machine.initial_state(3))
    assert 1e-5 < np.abs(found - y.numpy()).max() / y.abs().max().item() < 0.1
    assert 1e-5 < machine.description["off"] < 0.1


def test_shipped_models_can_go_into_8_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their eyes are asked of random pictures, where it is often a close call whether there is a digit."""
    monkeypatch.setattr(quantize, "LEAST", 1)
    machine = runtime.load(export_onnx(tt.load("recall-ttm"), tmp_path / "ttm", precision="int8"), threads=1)
    assert 1e-5 < machine.description["off"] < 0.2


def test_it_is_not_offered_where_it_is_slower(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no matrix of this model has .* weights: expected one that has"):
        export_onnx(zoo.build("GRU", dtype=torch.float32), tmp_path / "small", precision="int8")
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("neighbour", ["louder", "nan", "infinite"])
def test_a_row_alone_is_the_row_among_strangers(neighbour: str, exported: tuple[nn.Module, Path]) -> None:
    model, folder = exported
    machine = runtime.load(folder, threads=1)
    x = zoo.inputs(model, 2, STEPS).numpy()
    alone, before = run(machine, x[:1])
    x[1] *= 300
    if neighbour != "louder":
        x[1, 1] = np.nan if neighbour == "nan" else np.inf
    among, after = run(machine, x)
    for one, both in zip([*alone, *before], [*among, *after], strict=True):
        np.testing.assert_allclose(both[:1], one, rtol=1e-5, atol=1e-6)
    if neighbour == "nan":
        assert np.isnan(among[1][1]).all(), "a broken row must not look sound"


def test_one_scale_for_all_rows_is_noticed(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """The control: ONNX Runtime's own dynamic quantiser."""
    from onnxruntime.quantization import quantize_dynamic

    model, folder = exported
    if type(model).__name__ != "LSTM":
        pytest.skip("once is enough")
    plain = export_onnx(model, tmp_path / "plain")
    shutil.copytree(folder, tmp_path / "mixed")
    quantize_dynamic(plain / "model.onnx", tmp_path / "mixed" / "model.onnx")
    machine = runtime.load(tmp_path / "mixed", threads=1)
    x = zoo.inputs(model, 2, STEPS).numpy()
    alone, _ = run(machine, x[:1])
    x[1] *= 300
    among, _ = run(machine, x)
    assert np.abs(among[-1][:1] - alone[-1]).max() > 1e-2


def test_a_graph_of_other_weights_is_refused(exported: tuple[nn.Module, Path]) -> None:
    model, folder = exported
    assert compare.compare(FlatStep(model), folder, "int8") < 0.1
    other = zoo.build("gated" if type(model).__name__ == "TokenTuringMachine" else "LSTM", dtype=torch.float32)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-1)
    with pytest.raises(CheckpointError, match="y is off the model's by"):
        compare.compare(FlatStep(other), folder, "int8")


def test_distances() -> None:
    one = np.array([1.0, np.nan, np.inf, -2.0], np.float32)
    assert compare.distance(one, one) == 0
    assert compare.distance(one + np.float32(0.5), one) == 0.25
    assert compare.distance(np.nan_to_num(one), one) == np.inf
    assert compare.distance(one.astype(np.float64), one) == np.inf
    assert compare.distance(np.float32([1e-5]), np.float32([2e-5])) == pytest.approx(1e-2), "no floor of 1"
    assert compare.distance(np.array([1, 2]), np.array([1, 2])) == 0
    assert compare.distance(np.array([1, 2]), np.array([1, 3])) == 1
