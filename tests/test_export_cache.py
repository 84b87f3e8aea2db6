"""Exports that are kept: made again once the code that shapes them is another."""

import importlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import zoo

import tokenturing as tt
from tokenturing.export import cache, cached_runtime

PACKAGE = Path(tt.__file__).parent
OWN = """
import torch
class Own(torch.nn.Module):
    def initial_state(self, rows):
        return torch.zeros(rows, 2)
    def step(self, x, state):
        return x * {factor}, state
"""
KEY = "from tokenturing.export import cache; import torch; print(cache._sources(torch.nn.Linear(1, 1)))"


def key_of(package: Path) -> str:
    """The hash of sources that a copy of the package has."""
    ran = subprocess.run(
        [sys.executable, "-c", KEY], capture_output=True, text=True, env={"PYTHONPATH": str(package.parent)}, check=True
    )
    return ran.stdout.strip()


def test_an_edited_package_has_another_key(tmp_path: Path) -> None:
    copy = tmp_path / "tokenturing"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    first = key_of(copy)
    (copy / "cli" / "main.py").write_text((copy / "cli" / "main.py").read_text() + "\n# shapes no graph\n")
    assert key_of(copy) == first, "the control"
    (copy / "models" / "machine.py").write_text((copy / "models" / "machine.py").read_text() + "\n# may shape graphs\n")
    assert key_of(copy) != first


def test_rooms_without_graphs_are_there() -> None:
    assert {path.name for path in PACKAGE.iterdir()} >= set(cache.ROOMS_WITHOUT_GRAPHS)


def test_what_another_package_edits_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    keys = []
    for factor in (2, 2, 3):
        (tmp_path / "own_module_of_a_test.py").write_text(OWN.format(factor=factor))
        sys.modules.pop("own_module_of_a_test", None)
        keys.append(cache._sources(importlib.import_module("own_module_of_a_test").Own()))
    assert keys[0] == keys[1] != keys[2]
    keys = []
    for factor in (2, 2, 3):
        space = {"__name__": "of_a_notebook"}
        exec(OWN.format(factor=factor), space)
        keys.append(cache._sources(space["Own"]()))  # type: ignore[operator]
    assert keys[0] == keys[1] != keys[2]


def test_a_stale_graph_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENTURING_CACHE", str(tmp_path))
    model = zoo.build("GRU", dtype=torch.float32)
    for source, graphs in ((b"old", 1), (b"old", 1), (b"new", 2)):
        monkeypatch.setattr(cache, "_own_sources", lambda source=source: source)
        cached_runtime(model, threads=1)
        assert len(list(tmp_path.glob("*/model.onnx"))) == graphs


def test_exports_of_other_versions_go_once_nobody_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENTURING_CACHE", str(tmp_path))
    first, second = zoo.build("GRU", dtype=torch.float32), zoo.build("LSTM", dtype=torch.float32)
    monkeypatch.setattr(cache, "_own_sources", lambda: b"old")
    for model in (first, second):
        cached_runtime(model, threads=1)
    old = sorted(tmp_path.glob("export-*"))
    stray = tmp_path / "export-of-something-else"
    stray.mkdir()
    for folder in old:
        age(folder)
    cached_runtime(first, threads=1)
    taken = [folder for folder in old if is_young(folder)]
    assert len(taken) == 1, "an export that is taken is young again"
    monkeypatch.setattr(cache, "_own_sources", lambda: b"new")
    cached_runtime(first, threads=1)
    new = set(tmp_path.glob("export-*")) - {*old, stray}
    assert len(new) == 1
    assert set(tmp_path.iterdir()) == {*new, *taken, stray}, "only what is old, of another version and an export goes"
    age(*new)
    cached_runtime(second, threads=1)
    assert new < set(tmp_path.iterdir()), "this version's stay however old"


def age(folder: Path) -> None:
    os.utime(folder / "runtime.json", (0, time.time() - 2 * cache.KEPT_FOR))


def is_young(folder: Path) -> bool:
    return time.time() - (folder / "runtime.json").stat().st_mtime < cache.KEPT_FOR
