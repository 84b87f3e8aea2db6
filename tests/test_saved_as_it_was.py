"""What `save` accepts, `load` gives back: buffers of every type, compiled parts, places of every kind."""

import json
import os
import threading
import time
import warnings
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tokenturing as tt
from tokenturing.checkpoint import register
from tokenturing.errors import CheckpointError
from tokenturing.files import LEFT_SECONDS, write_file, write_folder

SMALL = {"width": 16, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2}
BUFFERS = {
    "mask": lambda: torch.full((8, 8), float("-inf")).triu(1),
    "grid": lambda: torch.linspace(20.0, 20_000.0, 512),
    "steps": lambda: torch.logspace(0, 6, 16),
    "range": lambda: torch.arange(1e6, 1e6 + 100, 0.5),
    "nan": lambda: torch.full((3,), float("nan")),
    "rotary": lambda: torch.polar(torch.ones(4), torch.arange(4.0)),
    "double": lambda: torch.arange(4, dtype=torch.float64) / 3,
    "half": lambda: torch.full((2,), 1 / 3, dtype=torch.float16),
    "bfloat16": lambda: torch.full((2,), 1 / 3, dtype=torch.bfloat16),
    "long": lambda: torch.full((2,), 2**40),
    "bytes": lambda: torch.arange(200, dtype=torch.uint8),
    "flags": lambda: torch.tensor([True, False]),
    "identity": lambda: torch.eye(5),
}


@register
class Holder(nn.Module):
    """A layer and buffers, saved or not."""

    def __init__(self, kept: list[str], unkept: list[str]):
        super().__init__()
        self.config = {"kept": kept, "unkept": unkept}
        self.layer = nn.Linear(4, 4)
        for name in kept:
            self.register_buffer(f"kept_{name}", BUFFERS[name]())
        for name in unkept:
            self.register_buffer(f"unkept_{name}", BUFFERS[name](), persistent=False)


def contents(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = contents(one), contents(other)
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype
        and ours[name].shape == theirs[name].shape
        and bool(((ours[name] == theirs[name]) | (ours[name] != ours[name])).all())
        for name in ours
    )


NAMES = st.lists(st.sampled_from(sorted(BUFFERS)), unique=True)


@settings(max_examples=40, deadline=None)
@given(NAMES, NAMES, st.sampled_from([None, torch.float64, torch.float16, torch.bfloat16]))
def test_what_is_saved_comes_back_equal(
    tmp_path_factory: pytest.TempPathFactory, kept: list[str], unkept: list[str], dtype: torch.dtype | None
) -> None:
    folder = tmp_path_factory.mktemp("model")
    model = Holder(kept, unkept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of complex buffers that a cast leaves alone
        model = model if dtype is None else model.to(dtype)
    tt.save(model, folder)
    loaded = tt.load(folder)
    assert equal(model, loaded)
    with torch.no_grad():
        loaded.layer.bias += 1
    assert not equal(model, loaded), "the control"


def test_files_that_say_nothing_of_unsaved_buffers_are_read_as_before(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    tt.save(Holder([], ["grid", "rotary", "double"]).half(), tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    del metadata["unsaved_types"]
    save_file(tensors, tmp_path / "model.safetensors", metadata)
    loaded = tt.load(tmp_path)
    assert loaded.unkept_grid.dtype == torch.float16
    assert loaded.unkept_rotary.is_complex()
    assert loaded.unkept_double.dtype == torch.float64


def test_a_model_far_larger_than_its_file_is_refused_still(tmp_path: Path) -> None:
    tt.save(tt.TokenTuringMachine(**SMALL), tmp_path)  # type: ignore[arg-type]
    for key, value in (("width", 10**6), ("memory_tokens", 10**9)):
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(CheckpointError, match="far larger"):
            tt.load(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("part", ["all", "cell", "processor"])
def test_compiled_parts_are_saved_by_their_plain_names(tmp_path: Path, part: str) -> None:
    model = tt.TokenTuringMachine(**SMALL).eval()  # type: ignore[arg-type]
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = model.initial_state(1)
    compiled = model
    if part == "all":
        compiled = torch.compile(model, backend="eager")  # type: ignore[assignment]
    elif part == "cell":
        model.cell = torch.compile(model.cell, backend="eager")  # type: ignore[assignment]
    else:
        model.cell.processor = torch.compile(model.cell.processor, backend="eager")  # type: ignore[assignment]
    tt.save(compiled, tmp_path / "model")
    tt.save_state(state, tmp_path / "state", compiled)
    loaded = tt.load(tmp_path / "model")
    assert loaded.state_dict().keys() == plain.keys()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in loaded.state_dict().items())
    assert torch.equal(tt.load_state(tmp_path / "state", loaded).memory, state.memory), "it is the same model"


def test_a_config_is_the_models_own(tmp_path: Path) -> None:
    from tokenturing.tasks.recall.model import RecallModel

    options = {"width": 16, "hidden": 8}
    model = RecallModel("LSTM", options, 5, 6, 0)
    options["hidden"] = 12
    tt.save(model, tmp_path / "model")
    assert tt.load(tmp_path / "model").memory.config["hidden"] == 8


def test_keys_that_json_would_change_are_refused(tmp_path: Path) -> None:
    model = Holder([], [])
    model.config["kept"] = {3: "three"}  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match="the key 3"):
        tt.save(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def model() -> tt.TokenTuringMachine:
    return tt.TokenTuringMachine(**SMALL).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["n" * 250, "ü" * 125, os.fsdecode(b"caf\xe9"), "with space", "-"])
def test_names_of_every_kind(tmp_path: Path, name: str, model: tt.TokenTuringMachine) -> None:
    tt.save(model, tmp_path / name)
    tt.save(model, tmp_path / name)
    tt.load(tmp_path / name)
    state = tmp_path / "of" / name
    tt.save_state(model.initial_state(1), state, model)
    tt.load_state(state, model)
    assert len(list(tmp_path.iterdir())) == 2
    assert not list(tmp_path.rglob(".*")), "nothing is left beside them"


def test_links_go_on_pointing(tmp_path: Path, model: tt.TokenTuringMachine) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "file-link").symlink_to(tmp_path / "file")
    for _ in range(2):
        tt.save(model, tmp_path / "link")
        tt.save_state(model.initial_state(1), tmp_path / "file-link", model)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "config.json").exists()
    assert (tmp_path / "file-link").is_symlink()
    assert (tmp_path / "file").is_file()


