"""A session that goes on with other weights of the same model: only where that is asked for, and with a warning."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from zoo import small

import tokenturing as tt
from tokenturing.checkpoint import Owner, register
from tokenturing.errors import CheckpointError


def tuned() -> tuple[tt.TokenTuringMachine, tt.TokenTuringMachine]:
    """A model, and the same after a step of training."""
    model, after = small(), small()
    after.load_state_dict(model.state_dict())
    with torch.no_grad():
        next(after.parameters()).add_(0.01)
    return model, after


def test_a_session_survives_a_fine_tune(tmp_path: Path) -> None:
    model, after = tuned()
    _, state = model.step(torch.randn(2, 3, 8), model.initial_state(2))
    tt.save_state(state, tmp_path / "state", model)
    with pytest.raises(CheckpointError, match=r"another model.*allow_other_weights=True"):
        tt.load_state(tmp_path / "state", after)
    for owner in (after, Owner(after)):
        with pytest.warns(UserWarning, match=f"of a TokenTuringMachine with the fingerprint {tt.fingerprint(model)}"):
            restored = tt.load_state(tmp_path / "state", owner, allow_other_weights=True)
        torch.testing.assert_close(restored, state, rtol=0, atol=0)
    with pytest.warns(UserWarning, match="the data is the state of another model"):
        tt.parse_state((tmp_path / "state").read_bytes(), after, allow_other_weights=True)
    tt.save_state(restored, tmp_path / "again", after)
    tt.load_state(tmp_path / "again", after)


def test_the_same_weights_need_no_warning(tmp_path: Path) -> None:
    model = small()
    tt.save_state(model.initial_state(1), tmp_path / "state", model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tt.load_state(tmp_path / "state", model, allow_other_weights=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tt.TokenTuringMachine(width=8, memory_tokens=5, read_tokens=2, layers=1, heads=2), "expected .B, 5, 8."),
        (lambda: tt.baselines.GRU(8), "another model"),
    ],
    ids=["other shapes", "other class"],
)
def test_what_does_not_fit_is_refused_all_the_same(make: Any, message: str, tmp_path: Path) -> None:
    model = small()
    tt.save_state(model.initial_state(1), tmp_path / "state", model)
    with pytest.raises(CheckpointError, match=message):
        tt.load_state(tmp_path / "state", make(), allow_other_weights=True)


class Phases(NamedTuple):
    """The state of an oscillator."""

    fine: Tensor
    coarse: Tensor


@register
class Oscillator(nn.Module):
    """Has a complex state."""

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.rate = nn.Parameter(torch.polar(torch.ones(3, dtype=torch.float64), torch.arange(3.0, dtype=torch.float64)))

    def initial_state(self, rows: int) -> Phases:
        return Phases(self.rate.new_ones(rows, 3), torch.ones(rows, dtype=torch.complex64))


def test_complex_states_and_weights(tmp_path: Path) -> None:
    model = Oscillator()
    state = Phases(model.initial_state(2).fine * model.rate.detach(), torch.tensor([1 + 2j, 3 - 1j]))
    tt.save(model, tmp_path / "model")
    tt.save_state(state, tmp_path / "state", model)
    loaded = tt.load(tmp_path / "model")
    assert torch.equal(loaded.rate, model.rate)
    restored = tt.load_state(tmp_path / "state", loaded)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(state, restored, strict=True))
    data = (tmp_path / "state").read_bytes()
    for change in (b"complex12x", b"floatxx128"):
        with pytest.raises(CheckpointError):
            tt.parse_state(data.replace(b"complex128", change), loaded)


@pytest.mark.parametrize("name", ["x" * 255, "x" * 5000], ids=["long", "too long"])
def test_long_names_of_models_and_states(name: str, tmp_path: Path) -> None:
    model = small()
    if len(name) > 255:
        with pytest.raises(CheckpointError, match="no folder or model"):
            tt.load(name)
        with pytest.raises(CheckpointError, match="does not exist"):
            tt.load_state(tmp_path / name, model)
        for write in (
            lambda: tt.save(model, tmp_path / name),
            lambda: tt.save_state(model.initial_state(1), tmp_path / name, model),
        ):
            with pytest.raises(CheckpointError, match="too long"):
                write()
        return
    tt.save(model, tmp_path / name)
    tt.save(model, tmp_path / name)
    assert tt.fingerprint(tt.load(tmp_path / name)) == tt.fingerprint(model)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    model, name = small(), b"caf\xe9".decode(errors="surrogateescape")
    tt.save(model, tmp_path / name)
    loaded = tt.load(tmp_path / name)
    tt.save_state(model.initial_state(1), tmp_path / name / name, loaded)
    tt.load_state(tmp_path / name / name, model)
    (tmp_path / name / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        tt.load(tmp_path / name)
