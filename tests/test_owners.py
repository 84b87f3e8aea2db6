"""Whose a state is: an owner that is never out of date, whatever is done to its model."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import small

import tokenturing as tt
from tokenturing.checkpoint import Owner, dump_state, owner, parse_state, register, session
from tokenturing.errors import CheckpointError


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
