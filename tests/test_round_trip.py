"""What `save` accepts, `load` gives back equal: buffers of every kind and type, saved or not, compiled parts, configs."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import small

import tokenturing as tt
from tokenturing.checkpoint import register
from tokenturing.checkpoint import weights as notes
from tokenturing.checkpoint.folder import check_savable
from tokenturing.errors import CheckpointError, OptionError

TYPES = [
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"),
    *("complex128", "complex64", "complex32"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"),
]
MAKERS = {
    "full of infinity": lambda: torch.full((8, 8), float("inf")),
    "full of NaN": lambda: torch.full((3,), torch.nan),
    "mask": lambda: torch.full((8, 8), float("-inf")).triu(1),
    "linspace": lambda: torch.linspace(20.0, 20000.0, 512),
    "logspace": lambda: torch.logspace(0, 6, 40),
    "arange": lambda: torch.arange(100_000.0, 400_000.0, 1000.0),
    "integers": lambda: torch.randint(0, 10**6, (5, 2)),
    "window": lambda: torch.hann_window(4000),
    "identity": lambda: torch.eye(4000, 3),
    "permutation": lambda: torch.randperm(4000),
    "indices": lambda: torch.tril_indices(50, 50),
    "repeated": lambda: torch.arange(3.0).repeat(100, 1),
    "expanded": lambda: torch.arange(3.0).expand(100, 3),
    "transposed": lambda: torch.arange(6.0).view(2, 3).T,
    "outer": lambda: torch.outer(torch.arange(64.0), torch.arange(64.0)).sin(),
    "number": lambda: torch.tensor(3.5),
    "empty": lambda: torch.zeros(0, 3),
    "pi": lambda: torch.tensor([torch.pi], dtype=torch.float64),
    "rotary": lambda: torch.polar(torch.ones(4), torch.arange(4.0)),
    "two to the 60": lambda: torch.tensor([2**60 + 1]),
}


@register
class Buffers(nn.Module):
    """Has buffers of the kinds and types in its config."""

    def __init__(self, buffers: list[list[Any]]):
        super().__init__()
        self.config = {"buffers": buffers}
        self.linear = nn.Linear(2, 3)
        torch.manual_seed(0)
        for number, (kind, dtype, persistent) in enumerate(buffers):
            value = MAKERS[kind]()
            self.register_buffer(f"b{number}", value.to(getattr(torch, dtype)) if dtype else value, persistent=persistent)


def assert_equal(model: nn.Module, loaded: nn.Module) -> None:
    ours, theirs = (dict([*m.named_parameters(), *m.named_buffers()]) for m in (model, loaded))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        found = theirs[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(as_bytes(found), as_bytes(tensor)), name


def as_bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def round_trip(model: nn.Module, folder: Path, **options: Any) -> Any:
    tt.save(model, folder, **options)
    loaded = tt.load(folder)
    assert tt.fingerprint(loaded) == tt.fingerprint(model)
    return loaded


kinds = st.tuples(st.sampled_from(list(MAKERS)), st.sampled_from([None, *TYPES]), st.booleans())


@pytest.mark.filterwarnings("ignore:Casting complex", "ignore:ComplexHalf")
@given(buffers=st.lists(kinds, max_size=8), cast=st.sampled_from([None, torch.float64, torch.float16, torch.bfloat16]))
def test_what_is_saved_is_loaded_equal(buffers: list[Any], cast: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = Buffers([list(each) for each in buffers]).to(cast)
    assert_equal(model, round_trip(model, tmp_path_factory.mktemp("it") / "it"))


@pytest.mark.filterwarnings("ignore:Casting complex", "ignore:ComplexHalf")
@pytest.mark.parametrize("persistent", [True, False], ids=["saved", "not saved"])
def test_every_kind_and_every_type(persistent: bool, tmp_path: Path) -> None:
    model = Buffers([[kind, None, persistent] for kind in MAKERS] + [["integers", dtype, persistent] for dtype in TYPES])
    assert_equal(model, round_trip(model, tmp_path / "it"))
    assert_equal(model.half(), round_trip(model.half(), tmp_path / "half"))


def test_buffers_larger_than_the_weights(tmp_path: Path) -> None:
    """The file says how large they are."""

    @register
    class LargeMask(nn.Module):
        def __init__(self, size: int):
            super().__init__()
            self.config = {"size": size}
            self.register_buffer("mask", torch.ones(size, size, dtype=torch.bool), persistent=False)
            self.register_buffer("one", torch.ones(1))

    loaded = round_trip(LargeMask(5000), tmp_path / "it")
    assert loaded.mask.shape == (5000, 5000)
    config = json.loads((tmp_path / "it" / "config.json").read_text())
    (tmp_path / "it" / "config.json").write_text(json.dumps(config | {"size": 50_000}))
    with pytest.raises(CheckpointError, match="far larger"):
        tt.load(tmp_path / "it")


def test_more_than_load_would_build_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "LARGEST_UNSAVED", 1000)
    tt.save(Buffers([["number", None, False]]), tmp_path / "it")
    with pytest.raises(CheckpointError, match="persistent=False have 12000 numbers"):
        tt.save(Buffers([["identity", None, False]]), tmp_path / "it")


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
def test_other_default_types(default: torch.dtype, tmp_path: Path) -> None:
    """Neither that of the process that saved nor that of the one that loads changes a number."""
    kinds = [[kind, None, False] for kind in ("linspace", "mask", "rotary")]
    single, before = Buffers(kinds), torch.get_default_dtype()
    tt.save(single, tmp_path / "single")
    torch.set_default_dtype(default)
    try:
        assert_equal(single, tt.load(tmp_path / "single"))
        assert torch.get_default_dtype() == default
        other = Buffers(kinds[:2])
        tt.save(other, tmp_path / "other")
    finally:
        torch.set_default_dtype(before)
    assert_equal(other, tt.load(tmp_path / "other"))


def test_models_are_loaded_on_the_cpu_whatever_the_default_device(tmp_path: Path) -> None:
    model = Buffers([["linspace", None, False]])
    tt.save(model, tmp_path / "it")
    with torch.device("meta"):
        assert_equal(model, tt.load(tmp_path / "it"))


def test_older_files_do_not_note_what_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [["rotary", None, False], ["linspace", None, False], ["pi", None, False]]
    monkeypatch.setattr("tokenturing.checkpoint.folder.UNSAVED", "something else")
    tt.save(Buffers(kinds), tmp_path / "single")
    tt.save(Buffers(kinds).double(), tmp_path / "double")
    monkeypatch.undo()
    assert_equal(Buffers(kinds), _with_weights_of(tt.load(tmp_path / "single"), Buffers(kinds)))
    loaded = tt.load(tmp_path / "double")
    assert [loaded.b0.dtype, loaded.b1.dtype, loaded.b2.dtype] == [torch.complex64, torch.float64, torch.float64]


def _with_weights_of(loaded: nn.Module, model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    loaded.load_state_dict(Buffers(model.config["buffers"]).state_dict())  # type: ignore[arg-type]
    with torch.no_grad():
        for own, other in zip(loaded.parameters(), model.parameters(), strict=True):
            own.copy_(other)
    return loaded


@pytest.mark.parametrize("text", ['{"types": {"a": "Tensor"}, "numbers": 1, "default_type": "float32"}', "[]", "x", "{}"])
def test_notes_that_are_wrong_are_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes.Unsaved, "text", lambda self: text)
    tt.save(small(), tmp_path / "it")
    with pytest.raises(CheckpointError, match="save it again"):
        tt.load(tmp_path / "it")


# --- what no file can hold


@register
class Own(nn.Module):
    """One layer, and whatever a test adds to it."""

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.layer = nn.Linear(2, 2)


@register
class Lazy(nn.Module):
    """Learns its width at its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.layer = nn.LazyLinear(3)