def test_into_the_folder_one_is_in(tmp_path: Path, model: tt.TokenTuringMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tt.save(model, ".")
    tt.load(".")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_is_no_file(tmp_path: Path, model: tt.TokenTuringMachine) -> None:
    with pytest.raises(CheckpointError, match="is a folder"):
        tt.save_state(model.initial_state(1), tmp_path, model)
    assert not list(tmp_path.parent.glob(".*.partial"))


def _save(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    tt.save(tt.TokenTuringMachine(**SMALL), folder, notes={"seed": seed})  # type: ignore[arg-type]


def test_several_processes_at_once_leave_one_whole_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    ranks = [get_context("fork").Process(target=_save, args=(folder, seed)) for seed in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * 4
    loaded = tt.load(folder)
    torch.manual_seed(loaded.notes["seed"])
    assert torch.equal(loaded.initial_memory, tt.TokenTuringMachine(**SMALL).initial_memory)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    old, new, foreign = (tmp_path / name for name in (".model.0.partial", ".model.1.partial", ".other.0.partial"))
    old.mkdir()
    (old / "model.safetensors").write_bytes(b"all weights")
    for path in (new, foreign):
        path.write_bytes(b"")
    for path in (old, foreign):
        os.utime(path, (time.time() - 2 * LEFT_SECONDS,) * 2)
    write_folder(tmp_path / "model", lambda folder: (folder / "file").write_bytes(b""))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.1.partial", ".other.0.partial", "model"]


def test_files_are_as_open_as_others(tmp_path: Path, model: tt.TokenTuringMachine) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "file", b"")
        tt.save(model, tmp_path / "model")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o777 == 0o640


def test_loading_in_a_thread_rewinds_nobodys_random_numbers(tmp_path: Path, model: tt.TokenTuringMachine) -> None:
    tt.save(model, tmp_path)
    torch.manual_seed(0)
    expected = torch.rand(4000)
    torch.manual_seed(0)
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            tt.load(tmp_path)

    thread = threading.Thread(target=load)
    thread.start()
    drawn = []
    for _ in range(1000):
        drawn.append(torch.rand(4))
        time.sleep(0.0002)
    stop.set()
    thread.join()
    torch.manual_seed(0)
    assert torch.equal(torch.cat(drawn), torch.cat([torch.rand(4) for _ in range(1000)]))
    assert len(set(expected.tolist())) > 3900, "the control: numbers that were drawn twice would show"


@pytest.mark.filterwarnings("ignore:.*with other weights")
def test_sessions_go_on_after_a_fine_tuning_where_that_is_asked_for(tmp_path: Path, model: tt.TokenTuringMachine) -> None:
    state = model.initial_state(2)
    data = tt.dump_state(state, model)
    tt.save_state(state, tmp_path / "state", model)
    with torch.no_grad():
        model.cell.write.oldest += 0.1  # type: ignore[operator]
    with pytest.raises(CheckpointError, match="allow_other_weights=True"):
        tt.load_state(tmp_path / "state", model)
    with pytest.warns(UserWarning, match="other weights"):
        loaded = tt.load_state(tmp_path / "state", model, allow_other_weights=True)
    assert torch.equal(loaded.memory, state.memory)
    with pytest.warns(UserWarning, match="other weights"):
        tt.parse_state(data, model, allow_other_weights=True)
    larger = tt.TokenTuringMachine(**SMALL | {"memory_tokens": 5})  # type: ignore[arg-type]
    for other, why in ((larger, "expected"), (tt.baselines.GRU(16), "another class")):
        with pytest.raises(CheckpointError, match=why):
            tt.load_state(tmp_path / "state", other, allow_other_weights=True)
