"""Files that are truncated, corrupted, foreign, newer or forged: each is refused with one clear error."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo import small

import tokenturing as tt
from tokenturing.checkpoint import tensors as storage
from tokenturing.errors import CheckpointError


def edit(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        content[key] = value
        (folder / "config.json").write_text(json.dumps(content))

    return change


def write(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def truncate(name: str, part: float) -> Callable[[Path], Any]:
    return lambda folder: os.truncate(folder / name, int((folder / name).stat().st_size * part))


def flip_last_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


def huge_shape(folder: Path) -> None:
    header = json.dumps({"initial_memory": {"dtype": "F32", "shape": [2**40, 8], "data_offsets": [0, 2**45]}})
    content = struct.pack("<Q", len(header)) + header.encode()
    (folder / "model.safetensors").write_bytes(content)


BAD = {
    "no-config": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "no-weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "model.safetensors does not exist",
    ),
    "weights-are-a-folder": (
        lambda folder: [(folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir()],
        "is a folder",
    ),
    "config-truncated": (truncate("config.json", 0.5), "not JSON"),
    "config-empty": (write("config.json", b""), "not JSON"),
    "config-binary": (write("config.json", b"\x80\x04\x95\xff"), "not JSON"),
    "config-deep": (write("config.json", b"[" * 10**6), "not JSON"),
    "config-list": (write("config.json", b"[1]"), "expected a JSON object"),
    "config-foreign": (write("config.json", b'{"model_type": "bert"}'), "names no class"),
    "weights-truncated": (truncate("model.safetensors", 0.7), "cannot be read"),
    "weights-empty": (write("model.safetensors", b""), "cannot be read"),
    "weights-pickled": (write("model.safetensors", b"\x80\x04cos\nsystem\n(S'true'\ntR."), "cannot be read"),
    "weights-huge-header": (huge_header, "cannot be read"),
    "weights-huge-shape": (huge_shape, "cannot be read"),
    "weights-corrupted": (flip_last_byte, "checksum"),
    "newer": (edit("format_version", 2), "pip install --upgrade"),
    "version-nonsense": (edit("format_version", "x"), "expected a number"),
    "class-unknown": (edit("class_name", "TokenTuringMachin"), "did you mean 'TokenTuringMachine'"),
    "class-not-ours": (edit("class_name", "os.system"), "no class named"),
    "another-class": (edit("class_name", "GRU"), "does not fit GRU"),
    "argument-unknown": (edit("wdth", 3), "wdth"),
    "argument-of-another-type": (edit("width", "8"), "does not fit"),
    "shape": (edit("memory_tokens", 4), r"\[3, 8\].*\[4, 8\]"),
    "fewer-weights": (edit("layers", 2), "it lacks"),
    "more-weights": (edit("write", "mlp"), "it lacks|besides"),
    "absurdly-wide": (edit("width", 2**40), "far larger"),
    "absurdly-deep": (edit("layers", 10**9), "far larger"),
    "absurd-memory": (edit("memory_tokens", 2**40), "far larger"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_checkpoint_is_refused(case: str, tmp_path: Path) -> None:
    spoil, message = BAD[case]
    tt.save(small(), tmp_path / "a")
    spoil(tmp_path / "a")
    with pytest.raises(CheckpointError, match=message) as caught:
        tt.load(tmp_path / "a")
    assert len(str(caught.value)) < 1500


def test_wrong_path_is_refused(tmp_path: Path) -> None:
    tt.save(small(), tmp_path / "a")
    with pytest.raises(CheckpointError, match="expected a folder"):
        tt.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="expected the folder that holds"):
        tt.load(tmp_path / "a" / "model.safetensors")


# --- states


@pytest.fixture
def saved(tmp_path: Path) -> tuple[tt.TokenTuringMachine, Path]:
    model = small()
    tt.save_state(model.initial_state(2), tmp_path / "state", model)
    return model, tmp_path / "state"


def test_state_of_another_model_is_refused(saved: tuple[tt.TokenTuringMachine, Path]) -> None:
    model, file = saved
    other = small()
    with pytest.raises(CheckpointError, match="another model") as caught:
        tt.load_state(file, other)
    assert tt.fingerprint(model) in str(caught.value)
    assert tt.fingerprint(other) in str(caught.value)


def test_state_that_the_model_cannot_have_made_is_not_saved(tmp_path: Path) -> None:
    other = tt.TokenTuringMachine(width=8, memory_tokens=5, read_tokens=2, layers=1, heads=2)
    with pytest.raises(CheckpointError, match=r"memory has shape \[2, 5, 8\]: expected \[B, 3, 8\]"):
        tt.save_state(other.initial_state(2), tmp_path / "state", small())
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, notes: notes.update(kind="weights"), "holds no state"),
        (lambda tensors, notes: notes.clear(), "holds no state"),
        (lambda tensors, notes: notes.update(format_version="2"), "pip install --upgrade"),
        (lambda tensors, notes: tensors.pop("age"), "has the leaves memory"),
        (lambda tensors, notes: tensors.update(memory=torch.zeros(2, 4, 8)), r"expected \[B, 3, 8\]"),
        (lambda tensors, notes: tensors.update(memory=torch.zeros(3, 3, 8)), "one B"),
        (lambda tensors, notes: tensors.update(memory=torch.zeros(2, 24)), r"expected \[B, 3, 8\]"),
        (lambda tensors, notes: tensors.update(memory=torch.zeros(2, 3, 8)), "checksum"),
    ],
)
def test_bad_state_is_refused(
    saved: tuple[tt.TokenTuringMachine, Path], change: Callable[[dict, dict], Any], message: str
) -> None:
    model, file = saved
    tensors, notes = load_file(file), storage.TensorFile(file, "a state").metadata
    change(tensors, notes)
    save_file(tensors, file, notes)
    with pytest.raises(CheckpointError, match=message):
        tt.load_state(file, model)


def test_unreadable_state_is_refused(saved: tuple[tt.TokenTuringMachine, Path]) -> None:
    model, file = saved
    with pytest.raises(CheckpointError, match="does not exist"):
        tt.load_state(file.with_name("nowhere"), model)
    os.truncate(file, 100)
    with pytest.raises(CheckpointError, match="truncated"):
        tt.load_state(file, model)
    tt.save(model, file.with_name("model"))
    with pytest.raises(CheckpointError, match="holds no state"):
        tt.load_state(file.with_name("model") / "model.safetensors", model)
