"""States as bytes: the same checks as for files, and an owner that is never out of date."""

import gc
import json
import struct
import weakref
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
from torch import Tensor, nn
from zoo import BOUNDED, GROWING, ZOO, build, inputs, small

import tokenturing as tt
from tokenturing.checkpoint import Owner, dump_state, owner, parse_state, register, session
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


# --- bytes


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


# --- owners


def owned() -> tt.TokenTuringMachine:
    """A model with an owner that was computed before."""
    model = small().eval()
    assert Owner.of(model) is Owner.of(model)
    return model


def step_of(optimizer: Callable[[Any], torch.optim.Optimizer]) -> Callable[[tt.TokenTuringMachine], None]:
    def change(model: tt.TokenTuringMachine) -> None:
        stepper = optimizer(model.parameters())
        y, _ = model(torch.randn(1, 2, 3, 8))
        y.square().sum().backward()
        stepper.step()
        model.zero_grad()

    return change


def set_data_twice(model: tt.TokenTuringMachine) -> None:
    for _ in range(2):
        for parameter in model.parameters():
            parameter.data = parameter.data * 0.9


def parameter_of_the_same_id(model: tt.TokenTuringMachine) -> None:
    """Another tensor on the same memory, at the same place and with the same count of changes."""
    layer = first_linear(model)
    tensor, name, count = layer.weight.data, id(layer.weight), layer.weight._version
    layer.weight = None  # type: ignore[assignment]
    for _ in range(100):
        layer.weight = nn.Parameter(tensor)
        if id(layer.weight) == name:
            break
    with torch.no_grad():
        for _ in range(count):
            layer.weight.add_(1)
    assert count
    assert layer.weight._version == count


def there_and_back(model: tt.TokenTuringMachine) -> None:
    """Rounds the weights."""
    model.bfloat16().float()


def load_into(model: tt.TokenTuringMachine, **options: Any) -> None:
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()}, **options)


@torch.no_grad()
def in_place(model: tt.TokenTuringMachine) -> None:
    next(model.parameters()).add_(1)


@torch.inference_mode()
def in_inference_mode(model: tt.TokenTuringMachine) -> None:
    next(model.parameters()).add_(1)


def first_linear(model: nn.Module) -> nn.Linear:
    return next(module for module in model.modules() if isinstance(module, nn.Linear) and module.weight.shape[0] == 8)


def transpose(model: tt.TokenTuringMachine) -> None:
    weight = next(p for p in model.parameters() if p.dim() == 2 and p.shape[0] == p.shape[1])
    weight.data = weight.data.t()


def new_parameter(model: tt.TokenTuringMachine) -> None:
    layer = first_linear(model)
    layer.weight = nn.Parameter(layer.weight.detach() + 1)


def new_module(model: tt.TokenTuringMachine) -> None:
    layer = first_linear(model)
    parent = next(module for module in model.modules() if layer in module.children())
    name = next(name for name, child in parent.named_children() if child is layer)
    setattr(parent, name, nn.Linear(layer.in_features, layer.out_features))


def new_buffer(model: tt.TokenTuringMachine) -> None:
    model.register_buffer("more", torch.ones(1))


CHANGES: dict[str, Callable[[tt.TokenTuringMachine], Any]] = {
    "SGD": step_of(lambda p: torch.optim.SGD(p, 0.1)),
    "SGD-fused": step_of(lambda p: torch.optim.SGD(p, 0.1, fused=True)),
    "Adam": step_of(lambda p: torch.optim.Adam(p, foreach=False)),
    "AdamW-foreach": step_of(lambda p: torch.optim.AdamW(p, foreach=True)),
    "AdamW-fused": step_of(lambda p: torch.optim.AdamW(p, fused=True)),
    "load_state_dict": load_into,
    "load_state_dict-assign": lambda model: load_into(model, assign=True),
    "to-double": lambda model: model.double(),
    "there-and-back": there_and_back,
    "in-place": in_place,
    "in-inference-mode": in_inference_mode,
    "detached": lambda model: next(model.parameters()).detach().mul_(2),
    "initialised": lambda model: nn.init.ones_(next(model.parameters())),
    "set-data": lambda model: setattr(next(model.parameters()), "data", torch.ones(3, 8)),
    "set-data-twice": set_data_twice,
    "transposed": transpose,
    "new-parameter": new_parameter,
    "new-parameter-same-id": parameter_of_the_same_id,
    "new-module": new_module,
    "new-buffer": new_buffer,
    "config": lambda model: model.config.update(dropout=0.1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_model_has_another_owner(name: str) -> None:
    model = owned()
    before = Owner.of(model)
    data = dump_state(model.initial_state(1), model)
    CHANGES[name](model)
    after = Owner.of(model)
    assert after.fingerprint == tt.fingerprint(model) != before.fingerprint
    assert Owner.of(model) is after
    with pytest.raises(CheckpointError, match="another model"):
        parse_state(data, model)


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "control"])
def test_places_of_weights_that_are_gone_are_not_taken_for_theirs(marked: bool) -> None:
    """New weights may lie where the old ones did, but a storage of the same place would look like the same one."""
    model = owned()
    parameter = first_linear(model).weight
    if not marked:
        owner._KNOWN.clear()
    place = parameter.untyped_storage()._cdata
    parameter.data = torch.empty(0)
    new = [torch.empty(1).untyped_storage() for _ in range(5000)]
    found = {storage._cdata for storage in new}
    assert (place in found) != marked