def test_lazy_layers(tmp_path: Path) -> None:
    model = Lazy()
    check_savable(model)  # before training, it may have none yet
    with pytest.raises(CheckpointError, match="no shape before the model's first call"):
        tt.save(model, tmp_path / "it")
    model.layer(torch.ones(1, 5))
    assert_equal(model, round_trip(model, tmp_path / "it"))


def test_what_is_no_dense_tensor_is_not_saved(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"a": 1}

        def set_extra_state(self, state: Any) -> None:
            pass

    for message, part in (
        ("is a dict, which get_extra_state gave", Extra(2, 2)),
        ("is on the meta device", nn.Linear(2, 2, device="meta")),
        ("is torch.sparse_coo", _with_buffer(torch.eye(3).to_sparse())),
    ):
        model = Own()
        model.part = part
        with pytest.raises(CheckpointError, match=message):
            tt.save(model, tmp_path / "it")
    assert not (tmp_path / "it").exists()
    with pytest.raises(OptionError, match="floating-point"):
        tt.save(Own(), tmp_path / "it", dtype=torch.int8)


def _with_buffer(buffer: Tensor) -> nn.Module:
    module = nn.Module()
    module.register_buffer("it", buffer)
    return module


# --- compiled and wrapped models


@pytest.mark.parametrize("twice", [False, True], ids=["in place", "beside"])
def test_compiled_parts(twice: bool, tmp_path: Path) -> None:
    """They leave no trace in files and fingerprints."""
    model = small()
    plain = tt.fingerprint(model)
    compiled = torch.compile(model.cell, backend="eager")
    if twice:
        model.fast = compiled
    else:
        model.cell = compiled
    assert tt.fingerprint(model) == plain
    tt.save(model, tmp_path / "it")
    assert tt.fingerprint(tt.load(tmp_path / "it")) == plain
    state = small().initial_state(1)
    tt.save_state(state, tmp_path / "state", model)
    tt.load_state(tmp_path / "state", tt.load(tmp_path / "it"))


