"""The scripts behind the figures of the pages run, print their tables, and refuse what is not there."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import tokenturing as tt
from tokenturing.evaluate.figures import Figure
from tokenturing.tasks.last_digits.model import DigitRecaller

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "benchmarks"
SMALL = {"width": 16, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2}


def run(script: str, *arguments: object) -> str:
    """What a script prints."""
    command = [sys.executable, SCRIPTS / script, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    came = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250)
    assert came.returncode == 0, came.stderr
    return came.stdout


def table(printed: str, first: str) -> list[list[str]]:
    """The cells of the Markdown table whose head has this cell, without the head."""
    lines = printed.splitlines()
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


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("training_step.py", ["--models", "plain loop,step by stop"], ["did you mean 'step by step'", "'compiled bfloat16'"]),
        ("training_step.py", ["--rows", "0"], ["'0': expected a whole number above 0"]),
        ("recurrence.py", ["--layers", "LSTN"], ["did you mean 'LSTM'"]),
        ("two_processes.py", ["--ways", "three apart"], ["did you mean 'two apart'"]),
        ("two_processes.py", ["--rows", "3"], ["expected an even number"]),
        ("two_processes.py", ["--updates", "10"], ["expected more than the 10"]),
        ("exported_step.py", ["--batches", "1,x"], ["'x': expected a whole number above 0"]),
        ("export_accuracy.py", ["--precisions", "int4"], ["did you mean 'int8'", "'bf16'"]),
        ("export_accuracy.py", ["--set", "rows"], ["expected KEY=VALUE"]),
    ],
)
def test_what_is_not_there_is_refused(
    script: str,
    arguments: list[str],
    says: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert all(words in said for words in says), said


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


def test_settings_of_a_session() -> None:
    rows = table(run("session_settings.py", "--size", "tiny", "--rounds", 2), "of the first")
    assert [row[0] for row in rows][::6] == ["as it is", "bound"]
    assert rows[0][2] == "1.00"


def test_two_processes(tmp_path: Path) -> None:
    ways = ["--ways", "one process,two together", "--json", tmp_path / "found.json"]
    printed = run("two_processes.py", "--rows", 4, "--updates", 20, "--rounds", 1, *ways, "--set", "train.steps=3")
    assert [row[0] for row in table(printed, "rows a second")] == ["one process", "two together"]
    losses = json.loads((tmp_path / "found.json").read_text())["losses"]
    assert losses["first_update"] == 10
    assert losses["first"] < 1e-5


def test_accuracy_of_exports(tmp_path: Path) -> None:
    tt.save(DigitRecaller("TokenTuringMachine", SMALL), tmp_path / "model")
    options = ["--precisions", "float32,int8", "--set", "rows=4", "--json", tmp_path / "found.json"]
    printed = run("export_accuracy.py", tmp_path / "model", *options)
    assert "int8 is left out: no matrix of this model has" in printed
    rows = table(printed, "2nd last")
    assert [row[0] for row in rows] == ["eager", "float32", "answers to each"]
    assert "float32: at most" in printed
    figures = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert rows[0][1:] == [f"{figure['accuracy']:.4f}" for figure in figures["eager"]]


def test_accuracy_is_pooled_by_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = runpy.run_path(str(SCRIPTS / "export_accuracy.py"))
    one = [Figure.share(kind, right, 10, delay=delay) for kind, right, delay in (("a", 9, 0.5), ("b", 5, 0.5), ("a", 2, 60.0))]
    other = [one[0], Figure.share("b", 6, 10, delay=0.5), one[2]]
    columns = names["by_column"](one)
    assert {name: figure.value for name, figure in columns.items()} == {"0.5 s": 0.7, "60 s": 0.2}
    largest, where = names["points"](one, other)
    assert (round(largest, 6), where) == (10.0, "b 0.5")
    assert names["points"](one, one)[0] == 0