def test_meta_device_is_noticed() -> None:
    """`.to()` another device: this one is there on every machine."""
    model = owned()
    before = Owner.of(model)
    marks = owner._KNOWN[model]
    model.to("meta")
    assert not marks.hold(model)
    assert before.device.type == "cpu"


def test_what_cannot_be_noticed() -> None:
    """The documented limits, and the way out: without these, the law above would show nothing."""
    for write in (lambda p: p.data.add_(1), lambda p: p.detach().numpy().__setitem__(0, 7)):
        model = owned()
        before = Owner.of(model)
        write(next(model.parameters()))
        assert Owner.of(model) is before
        assert Owner(model).fingerprint == tt.fingerprint(model) != before.fingerprint


def test_what_changes_nothing_keeps_the_owner() -> None:
    model = owned()
    before = Owner.of(model)
    model.train().eval()
    with torch.no_grad():
        model(torch.randn(1, 2, 3, 8))
    y, _ = model(torch.randn(1, 2, 3, 8))
    y.sum().backward()
    model.requires_grad_(False)
    assert Owner.of(model) is before


def test_weights_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, hashed = small(), 0
    real = owner.fingerprint

    def counted(model: nn.Module) -> str:
        nonlocal hashed
        hashed += 1
        return real(model)

    monkeypatch.setattr(owner, "fingerprint", counted)
    for _ in range(3):
        parse_state(dump_state(model.initial_state(2), model), model)
    assert hashed == 1
    for _ in range(2):
        Owner(model)
    assert hashed == 3


def test_compiled_model_has_the_owner_of_the_one_inside() -> None:
    model = owned()
    compiled: Any = torch.compile(model, backend="eager")
    assert Owner.of(compiled) is Owner.of(model)
    assert Owner(compiled).fingerprint == Owner(model).fingerprint
    before = Owner.of(model)
    compiled(torch.randn(1, 2, 3, 8))[0].sum().backward()
    torch.optim.AdamW(compiled.parameters(), fused=True).step()
    assert Owner.of(compiled).fingerprint == tt.fingerprint(model) != before.fingerprint
    assert Owner.of(compiled) is Owner.of(model)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_compiled_optimizer_is_noticed(fused: bool) -> None:
    model = owned()
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(3):
        before = Owner.of(model)
        model(torch.randn(1, 2, 3, 8))[0].sum().backward()
        step()
        assert Owner.of(model).fingerprint == tt.fingerprint(model) != before.fingerprint


def test_models_of_inference_mode_are_hashed_each_time() -> None:
    """Torch does not count their changes."""
    with torch.inference_mode():
        model = small()
        before = Owner.of(model)
        next(model.parameters()).add_(1)
        after = Owner.of(model)
        assert after.fingerprint == tt.fingerprint(model) != before.fingerprint
    model = owned()
    before = Owner.of(model)
    with torch.inference_mode():
        new_module(model)
    assert Owner.of(model).fingerprint == tt.fingerprint(model) != before.fingerprint


def test_owners_keep_no_model_alive() -> None:
    model = owned()
    kept, there, weight = Owner.of(model), weakref.ref(model), weakref.ref(next(model.parameters()))
    del model
    gc.collect()
    assert there() is None
    assert weight() is None
    assert kept.class_name == "TokenTuringMachine"


def test_weights_that_were_replaced_are_not_kept() -> None:
    model = owned()
    weight = weakref.ref(first_linear(model).weight)
    new_parameter(model)
    gc.collect()
    assert weight() is None


def test_a_copy_has_an_owner_of_its_own() -> None:
    import copy

    model = owned()
    twin = copy.deepcopy(model)
    assert Owner.of(twin) is not Owner.of(model)
    assert Owner.of(twin).fingerprint == Owner.of(model).fingerprint


def test_a_model_that_says_nothing_of_growing_has_none() -> None:
    """Any module with a first state and a config will do."""

    @register
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config: dict[str, Any] = {}
            self.weight = nn.Parameter(torch.zeros(2))

        def initial_state(self, rows: int) -> tuple[Tensor]:
            return (self.weight.new_zeros(rows, 2),)

    model = Plain()
    assert Owner(model).growing == frozenset()
    assert torch.equal(parse_state(dump_state((torch.ones(3, 2),), model), model)[0], torch.ones(3, 2))
    assert session._owner(Owner.of(model)) is Owner.of(model)
