"""Where files and folders are written: links, mounted and current folders, pipes, odd names, several writers, what was left."""

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from zoo import small

import tokenturing as tt
from tokenturing import files
from tokenturing.errors import CheckpointError
from tokenturing.files import write_file, write_folder

ODD_NAMES = {
    "long": "x" * 255,
    "long in bytes": "ä" * 127,
    "not UTF-8": os.fsdecode(b"caf\xe9"),
    "long and not UTF-8": os.fsdecode(b"\xff" * 255),
    "spaces": " a b ",
}


def put_two(folder: Path) -> None:
    (folder / "part").write_text("new")
    (folder / "last").write_text("new")


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_odd_names(name: str, tmp_path: Path) -> None:
    write_file(tmp_path / name, b"content")
    assert (tmp_path / name).read_bytes() == b"content"
    (tmp_path / name).unlink()
    for _ in range(2):
        write_folder(tmp_path / name, put_two)
    assert sorted(os.listdir(tmp_path / name)) == ["last", "part"]
    assert os.listdir(tmp_path) == [name]


# --- files


@pytest.mark.parametrize("there", [True, False], ids=["link", "dangling link"])
def test_a_link_to_a_file_stays_a_link(there: bool, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    if there:
        (tmp_path / "far" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "real")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "real").read_bytes() == b"new"
    assert os.listdir(tmp_path / "far") == ["real"]


def test_a_private_file_stays_private(tmp_path: Path) -> None:
    write_file(tmp_path / "it", b"old")
    (tmp_path / "it").chmod(0o600)
    seen = []

    def write(file: Any) -> None:
        seen.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode))

    write_file(tmp_path / "it", write)
    assert [mode(tmp_path / "it"), *seen] == [0o600, 0o600]


