"""Models and states on disk: to save, load and go on is the same as never having stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import broken
import laws
import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo import ZOO, build, inputs, small

import tokenturing as tt
from tokenturing import checkpoint
from tokenturing.errors import CheckpointError
from tokenturing.models.contract import RecurrentModel

every_model = pytest.mark.parametrize("name", ZOO)


@torch.no_grad()
def save_load_go_on(model: RecurrentModel, folder: Path) -> None:
    """Stopped after 3 of 5 steps, and gone on with from files, to the bit."""
    x = inputs(model, 2, 5)
    _, state = model(x[:, :3])
    expected = model(x[:, 3:], state)
    tt.save(model, folder / "model")
    tt.save_state(state, folder / "state.safetensors", model)
    loaded = tt.load(folder / "model")
    assert tt.fingerprint(loaded) == tt.fingerprint(model)
    restored = tt.load_state(folder / "state.safetensors", loaded)
    laws.assert_same((x, state), (x, restored), "the state from a file", tolerance=0)
    for (_, kept), (_, leaf) in zip(tt.state.leaves(state), tt.state.leaves(restored), strict=True):
        assert leaf.dtype == kept.dtype
    assert type(restored) is type(state)
    laws.assert_same(expected, loaded(x[:, 3:], restored), "save, load, go on", tolerance=0)


@every_model
def test_save_load_go_on(name: str, tmp_path: Path) -> None:
    save_load_go_on(build(name, dtype=torch.float32), tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["gated", "write-mlp", "GRU"])
def test_save_load_go_on_in_other_types(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    save_load_go_on(build(name, dtype=dtype), tmp_path)


def test_save_load_go_on_control_fails(tmp_path: Path) -> None:
    save_load_go_on(broken.make(broken.Sound, dtype=torch.float32), tmp_path / "sound")
    with pytest.raises(AssertionError):
        save_load_go_on(broken.make(broken.Unsaved, dtype=torch.float32), tmp_path / "unsaved")


def test_another_process_goes_on(tmp_path: Path) -> None:
    model = build("gated", dtype=torch.float32)
    x = inputs(model, 2, 4)
    _, state = model(x[:, :2])
    tt.save(model, tmp_path / "model")
    tt.save_state(state, tmp_path / "state", model)
    save_file({"x": x[:, 2:].contiguous()}, tmp_path / "x")
    code = f"""
import sys, torch, tokenturing as tt
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
folder = {str(tmp_path)!r}
model = tt.load(folder + "/model")
assert "torch._dynamo" not in sys.modules, "it takes 2 s"
with torch.no_grad():
    y, _ = model(load_file(folder + "/x")["x"], tt.load_state(folder + "/state", model))
save_file({{"y": y}}, folder + "/y")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with torch.no_grad():
        assert torch.equal(load_file(tmp_path / "y")["y"], model(x[:, 2:], state)[0])


# --- models


def test_notes_and_files(tmp_path: Path) -> None:
    notes = {"recipe": "recall", "seed": 3, "figures": {"recall": 0.9}}
    tt.save(small(), tmp_path / "a", notes=notes)
    assert sorted(os.listdir(tmp_path)) == ["a"]
    assert sorted(os.listdir(tmp_path / "a")) == ["config.json", "model.safetensors"]
    content = json.loads((tmp_path / "a" / "config.json").read_text())
    assert content["format_version"] == 1
    assert content["class_name"] == "TokenTuringMachine"
    assert content["width"] == 8
    model = tt.load(tmp_path / "a")
    assert model.notes == notes
    assert not model.training
    tt.save(model, tmp_path / "b")
    assert tt.load(tmp_path / "b").notes == notes


def test_stored_small_loaded_as_it_was(tmp_path: Path) -> None:
    model = small()
    tt.save(model, tmp_path / "small", dtype=torch.float16)
    assert {t.dtype for t in load_file(tmp_path / "small" / "model.safetensors").values()} == {torch.float16}
    loaded = tt.load(tmp_path / "small")
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32
        assert torch.equal(loaded.state_dict()[name], tensor.half().float())
    with torch.no_grad():
        next(model.parameters()).fill_(1e6)
    with pytest.raises(CheckpointError, match="too large"):
        tt.save(model, tmp_path / "overflow", dtype=torch.float16)


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    tt.save(small(), tmp_path / "a")
    before = torch.get_rng_state()
    tt.load(tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state())


def test_types_of_each_weight_are_kept(tmp_path: Path) -> None:
    model = small()
    model.cell.processor.bfloat16()
    tt.save(model, tmp_path / "mixed")
    loaded = tt.load(tmp_path / "mixed")
    assert tt.fingerprint(loaded) == tt.fingerprint(model)


