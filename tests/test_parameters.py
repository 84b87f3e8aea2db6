"""Nothing that nothing uses, old files load all the same, and nothing depends on where a model was built."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from zoo import BASELINES, ZOO, build, inputs, small

import tokenturing as tt
from tokenturing import state as states
from tokenturing.checkpoint.folder import SHIPPED
from tokenturing.checkpoint.weights import unsaved_of
from tokenturing.errors import CheckpointError
from tokenturing.models.contract import step_by_name
from tokenturing.models.flat import example

NAMES = sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))


@pytest.mark.parametrize("name", ZOO)
def test_every_parameter_is_used(name: str) -> None:
    model = build(name).train()
    x = inputs(model)
    mask = torch.ones(x.shape[:-1], dtype=torch.bool)
    mask[0, 0] = False
    y, state = model(x, token_mask=mask if name in BASELINES else None)  # a baseline has parameters of absent tokens
    floating = [leaf.square().sum() for _, leaf in states.leaves(state) if leaf.is_floating_point()]
    (y.square().sum() + sum(floating)).backward()
    assert [each for each, parameter in model.named_parameters() if parameter.grad is None] == []
    for each, parameter in model.named_parameters():
        if each.endswith("positions.kinds"):
            assert parameter.grad is not None
            assert parameter.grad.abs().amax(1).min() > 0, f"a row of {each} is used by nothing"


def older(model: tt.TokenTuringMachine) -> dict[str, Tensor]:
    """The parameters as older versions had them, with positions of slots in the gated write."""
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prefix = "cell.write.positions."
    found[f"{prefix}slots"] = torch.zeros(model.memory_tokens, model.width)
    found[f"{prefix}kinds"] = torch.cat([torch.zeros(1, model.width), found[f"{prefix}kinds"]])
    return found


def test_parameters_of_older_versions_load() -> None:
    model, other = small(input_tokens=2), small(input_tokens=2)
    other.load_state_dict(older(model))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    with pytest.raises(RuntimeError, match=r"cell\.read\.more"):
        other.load_state_dict(older(model) | {"cell.read.more": torch.zeros(1)})


def test_files_of_older_versions_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    old = older(model)
    with monkeypatch.context() as patch:
        patch.setattr(model, "state_dict", lambda **_: old)
        tt.save(model, tmp_path / "old")
    loaded = tt.load(tmp_path / "old")
    x = torch.randn(2, 3, 2, model.width)
    assert torch.equal(loaded(x)[0], model.eval()(x)[0])
    with monkeypatch.context() as patch:
        patch.setattr(model, "state_dict", lambda **_: old | {"cell.more": torch.zeros(1)})
        tt.save(model, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match=r"it has cell\.more besides"):
        tt.load(tmp_path / "foreign")


def test_the_shipped_machine_loads() -> None:
    """Its file was written when the gated write had positions of slots."""
    with safe_open(SHIPPED / "recall-ttm" / "model.safetensors", framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, tensor in tt.load("recall-ttm").state_dict().items():
        wanted = stored[name].to(tensor.dtype)
        assert torch.equal(tensor, wanted[-len(tensor) :] if name.endswith("write.positions.kinds") else wanted), name


@pytest.mark.parametrize("name", ZOO)
@torch.no_grad()
def test_built_on_the_meta_device(name: str) -> None:
    """Materialised and filled with the weights it answers as the one that they are of: nothing is left that they do not fill."""
    model = build(name)
    with torch.device("meta"):
        other: Any = ZOO[name]()
    other = other.to_empty(device="cpu").to(torch.float64).eval()
    for tensor in other.buffers():
        tensor.fill_(7)
    other.load_state_dict(model.state_dict())
    x = inputs(model)
    wanted, came = model(x), other(x)
    for (leaf, one), (_, another) in zip(states.leaves(wanted), states.leaves(came), strict=True):
        assert torch.equal(one, another), leaf


def on_meta(model: Any) -> Any:
    """The same model built without numbers, put on the CPU as it comes, and filled with the weights."""
    with torch.device("meta"):
        other = type(model)(**model.config)
    other = other.to_empty(device="cpu").eval()
    for tensor in other.buffers():
        tensor.fill_(7)
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("name", [name for name in NAMES if name != "recall-perception"])
@torch.no_grad()
def test_shipped_models_built_on_the_meta_device(name: str) -> None:
    model = tt.load(name)
    other = on_meta(model)
    given = example(model.signature(), 2)
    wanted, came = (step_by_name(each, given, each.initial_state(2)) for each in (model, other))
    for (leaf, one), (_, another) in zip(states.leaves(wanted), states.leaves(came), strict=True):
        assert torch.equal(one, another), leaf


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_all_that_a_model_holds(name: str) -> None:
    """No buffer that is not saved, and no tensor beside the buffers, which would not move with the model."""
    assert not list(unsaved_of(tt.load(name)))
    assert not beside(tt.load(name))


def beside(model: torch.nn.Module) -> list[str]:
    """Tensors that are plain attributes of a module."""
    return [
        f"{each}.{name}" for each, module in model.named_modules() for name, held in vars(module).items() if torch.is_tensor(held)
    ]


def test_control_of_what_is_not_saved() -> None:
    class Clocked(tt.TokenTuringMachine):
        def __init__(self, **options: Any):
            super().__init__(**options)
            self.register_buffer("grid", torch.arange(3.0), persistent=False)
            self.plain = torch.arange(3.0)

    model = Clocked(width=8, memory_tokens=3, read_tokens=2, layers=1, heads=2)
    assert [name for name, _ in unsaved_of(model)] == ["grid"]
    assert beside(model) == [".plain"]
    assert not torch.equal(on_meta(model).grid, model.grid)