def test_pipes_and_devices_are_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    came: list[bytes] = []
    reader = threading.Thread(target=lambda: came.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_file(tmp_path / "pipe", b"content")
    reader.join()
    assert came == [b"content"]
    assert (tmp_path / "pipe").is_fifo()
    write_file(Path(os.devnull), b"content")
    assert Path(os.devnull).is_char_device()


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder"):
        write_file(tmp_path, b"")


def test_a_file_that_is_mounted_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(self: Path, target: Path) -> Path:
        raise OSError(errno.EBUSY, "busy")

    (tmp_path / "it").write_bytes(b"a longer one")
    monkeypatch.setattr(Path, "replace", replace)
    write_file(tmp_path / "it", b"new")
    assert (tmp_path / "it").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["it"]


# --- folders


def test_files_in_a_folder_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    """However they were made: safetensors makes private ones."""

    def write(folder: Path) -> None:
        (folder / "deep").mkdir()
        for path in (folder / "private", folder / "deep" / "private"):
            path.touch(0o600)
        (folder / "tool").touch(0o777)

    (tmp_path / "plain").touch()
    write_folder(tmp_path / "it", write)
    for private in ("private", "deep/private"):
        assert mode(tmp_path / "it" / private) == mode(tmp_path / "plain") != 0o600
    assert mode(tmp_path / "it" / "tool") & 0o100


def test_a_folder_that_is_replaced_hands_on_its_permissions(tmp_path: Path) -> None:
    for old in ([], ["old"]):
        (tmp_path / "it").mkdir(0o700, exist_ok=True)
        for name in old:
            (tmp_path / "it" / name).touch()
        write_folder(tmp_path / "it", put_two)
        assert mode(tmp_path / "it") == 0o700


def refuse(*_: Any) -> None:
    raise OSError(errno.EBUSY, "busy")


@pytest.mark.parametrize("old", [{}, {"last": "old", "other": "old"}], ids=["empty", "old"])
@pytest.mark.parametrize("kind", ["mounted", "mounted from the same disk", "current"])
def test_a_folder_that_cannot_be_renamed_is_filled(
    kind: str, old: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "it"
    folder.mkdir()
    for name, text in old.items():
        (folder / name).write_text(text)
    before = folder.stat().st_ino
    if kind == "current":
        monkeypatch.chdir(folder)
    else:
        monkeypatch.setattr(Path, "rename", refuse)
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    if kind == "mounted":
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == folder)
    write_folder(Path() if kind == "current" else folder, put_two)
    assert content(folder) == {"part": "new", "last": "new"}
    assert folder.stat().st_ino == before
    assert os.listdir(tmp_path) == ["it"]


def test_a_folder_that_is_filled_is_never_half_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last file is the one that readers look for."""
    monkeypatch.chdir(tmp_path)
    for name in ("part", "last"):
        (tmp_path / name).write_text("old")
    seen = []
    replace = Path.replace

    def looking(self: Path, target: Path) -> Path:
        seen.append(content_of_files(tmp_path))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", looking)
    write_folder(tmp_path, put_two)
    assert seen == [{"part": "old"}, {"part": "new"}]


def content_of_files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_what_may_not_be_replaced_stays(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "part").write_text("old")
    with pytest.raises(FileExistsError):
        write_folder(tmp_path / "it", put_two, replace=False)
    assert content(tmp_path / "it") == {"part": "old"}
    assert os.listdir(tmp_path) == ["it"]


# --- several writers, and those that were killed


@pytest.mark.parametrize("old", ["free", "empty", "old"])
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_several_writers_of_one_folder(old: str, exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    if old != "free":
        (tmp_path / "it").mkdir()
    if old == "old":
        (tmp_path / "it" / "part").write_text("old")
    barrier = threading.Barrier(6)

    def write(folder: Path) -> None:
        barrier.wait()
        put_two(folder)

    run_at_once(lambda: write_folder(tmp_path / "it", write))
    assert content(tmp_path / "it") == {"part": "new", "last": "new"}
    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize("when", ["before the target is looked at", "between the two renames"])
def test_another_writer_between_two_renames(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has taken the target away, or put its own there: the last writer's folder is what stays."""
    target, elsewhere = tmp_path / "it", tmp_path / "elsewhere"
    for folder in (target, elsewhere):
        folder.mkdir()
        (folder / "part").write_text("another's")
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    rename = Path.rename
    done = []

    def interrupted(self: Path, to: Path) -> Path:
        if when == "between the two renames":
            moved = rename(self, to)
            if self == target and not done:
                done.append(rename(elsewhere, target))
            return moved
        try:
            return rename(self, to)
        finally:
            if to == target and not done:
                done.append(rename(target, tmp_path / "taken"))

    monkeypatch.setattr(Path, "rename", interrupted)
    write_folder(target, put_two)
    assert done
    assert content(target) == {"part": "new", "last": "new"}
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_several_writers_of_one_file(tmp_path: Path) -> None:
    barrier = threading.Barrier(6)

    def write(file: Any) -> None:
        barrier.wait()
        file.write(b"new")

    run_at_once(lambda: write_file(tmp_path / "it", write))
    assert content(tmp_path) == {"it": "new"}


@pytest.mark.parametrize("write", [lambda path: write_file(path, b"new"), lambda path: write_folder(path, put_two)])
def test_a_place_that_another_writer_took_used_and_left(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our making it and our lock on it."""
    gone: list[Path] = []
    opened = os.open

    def taken(path: Any, *arguments: Any, **named: Any) -> int:
        if not gone and str(path).endswith(".partial") and os.path.lexists(path):
            gone.append(Path(path))
            (os.rmdir if gone[0].is_dir() else os.unlink)(path)
        return opened(path, *arguments, **named)

    monkeypatch.setattr(os, "open", taken)
    write(tmp_path / "it")
    assert gone
    assert os.listdir(tmp_path) == ["it"]


def run_at_once(call: Callable[[], None], count: int = 6) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_does_not_add_up(kind: str, tmp_path: Path) -> None:
    """Its place is used again, and is gone after the next write; the place of a living one is not touched."""
    code = f"""
import sys, time
from pathlib import Path
from tokenturing.files import write_file, write_folder

def write(aside):
    if {kind == "file"}:
        aside.write(b"half")
        aside.flush()
    else:
        (aside / "half").write_text("half")
    print("go", flush=True)
    time.sleep(600)

write_{kind}(Path({str(tmp_path / "it")!r}), write)
"""

    def again() -> None:
        if kind == "file":
            write_file(tmp_path / "it", b"new")
        else:
            write_folder(tmp_path / "it", put_two)

    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (left,) = os.listdir(tmp_path)
        again()
        assert sorted(os.listdir(tmp_path)) == [left, "it"], "it is alive"
        process.kill()
    assert left.startswith(".it.")
    again()
    assert os.listdir(tmp_path) == ["it"]
    assert "half" not in (os.listdir(tmp_path / "it") if kind == "folder" else (tmp_path / "it").read_text())


@pytest.mark.parametrize("old", ["free", "empty", "old"])
def test_several_ranks_save_one_model(old: str, tmp_path: Path) -> None:
    model = small()
    if old != "free":
        (tmp_path / "it").mkdir()
    if old == "old":
        tt.save(small(), tmp_path / "it")
    run_at_once(lambda: tt.save(model, tmp_path / "it"))
    assert sorted(os.listdir(tmp_path / "it")) == ["config.json", "model.safetensors"]
    assert os.listdir(tmp_path) == ["it"]
    assert tt.fingerprint(tt.load(tmp_path / "it")) == tt.fingerprint(model)