def test_fingerprint_knows_class_config_and_weights() -> None:
    def fingerprint(model: RecurrentModel) -> str:
        return tt.fingerprint(model)

    torch.manual_seed(0)
    model = small()
    torch.manual_seed(0)
    twin = small()
    assert fingerprint(model) == fingerprint(twin)
    torch.manual_seed(0)
    assert fingerprint(model) != fingerprint(small(dropout=0.1))
    with torch.no_grad():
        list(twin.parameters())[-1].flatten()[-1] += 1e-6
    assert fingerprint(model) != fingerprint(twin)


@pytest.mark.parametrize("fatal", range(4))
def test_a_crash_leaves_the_old_or_the_new_checkpoint(fatal: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dies at each of the renames and writes in turn."""
    old, new = small(), small()
    tt.save(old, tmp_path / "a", notes={"age": "old"})
    calls = 0
    replace = Path.replace

    def dying_replace(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == fatal:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dying_replace)
    died = False
    try:
        tt.save(new, tmp_path / "a", notes={"age": "new"})
    except KeyboardInterrupt:
        died = True
    monkeypatch.undo()
    assert died == (fatal in (1, 2))
    loaded = tt.load(tmp_path / "a")
    expected = old if loaded.notes["age"] == "old" else new
    assert tt.fingerprint(loaded) == tt.fingerprint(expected)
    assert (fatal == 1) == (expected is old)


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    tt.save(small(), tmp_path / "a", notes={"number": -1})
    code = f"""
import torch, tokenturing as tt
model = tt.load({str(tmp_path / "a")!r})
print("go", flush=True)
for number in range(10**6):
    with torch.no_grad():
        next(model.parameters()).fill_(number)
    tt.save(model, {str(tmp_path / "a")!r}, notes={{"number": number}})
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(5):
            checkpoint.load(tmp_path / "a")
        process.kill()
    loaded = tt.load(tmp_path / "a")
    if loaded.notes["number"] >= 0:
        assert (next(loaded.parameters()) == loaded.notes["number"]).all()


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("kept")
    for _ in range(2):
        tt.save(small(), tmp_path)
        assert sorted(os.listdir(tmp_path)) == ["config.json", "log.txt", "model.safetensors"]


@pytest.mark.parametrize("link", [False, True], ids=["folder", "link"])
def test_an_empty_folder_is_filled_where_it_is(link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the current one, a link's or a mounted one: none of these can be renamed."""
    folder = tmp_path / "far" / "real"
    folder.mkdir(parents=True)
    if link:
        (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    tt.save(small(), tmp_path / "link" if link else Path())
    assert sorted(os.listdir()) == ["config.json", "model.safetensors"]
    assert os.listdir(tmp_path / "far") == ["real"]
    assert (tmp_path / "link").is_symlink() == link


def test_a_link_to_nowhere_gets_its_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    tt.save(small(), tmp_path / "link")
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]
    assert sorted(os.listdir(tmp_path / "real")) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("fatal", ["first write", "last write", "rename"])
def test_a_crash_leaves_no_part_of_a_first_checkpoint(fatal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes, rename = Path.write_bytes, Path.rename
    written: list[str] = []

    def dying_write(self: Path, data: bytes) -> int:
        written.append(self.name)
        if len(written) == {"first write": 1, "last write": 2}.get(fatal):
            raise KeyboardInterrupt
        return write_bytes(self, data)

    def dying_rename(self: Path, target: Path) -> Path:
        if fatal == "rename":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "write_bytes", dying_write)
    monkeypatch.setattr(Path, "rename", dying_rename)
    with pytest.raises(KeyboardInterrupt):
        tt.save(small(), tmp_path / "a")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []
    tt.save(small(), tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


def test_shipped_models_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.folder, "SHIPPED", tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    for name in ("recall-ttm", "activity"):
        tt.save(small(), tmp_path / name)
    assert isinstance(tt.load("recall-ttm"), tt.TokenTuringMachine)
    with pytest.raises(CheckpointError, match="did you mean 'recall-ttm'") as caught:
        tt.load("recal-tm")
    assert "'activity'" in str(caught.value)


def test_a_class_of_ones_own(tmp_path: Path) -> None:
    class Mine(broken.Sound):
        pass

    with pytest.raises(CheckpointError, match="register"):
        tt.save(Mine(), tmp_path / "a")
    checkpoint.register(Mine)
    tt.save(Mine(), tmp_path / "a")
    assert type(tt.load(tmp_path / "a")) is Mine
    with pytest.raises(CheckpointError, match="registered already"):
        checkpoint.register(type("LSTM", (broken.Sound,), {}))


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        tt.save(small(), tmp_path / "file")
    with pytest.raises(CheckpointError, match="JSON"):
        tt.save(small(), tmp_path / "a", notes={"loss": object()})
    assert not (tmp_path / "a").exists()