def test_parts_that_the_class_compiles(tmp_path: Path) -> None:
    @register
    class Compiling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config: dict[str, Any] = {}
            self.plain = nn.Linear(2, 2)
            self.fast = torch.compile(self.plain, backend="eager")
            self.other = torch.compile(nn.Linear(2, 2), backend="eager")

    model = Compiling()
    assert_equal(model, round_trip(model, tmp_path / "it"))


def test_wrapped_models_are_those_inside(tmp_path: Path) -> None:
    model = small()
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        tt.save(wrapped, tmp_path / "it")
        assert tt.fingerprint(tt.load(tmp_path / "it")) == tt.fingerprint(model) == tt.fingerprint(wrapped)


# --- configs


@register
class Sized(nn.Module):
    """Is as large as its options say."""

    def __init__(self, options: dict[str, Any]):
        super().__init__()
        self.config = {"options": options}
        self.layers = nn.ModuleList(nn.Linear(size, size) for size in options["sizes"])


def test_a_caller_may_change_his_options_later(tmp_path: Path) -> None:
    options: dict[str, Any] = {"sizes": [2, 3]}
    model = Sized(options)
    options["sizes"].append(5)
    assert model.config == {"options": {"sizes": [2, 3]}}
    assert_equal(model, round_trip(model, tmp_path / "it"))
    del model.config
    with pytest.raises(CheckpointError, match="has no config"):
        tt.save(model, tmp_path / "it")


@pytest.mark.parametrize("options", [{"sizes": [2], 1: 2}, {"sizes": [2], "deep": [{None: 1}]}], ids=["int", "None"])
def test_keys_that_json_would_change_are_refused(options: dict[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has the key (1|None), and comes back with '(1|None)'"):
        tt.save(Sized(options), tmp_path / "it")
    with pytest.raises(CheckpointError, match="has the key 1"):
        tt.save(small(), tmp_path / "it", notes={"figures": {1: 0.5}})


# --- random numbers


@register
class Slow(nn.Module):
    """Is built while others draw, and draws and seeds meanwhile; its random table is not saved."""

    during: Any = staticmethod(lambda: None)

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.layer = nn.Linear(4, 4)
        Slow.during()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.register_buffer("table", torch.randn(3), persistent=False)
        torch.manual_seed(5)
        self.register_buffer("order", torch.randperm(9), persistent=False)


def test_loading_in_a_thread_leaves_the_generator_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Slow()
    tt.save(model, tmp_path / "it")
    torch.manual_seed(7)
    expected = torch.randn(6)
    building, drawn = threading.Event(), threading.Event()

    def wait() -> None:
        building.set()
        assert drawn.wait(60)

    monkeypatch.setattr(Slow, "during", staticmethod(wait))
    torch.manual_seed(7)
    loaded: list[nn.Module] = []
    thread = threading.Thread(target=lambda: loaded.append(tt.load(tmp_path / "it")))
    thread.start()
    assert building.wait(60)
    found = torch.cat([torch.randn(1), torch.randn(2)])  # in between, and seeds of this thread are its own
    state = torch.get_rng_state()
    drawn.set()
    thread.join()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.cat([found, torch.randn(3)])[:1], expected[:1])
    assert_equal(model, loaded[0])
    assert torch.random.default_generator is torch.default_generator


@pytest.mark.parametrize("draw", ["rand", "randn", "randperm", "randint"])
def test_no_kind_of_draw_reaches_the_generator(draw: str) -> None:
    from tokenturing.checkpoint.draws import own_draws

    def once() -> Tensor:
        return torch.randint(0, 99, (9,)) if draw == "randint" else getattr(torch, draw)(9)

    torch.manual_seed(3)
    before = torch.get_rng_state()
    with own_draws():
        inside = once()
        for other in (torch.bernoulli, torch.nn.functional.dropout, torch.rand_like, torch.randn_like):
            other(torch.full((4,), 0.5))
        nn.init.orthogonal_(torch.empty(3, 3))
        torch.multinomial(torch.ones(4), 2)
        torch.normal(torch.zeros(2), torch.ones(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(inside, once()), "the first draw is the one that would have come"
