"""The scripts behind the figures of the pages run, print their tables, and refuse what is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: object, fails: bool = False) -> str:
    """What a script of benchmarks/ prints, or, if it is to fail, says."""
    command = [sys.executable, ROOT / "benchmarks" / script, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    came = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert came.returncode == (2 if fails else 0), came.stderr
    return came.stderr if fails else came.stdout


def table(printed: str, first: str) -> list[list[str]]:
    """The cells of the Markdown table whose head has this cell, without the head."""
    lines = [line for line in printed.splitlines()]
    start = next(at for at, line in enumerate(lines) if line.startswith("|") and f"| {first} |" in line)
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_a_training_step(tmp_path: Path) -> None:
    names = ["plain loop", "step by step", "tokenturing"]
    size = ["--size", "one", "--rows", 2, "--steps", 3, "--rounds", 2, "--json", tmp_path / "found.json"]
    rows = table(run("training_step.py", *size, "--models", "tokenturing,step by step,plain loop"), "first update, s")
    assert [row[0] for row in rows] == names
    assert rows[0][2] == rows[1][3] == "1.00"
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["rows"], found["steps"], list(found["models"])) == (2, 3, names)
    assert all(one["first"] > 0 and one["median"] > 0 for one in found["models"].values())
    assert found["command"].startswith("python benchmarks/training_step.py --size one")


def test_unknown_names_are_refused_with_the_list() -> None:
    said = run("training_step.py", "--models", "plain loop,step by stop", fails=True)
    assert "did you mean 'step by step'" in said
    assert "'compiled bfloat16'" in said
    assert "Traceback" not in said


def test_recurrences(tmp_path: Path) -> None:
    options = ["--rows", "2,1", "--steps", 12, "--width", 8, "--rounds", 2, "--json", tmp_path / "found.json"]
    printed = run("recurrence.py", *options)
    ratios = table(printed, "bare")
    assert [row[:3] for row in ratios] == [[layer, rows, "1.00"] for layer in ("LSTM", "GRU") for rows in "21"]
    assert all(float(cell) > 0 for row in ratios for cell in row[2:])
    found = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert float(ratios[0][-1]) == pytest.approx(found[0]["any tokens"]["median"] / found[0]["bare"]["median"], abs=0.01)


def test_what_the_change_from_an_lstm_costs() -> None:
    rows = table(run("from_lstm.py", "--rows", 2, "--steps", 3, "--rounds", 1), "a step of 1 row")
    page = table((ROOT / "docs" / "from-lstm.md").read_text(encoding="utf-8"), "a step of 1 row")
    assert [row[0] for row in rows] == [row[0] for row in page], "the page's table has other rows"
    assert all(cell.endswith("(1)") for cell in rows[0][1:])


def test_two_processes(tmp_path: Path) -> None:
    ways = ["--ways", "one process,two together", "--json", tmp_path / "found.json"]
    printed = run("two_processes.py", "--rows", 4, "--updates", 20, "--rounds", 1, *ways, "--set", "train.steps=3")
    assert [row[0] for row in table(printed, "rows a second")] == ["one process", "two together"]
    losses = json.loads((tmp_path / "found.json").read_text())["losses"]
    assert losses["first_update"] == 10
    assert losses["first"] < 1e-5
    assert "odd" not in printed
    assert "an even number" in run("two_processes.py", "--rows", 3, fails=True)


def test_accuracy_of_exports(tmp_path: Path) -> None:
    options = ["--set", "rows=2", "delays=0.1,0.2", "--json", tmp_path / "found.json"]
    printed = run("export_accuracy.py", "recall-mingru", "--precisions", "float32,int8", *options)
    assert "int8 is left out: no matrix of this model has" in printed
    rows = table(printed, "0.1 s")
    assert [row[0] for row in rows] == ["eager", "float32", "answers to each"]
    assert "float32: at most" in printed
    figures = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert rows[2][1] == str(sum(figure["count"] for figure in figures["eager"] if figure["delay"] == 0.1))


def test_drift(tmp_path: Path) -> None:
    printed = run("drift.py", "--steps", 200, "--json", tmp_path / "found.json")
    assert "200 steps  float32" in printed
    assert all(
        row["largest"] < 1e-3 for row in json.loads((tmp_path / "found.json").read_text()) if row["precision"] == "float32"
    )
