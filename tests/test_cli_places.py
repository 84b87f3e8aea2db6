"""Commands that are given the wrong place: said before any work begins, by what it is."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from command_line import fails

import tokenturing as tt
from tokenturing.cli import main as cli
from tokenturing.errors import CheckpointError, OptionError
from tokenturing.export import export_onnx
from tokenturing.files import write_file, write_folder
from tokenturing.files.places import check_place


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("keep me")
    return tmp_path / "file"


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: Any, **__: Any) -> None:
        raise AssertionError("work began")

    for place in ("tokenturing.checkpoint.load", "tokenturing.train.recipe.load_recipe", "tokenturing.demo.run.run"):
        monkeypatch.setattr(place, begun)
    monkeypatch.setattr("tokenturing.bench.contestants.contestants", begun)


FOLDERS = [["train", "recall", "--out"], ["export", "recall-ttm", "--out"], ["demo", "--out"], ["bench", "--out"]]
FILES = [["evaluate", "recall-ttm", "--json"], ["stream", "recall-ttm", "f", "--jsonl"], ["stream", "recall-ttm", "f", "--state"]]


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", FOLDERS + FILES, ids=" ".join)
def test_places_are_checked_before_any_work(command: list[str], file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    option = command[-1]
    assert fails(capsys, *command, file / "x").startswith(f"tokenturing: {option} {file}/x: there is a file in the middle")
    wrong = file if command in FOLDERS else file.parent
    expected = "this is a file: expected a folder" if command in FOLDERS else "this is a folder: expected a file"
    assert f"{option} {wrong}: {expected}" in fails(capsys, *command, wrong)
    assert "no name to write to" in fails(capsys, *command, file.parent / ("x" * 300))
    assert os.listdir(file.parent) == ["file"]
    with pytest.raises(AssertionError, match="work began"):  # the control: folders are made everywhere
        cli.main([*command, str(file.parent / "new" / "x")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_this_user_may_not_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OptionError, match="may not be written to"):
        check_place("--out", tmp_path / "a" / "b", folder=True)
    tmp_path.chmod(0o700)
    assert check_place("--out", tmp_path / "a" / "b", folder=True) == tmp_path / "a" / "b"


def test_places_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in ("file", "link", "new", "/dev/null", tmp_path / "a" / "b"):
        check_place("--json", path)
    for path in (".", "link", "new", tmp_path):
        check_place("--out", path, folder=True)


@pytest.mark.parametrize("write", [lambda path: write_file(path, b""), lambda path: write_folder(path, lambda _: None)])
def test_errors_name_the_place_that_was_asked_for(write: Any, file: Path) -> None:
    with pytest.raises((OSError, CheckpointError), match="file") as raised:
        write(file / "e")
    assert ".partial" not in str(raised.value)


def test_writers_name_no_hidden_folder(file: Path) -> None:
    model = zoo.build("GRU", dtype=torch.float32)
    for write in (export_onnx, tt.save, lambda model, path: tt.save_state(model.initial_state(1), path, model)):
        with pytest.raises((OSError, ValueError)) as raised:
            write(model, file / "e")
        assert str(file) in str(raised.value)
        assert ".partial" not in str(raised.value)


def test_an_error_while_writing_names_the_place(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "missing" / "part").write_text("")

    with pytest.raises(FileNotFoundError) as raised:
        write_folder(tmp_path / "out", write)
    assert raised.value.filename == str(tmp_path / "out" / "missing" / "part")


# --- folders that hold something else


def test_an_export_is_inspected_and_else_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = export_onnx(zoo.build("GRU", dtype=torch.float32), tmp_path / "export")
    cli.main(["inspect", str(export)])
    shown = capsys.readouterr().out
    assert "a GRU" in shown
    assert "float32 [B" in shown
    cli.main(["inspect", str(export), "--json"])
    for command in (["export"], ["train", "recall", "--from"], ["demo", "--model"]):
        assert f"{export} is an export" in fails(capsys, *command, export)


def test_other_folders_are_told_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no model: expected a folder that tokenturing.save, train or export wrote" in fails(capsys, "inspect", tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    for command in ("inspect", "evaluate", "export"):
        assert "a training run that has no model yet" in fails(capsys, command, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "model.safetensors does not exist" in fails(capsys, "inspect", tmp_path)


def test_what_does_not_stream_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = fails(capsys, "stream", "recall-perception", tmp_path / "film.mp4")
    assert "recall-perception is a Perception" in said
    assert "such as recall-ttm" in said


# --- flags


def test_flags_of_tasks_may_have_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._as_settings(["evaluate", "a", "--loud", "--rows", "80"]) == [
        "evaluate",
        "a",
        "--set",
        "loud=true",
        "--set",
        "rows=80",
    ]
    assert cli._as_settings(["evaluate", "a", "--loud"]) == ["evaluate", "a", "--set", "loud=true"]
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    shown = capsys.readouterr().out
    assert all(f"--{option} " in shown for option in ("rows", "delays", "seed", "speech", "bank"))


@pytest.mark.parametrize("command", [["inspect"], ["inspect", "recall-memoryless"], ["inspect", "recall-memoryless", "--json"]])
def test_who_has_read_enough_is_no_error(command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        ran = subprocess.run([sys.executable, "-m", "tokenturing", *command], stdout=output, stderr=subprocess.PIPE, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
