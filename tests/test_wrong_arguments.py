"""What callers hand over by mistake: the errors are ours, name the argument, and give advice that leads somewhere."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from zoo import ZOO

import tokenturing as tt
from tokenturing.errors import TokenTuringError
from tokenturing.testing import check_streaming

MODEL = tt.TokenTuringMachine(width=16, memory_tokens=8, read_tokens=4, layers=1, heads=2)
X = torch.zeros(2, 3, 5, 16)


@pytest.mark.parametrize("rows", [-1, 2.0, "2", None, True])
@pytest.mark.parametrize("name", ["TokenTuringMachine", "LSTM", "GRU", "WindowTransformer", "Retrieval"])
def test_numbers_of_rows(rows: Any, name: str) -> None:
    model = MODEL if name == "TokenTuringMachine" else getattr(tt.baselines, name)(width=16)
    with pytest.raises(TokenTuringError, match="batch_size="):
        model.initial_state(rows)
    assert tt.state.rows(model.initial_state(np.int64(2))) == 2


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda state: MODEL(X.to("meta")), r"x is on meta and the model on cpu: .* x\.to\(device\)"),
        (lambda state: MODEL.step(X[:, 0].to("meta")), "x is on meta"),
        (lambda state: MODEL(X, tt.state.move(state, "meta")), r"state is on meta .*tokenturing\.state\.move\(state, device\)"),
        (lambda state: tt.state.move(state, torch.int32), "would lose what it holds"),
        (lambda state: tt.state.move(state, dtype=torch.bool), "would lose what it holds"),
        (lambda state: tt.save_state(MODEL, "f", state), "model is a MachineState: expected the model"),
        (lambda state: tt.parse_state("x", MODEL), "the data is a str: expected the bytes"),
        (lambda state: tt.parse_state(None, MODEL), "the data is a NoneType"),
        (lambda state: tt.checkpoint.fingerprint("x"), "model is a str"),
        (lambda state: tt.load(None), "folder is a NoneType: expected a path"),
        (lambda state: tt.load(""), "folder is an empty text"),
        (lambda state: tt.save(MODEL, ""), "folder is an empty text"),
        (lambda state: tt.save(MODEL, None), "folder is a NoneType"),
        (lambda state: tt.save_state(state, "", MODEL), "file is an empty text"),
        (lambda state: tt.load_state(MODEL, "f"), "file is a TokenTuringMachine: expected a path"),
        (lambda state: check_streaming(MODEL, [1]), "inputs: got an int"),
    ],
)
def test_what_came_and_what_was_expected(
    call: Callable[[Any], Any], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TokenTuringError, match=match):
        call(MODEL(X)[1])
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_middle_of_a_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TokenTuringError, match=r"file is a file: expected a folder, for x to be in"):
        tt.save(MODEL, tmp_path / "file" / "x")


def test_advice_for_a_state_in_another_type(tmp_path: Path) -> None:
    """It is followed here to the letter."""
    state = MODEL(X)[1]
    tt.save_state(state, tmp_path / "s", MODEL)
    other = copy.deepcopy(MODEL).double()
    with pytest.raises(
        TokenTuringError,
        match=r"load it for a model in torch\.float32, and then tokenturing\.state\.move\(state, torch\.float64\)",
    ):
        tt.load_state(tmp_path / "s", other, allow_other_weights=True)
    moved = tt.state.move(tt.load_state(tmp_path / "s", MODEL), torch.float64)
    assert torch.equal(other(X.double(), moved)[1].age, MODEL(X, state)[1].age)


def test_whole_numbers_of_any_type() -> None:
    state = MODEL(X)[1]
    for kind in ("uint8", "uint16", "uint32", "uint64", "int16"):
        assert torch.equal(MODEL(X, lengths=np.array([1, 3], kind))[0], MODEL(X, lengths=[1, 3])[0])
        assert torch.equal(tt.state.take(state, np.array([1], kind)).memory, state.memory[1:])


def test_a_module_that_returns_no_state() -> None:
    report = check_streaming(
        lambda x, state: x, torch.randn(2, 8, 4), initial_state=lambda rows: torch.zeros(rows, 1), raises=False
    )
    assert report.failures
    assert all("it returned a Tensor: expected (outputs, state)" in failure.message for failure in report.failures)


def test_every_model_checks_its_number_of_rows() -> None:
    for name, build in ZOO.items():
        with pytest.raises(TokenTuringError, match="batch_size="):
            build().initial_state(-1)
        assert name
