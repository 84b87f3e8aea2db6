"""States as bytes: the same checks as for files."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import broken
import laws
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn
from zoo import BOUNDED, GROWING, ZOO, build, inputs, small

import tokenturing as tt
from tokenturing.checkpoint import Owner, dump_state, parse_state
from tokenturing.errors import CheckpointError

GOLDEN = Path(__file__).parent / "golden" / "session.safetensors"
ALIGNMENT = 64
"""bytes; of storage that torch allocates on the CPU"""


def constant_model() -> broken.Sound:
    """Whose state is in the golden file."""
    model = broken.Sound()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.fill_(number / 8)
    return model


def header_of(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length])


def with_header(header: dict[str, Any], tensors: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


@pytest.mark.parametrize("name", ZOO)
@torch.no_grad()
def test_dump_parse_go_on(name: str) -> None:
    """Stopped after 3 of 5 steps, and gone on with from bytes, to the bit."""
    model = build(name, dtype=torch.float32)
    x = inputs(model, 2, 5)
    _, state = model(x[:, :3])
    restored = parse_state(dump_state(state, model), model)
    assert type(restored) is type(state)
    laws.assert_same(model(x[:, 3:], state), model(x[:, 3:], restored), "dump, parse, go on", tolerance=0)
    for (_, kept), (_, leaf) in zip(tt.state.leaves(state), tt.state.leaves(restored), strict=True):
        assert leaf.dtype == kept.dtype
        assert leaf.data_ptr() % ALIGNMENT == 0, "kernels may round differently on other storage"


def test_files_hold_these_bytes(tmp_path: Path) -> None:
    """`save_state` and `load_state` are these two and a file."""
    model = small()
    state = model.initial_state(2)
    tt.save_state(state, tmp_path / "state", model)
    (tmp_path / "dumped").write_bytes(tt.dump_state(state, Owner(model)))
    for restored in (
        tt.parse_state((tmp_path / "state").read_bytes(), model),
        tt.load_state(tmp_path / "dumped", model),
        tt.load_state(tmp_path / "state", Owner(model)),
    ):
        torch.testing.assert_close(restored, state, rtol=0, atol=0)


def test_the_format_stays() -> None:
    """A file of an earlier version is read, and what is written now says the same, but for a quicker checksum."""
    model, data = constant_model(), GOLDEN.read_bytes()
    state = parse_state(data, model)
    assert torch.equal(state.memory, torch.arange(16.0).view(2, 8))
    now = dump_state(state, model)
    header, earlier = header_of(now), header_of(data)
    assert len(header["__metadata__"].pop("crc32")) == 8
    assert len(earlier["__metadata__"].pop("checksum")) == 32
    assert header == earlier
    assert now[-64:] == data[-64:]
    with torch.no_grad():
        model.out.bias += 1
    with pytest.raises(CheckpointError, match="another model"):
        parse_state(data, model)


def test_any_buffer_is_parsed_and_none_is_shared() -> None:
    model = constant_model()
    for data in (bytearray(GOLDEN.read_bytes()), memoryview(GOLDEN.read_bytes())):
        state = parse_state(data, model)
        before = bytes(data)
        state.memory.zero_()
        assert bytes(data) == before
    for wrong in (str(GOLDEN), 7):
        with pytest.raises(CheckpointError, match="expected the bytes that dump_state returned"):
            parse_state(wrong, model)  # type: ignore[arg-type]


def test_device_is_the_models_unless_another_is_asked_for() -> None:
    model = constant_model()
    assert parse_state(GOLDEN.read_bytes(), model).memory.device.type == "cpu"
    assert parse_state(GOLDEN.read_bytes(), model, device="meta").memory.device.type == "meta"


# --- bytes that are wrong


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, -65, -64, -1])
def test_truncated_bytes_are_refused(length: int) -> None:
    with pytest.raises(CheckpointError, match="the data cannot be read"):
        parse_state(GOLDEN.read_bytes()[:length], constant_model())


def dumped_now() -> bytes:
    """The state of the golden file, as it is written now."""
    return dump_state(broken.SoundState(torch.arange(16.0).view(2, 8)), constant_model())


every_version = pytest.mark.parametrize("data", [GOLDEN.read_bytes(), dumped_now()], ids=["earlier", "now"])


@every_version
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(data: bytes, place: float, change: int) -> None:
    survives(data, int(place * len(data)), change)


@every_version
def test_every_changed_byte_is_refused_or_changes_nothing(data: bytes) -> None:
    """Nearly all are refused: those that are not changed what is only told, such as the name of the class."""
    passed = sum(survives(data, place, 1) for place in range(len(data)))
    assert 0 < passed < 40


def survives(data: bytes, place: int, change: int) -> bool:
    """Whether it was parsed with a changed byte, and then to the same state."""
    changed = bytearray(data)
    changed[place] ^= change
    try:
        state = parse_state(changed, constant_model())
    except CheckpointError:
        return False
    assert torch.equal(state.memory, torch.arange(16.0).view(2, 8))
    return True


@every_version
def test_changed_byte_control(data: bytes) -> None:
    """Without a checksum, changed tensors get through."""
    header = header_of(data)
    assert header["__metadata__"].pop("checksum", None) or header["__metadata__"].pop("crc32", None)
    state = parse_state(with_header(header, data[-64:-1] + b"\1"), constant_model())
    assert not torch.equal(state.memory, torch.arange(16.0).view(2, 8))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 4) + b"null",
        with_header({"memory": {"dtype": "F32", "shape": [2**40, 8], "data_offsets": [0, 2**45]}}, b""),
        with_header({"memory": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}}, b""),
        with_header({"memory": {"dtype": "F32", "shape": [0, 2**60], "data_offsets": [0, 0]}}, b""),
        with_header({"memory": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, b"12"),
        with_header({"memory": {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [0, 2]}}, b"12"),
        with_header({"memory": {"dtype": "Q", "shape": [2], "data_offsets": [0, 2]}}, b"12"),
        with_header({"memory": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}, b"123"),
        with_header({"__metadata__": {"kind": ["state"]}}, b""),
        with_header({"__metadata__": {"kind": "weights"}}, b""),
        struct.pack("<Q", 10**6) + b"[" * 10**6,
    ],
)
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"the data cannot be read|the data holds no state") as caught:
        parse_state(data, constant_model())
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, notes: notes.update(kind="weights"), "holds no state"),
        (lambda tensors, notes: notes.update(format_version="2"), "pip install --upgrade"),
        (lambda tensors, notes: notes.update(fingerprint="0"), "another model: of a TokenTuringMachine"),
        (lambda tensors, notes: tensors.pop("age"), "has the leaves memory"),
        (lambda tensors, notes: tensors.update(memory=torch.zeros(2, 4, 8)), r"expected \[B, 3, 8\]"),
        (lambda tensors, notes: tensors.update(memory=torch.zeros(3, 3, 8)), "one B"),
        (lambda tensors, notes: tensors.update(memory=torch.zeros(2, 24)), r"expected \[B, 3, 8\]"),
        (lambda tensors, notes: tensors.update(memory=torch.tensor(1.0)), r"expected \[B, 3, 8\]"),
        (lambda tensors, notes: tensors.update(memory=torch.zeros(2, 3, 8, dtype=torch.int64)), "expected torch.float32"),
        (lambda tensors, notes: tensors.update(memory=torch.ones(2, 3, 8)), "checksum"),
    ],
)
def test_bad_states_are_refused(change: Callable[[dict, dict], Any], message: str) -> None:
    model = small()
    data = dump_state(model.initial_state(2), model)
    tensors, notes = load(data), header_of(data)["__metadata__"]
    change(tensors, notes)
    with pytest.raises(CheckpointError, match=message):
        parse_state(save(tensors, notes), model)


def test_both_fingerprints_are_told() -> None:
    model, other = small(), small()
    with pytest.raises(CheckpointError, match="another model") as caught:
        parse_state(dump_state(model.initial_state(1), model), other)
    assert tt.fingerprint(model) in str(caught.value)
    assert tt.fingerprint(other) in str(caught.value)


def test_state_of_another_model_is_not_dumped() -> None:
    other = tt.TokenTuringMachine(width=8, memory_tokens=5, read_tokens=2, layers=1, heads=2)
    with pytest.raises(CheckpointError, match=r"the state: memory has shape \[2, 5, 8\]: expected \[B, 3, 8\]"):
        dump_state(other.initial_state(2), small())


@pytest.mark.parametrize("name", GROWING)
@torch.no_grad()
def test_only_leaves_that_grow_are_longer(name: str) -> None:
    model = build(name, dtype=torch.float32)
    _, state = model(inputs(model, 2, 5))
    (leaf,) = Owner.of(model).growing
    assert Owner.of(model).leaves[leaf].grows
    assert parse_state(dump_state(state, model), model)._fields == state._fields
    wider = nn.functional.pad(getattr(state, leaf), (0, 1))
    with pytest.raises(CheckpointError, match="at least"):
        dump_state(state._replace(**{leaf: wider}), model)
    steps = next(name for name in state._fields if name != leaf)
    with pytest.raises(CheckpointError, match=steps):
        dump_state(state._replace(**{steps: getattr(state, steps).unsqueeze(1)}), model)


@pytest.mark.parametrize("name", BOUNDED)
def test_leaves_of_bounded_models_keep_their_shape(name: str) -> None:
    model = build(name, dtype=torch.float32)
    found = Owner(model)
    assert not found.growing
    for leaf, tensor in tt.state.leaves(model.initial_state(3)):
        assert found.leaves[leaf] == (tuple(tensor.shape[1:]), tensor.dtype, False)


def test_a_growing_leaf_that_is_none_is_an_error() -> None:
    model = small()
    model.growing = frozenset({"cache"})
    with pytest.raises(CheckpointError, match=r"growing names cache: expected leaves of its state, age, memory"):
        Owner(model)
