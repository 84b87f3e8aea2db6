"""What `save` accepts, `load` gives back equal; all else is refused by `save`, in its own words."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from zoo import small

import tokenturing as tt
from tokenturing.checkpoint import register
from tokenturing.errors import CheckpointError, OptionError


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64, "bfloat16", 16, torch.float4_e2m1fn_x2])
def test_types_that_hold_no_weights(dtype: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"dtype=.*: .*expected a"):
        tt.save(small(), tmp_path / "a", dtype=dtype)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("notes", [[1], [], "text", 3, (), True, [("a", 1)]])
def test_notes_that_are_no_dict(notes: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"notes is an? \w+: expected a dict"):
        tt.save(small(), tmp_path / "a", notes=notes)
    model = small()
    model.notes = notes
    with pytest.raises(CheckpointError, match=r"notes is an? \w+: expected a dict"):
        tt.save(model, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("notes", [{}, {"a": None}, {"a": [1, 2.5, "b", {"c": True}]}, {"ä": "\ud800"}])
def test_notes_come_back_equal(notes: dict[str, Any], tmp_path: Path) -> None:
    tt.save(small(), tmp_path / "a", notes=notes)
    assert tt.load(tmp_path / "a").notes == notes


@register
class Configured(nn.Module):
    """Whose config a test sets."""

    def __init__(self, **config: Any):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "^config cannot be written"),
        (object(), "^config cannot be written"),
        (torch.float32, "^config cannot be written"),
        ({1: 2}, r"^config\.value has the key 1"),
    ],
)
def test_a_fault_of_the_config_is_called_so(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        tt.save(Configured(value=value), tmp_path / "a")
    with pytest.raises(CheckpointError, match=message.replace("config", "notes")):
        tt.save(Configured(), tmp_path / "a", notes={"value": value})


def test_a_config_that_the_class_refuses_is_called_so(tmp_path: Path) -> None:
    tt.save(small(), tmp_path / "a")
    config = tmp_path / "a" / "config.json"
    config.write_text(config.read_text().replace('"read": "mlp"', '"read": "foo"'))
    with pytest.raises(CheckpointError, match=r"config\.json does not fit TokenTuringMachine \(read='foo' is not known"):
        tt.load(tmp_path / "a")
