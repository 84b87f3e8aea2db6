"""Files and folders in one move: a crash at any moment leaves the old or the new, and nothing beside it."""

import contextlib
import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenturing import files
from tokenturing.errors import CheckpointError, MissingExtraError
from tokenturing.files import write_file, write_folder

OLD, NEW = {"a": "old", "b": "old", "only-old": "old"}, {"a": "new", "b": "new", "deep/c": "new"}


def fill(content: dict[str, str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, text in content.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)

    return write


def found(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def crash_at(fatal: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Die before (odd) or after (even) each step that could show outside; the steps taken are listed."""
    steps: list[str] = []

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            steps.append(f"before {name}")
            if len(steps) == fatal:
                raise KeyboardInterrupt
            result = real(*arguments, **options)
            steps.append(f"after {name}")
            if len(steps) == fatal:
                raise KeyboardInterrupt
            return result

        return call

    patch.setattr(Path, "rename", dying("rename", Path.rename))
    patch.setattr(Path, "mkdir", dying("mkdir", Path.mkdir))
    patch.setattr(Path, "write_text", dying("write", Path.write_text))
    patch.setattr(files, "_exchange", dying("exchange", files._exchange))
    patch.setattr(os, "fsync", dying("fsync", os.fsync))
    return steps


@pytest.fixture(params=["exchange", "two renames"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How an old folder is replaced: as the system can, and as where it can't."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    return request.param


@pytest.mark.parametrize("old", [None, {}, OLD], ids=["free", "empty", "old"])
def test_a_folder_is_replaced_whole(old: dict[str, str] | None, swap: str, tmp_path: Path) -> None:
    if old is not None:
        (tmp_path / "it").mkdir()
        fill(old)(tmp_path / "it")
    write_folder(tmp_path / "it", fill(NEW))
    assert found(tmp_path / "it") == NEW
    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize("old", [None, OLD], ids=["free", "old"])
def test_a_crash_leaves_the_old_or_the_new_folder(
    old: dict[str, str] | None, swap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    for fatal in range(1, 200):
        folder = tmp_path / str(fatal) / "it"
        folder.parent.mkdir()
        if old is not None:
            write_folder(folder, fill(old))
        with monkeypatch.context() as patch:
            steps = crash_at(fatal, patch)
            with contextlib.suppress(KeyboardInterrupt):
                write_folder(folder, fill(NEW))
        now = found(folder) if folder.exists() else None
        assert now in (old, NEW), f"after a crash at {steps[-1]}"
        assert os.listdir(folder.parent) == ["it"] * (now is not None), f"after a crash at {steps[-1]}"
        left.append("new" if now == NEW else "old")
        if len(steps) < fatal:
            break
    assert left == sorted(left, reverse=True), "old until one moment, then new"
    assert set(left) == {"old", "new"}
    assert len(left) > 20


def test_a_crash_control_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing into the folder itself leaves half of each."""
    fill(OLD)(tmp_path)
    crash_at(7, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fill(NEW)(tmp_path)
    assert found(tmp_path) not in (OLD, NEW)


def test_a_killed_process_leaves_a_whole_folder(tmp_path: Path) -> None:
    """It replaces a folder over and over; the folder is whole at every look, and after the end."""
    code = f"""
from pathlib import Path
from tokenturing.files import write_folder

def write(folder):
    for name in "abcd":
        (folder / name).write_text(str(number))

for number in range(10**6):
    write_folder(Path({str(tmp_path / "it")!r}), write)
    if not number:
        print("go", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(300):
            assert (tmp_path / "it").is_dir()
        process.send_signal(signal.SIGKILL)
    content = found(tmp_path / "it")
    assert sorted(content) == list("abcd")
    assert len(set(content.values())) == 1


def test_an_error_of_the_writer_changes_nothing(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        fill(NEW)(folder)
        raise ValueError("no")

    write_folder(tmp_path / "it", fill(OLD))
    with pytest.raises(ValueError, match="no"):
        write_folder(tmp_path / "it", write)
    with pytest.raises(ValueError, match="no"):
        write_folder(tmp_path / "other", write)
    assert os.listdir(tmp_path) == ["it"]
    assert found(tmp_path / "it") == OLD


@pytest.mark.parametrize("old", [None, {}, OLD], ids=["dangling", "empty", "old"])
def test_links_to_folders_stay_links(old: dict[str, str] | None, swap: str, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "real", tmp_path / "link"
    if old is not None:
        real.mkdir()
        fill(old)(real)
    link.symlink_to(real)
    write_folder(link, fill(NEW))
    assert link.is_symlink()
    assert found(real) == NEW
    assert os.listdir(tmp_path / "far") == ["real"]
    assert sorted(os.listdir(tmp_path)) == ["far", "link"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("kept")
    with pytest.raises(CheckpointError, match="is a file"):
        write_folder(tmp_path / "it", fill(NEW))
    assert (tmp_path / "it").read_text() == "kept"
    assert os.listdir(tmp_path) == ["it"]


def test_folders_above_are_made(tmp_path: Path) -> None:
    write_folder(tmp_path / "a" / "b" / "c", fill(NEW))
    assert found(tmp_path / "a" / "b" / "c") == NEW


def test_files_may_be_written_by_a_function(tmp_path: Path) -> None:
    write_file(tmp_path / "it", b"old")

    def half(file: Any) -> None:
        file.write(b"ne")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_file(tmp_path / "it", half)
    assert (tmp_path / "it").read_bytes() == b"old"
    write_file(tmp_path / "it", lambda file: file.write(b"new"))
    assert (tmp_path / "it").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["it"]


def test_a_missing_package_is_said_across_processes() -> None:
    error = MissingExtraError("scipy", "speech")
    again = copy.copy(error)  # by the same protocol as between processes
    assert str(again) == str(error)
    assert (again.package, again.extra) == ("scipy", "speech")
