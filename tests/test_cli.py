"""The command line as people use it: help, errors of one line, training that survives kill -9, figures."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import fails
from recall_files import tiny_bank, tiny_recipe
from safetensors.torch import load_file

import tokenturing as tt
from tokenturing.cli import main as cli
from tokenturing.errors import OptionError
from tokenturing.evaluate.figures import Figure
from tokenturing.export import export_onnx
from tokenturing.tasks.recall.eyes.perception import Perception
from tokenturing.tasks.recall.model import RecallModel
from tokenturing.tasks.recall.probe import evaluate
from tokenturing.tasks.recall.world.questions import ANSWERS, FACTS, KINDS, QUESTIONS
from tokenturing.train.loop import Training
from tokenturing.train.recipe import load_recipe

OPTIONS = {"width": 16, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2, "hidden": 16}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def bank(recipe: Path) -> Path:
    return recipe.with_name("bank.npz")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "untrained"
    torch.manual_seed(0)
    model = RecallModel("TokenTuringMachine", OPTIONS, len(QUESTIONS), len(ANSWERS), FACTS, perception=16)
    model.answer.question.weight.data *= 10  # so that each question has another answer, and some are right
    tt.save(model, folder, notes={"human_speakers": ["jackson"], "seconds": 3})
    return folder


# --- help and errors


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_help(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"] if command else ["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: tokenturing" in shown
    if command is None:
        assert all(name in shown for name in cli.COMMANDS)


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 0
    assert "tokenturing demo" in capsys.readouterr().out


def test_it_is_a_module_to_run_too() -> None:
    run = subprocess.run([sys.executable, "-m", "tokenturing"], capture_output=True, text=True, check=True)
    assert "evaluate" in run.stdout


def test_an_unknown_key_of_a_recipe_names_the_nearest(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'rate'" in fails(capsys, "train", recipe, "--set", "train.rat=1")


def test_what_is_missing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no recipe" in fails(capsys, "train", tmp_path / "none.toml")
    assert "recall-nothing" in fails(capsys, "inspect", "recall-nothing")
    assert "no folder" in fails(capsys, "evaluate", tmp_path / "none")
    assert "inspect --writes needs" in fails(capsys, "inspect", "--writes")


def test_wrong_values_are_one_line(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--delays" in fails(capsys, "evaluate", checkpoint, "--delays", "soon")
    assert "expected seconds above 0" in fails(capsys, "evaluate", checkpoint, "--delays", "-1")
    assert "is not a folder" in fails(capsys, "evaluate", checkpoint, "--speech", tmp_path / "x")


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tokenturing.cli.inspect.inspect", interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["inspect"])
    assert stopped.value.code == 130


# --- train


def test_training_killed_in_the_middle_gives_the_same_model(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["train", str(recipe), "--out", str(tmp_path / "whole")])
    command = [sys.executable, "-m", "tokenturing", "train", str(recipe), "--out", str(tmp_path / "killed")]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "training.safetensors").exists():
        assert run.poll() is None
        time.sleep(0.005)
    run.kill()
    run.wait()
    assert not (tmp_path / "killed" / "model").exists(), "it was killed too late to show anything"
    middle = load_file(tmp_path / "killed" / "training.safetensors")
    capsys.readouterr()
    cli.main(["train", str(recipe), "--out", str(tmp_path / "killed")])
    assert "going on" in capsys.readouterr().out
    whole, resumed = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # the control: what it stood at when it was killed is something else
    assert not all(torch.equal(whole[name], middle[f"model.{name}"]) for name in whole)


def test_training_with_a_compiled_step(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for compiled in ("false", "true"):
        out = tmp_path / compiled
        few = ("--set", "train.updates=3", "--set", f"train.compile={compiled}")
        cli.main(["train", str(recipe), "--out", str(out), *few])
        found.append(load_file(out / "model" / "model.safetensors"))
    for name, eager in found[0].items():
        torch.testing.assert_close(found[1][name], eager, rtol=1e-3, atol=1e-4)
    capsys.readouterr()
    options = (
        "--set",
        "train.compile=true",
        "--set",
        "model.memory=GRU",
        "--set",
        "model.options={width=16}",
    )
    assert "TokenTuringMachine" in fails(capsys, "train", recipe, "--out", tmp_path / "gru", *options)


def test_training_in_bfloat16(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        cli.main(["train", str(recipe), "--out", str(out), "--set", f"train.precision={precision}"])
        found.append(load_file(out / "model" / "model.safetensors"))
        assert {part.dtype for part in found[-1].values()} == {torch.float32}
    whole, half = (torch.cat([part.flatten() for part in model.values()]) for model in found)
    begun = load_recipe(recipe).build_task().build().state_dict()
    moved = (whole - torch.cat([begun[name].flatten() for name in found[0]])).norm()
    assert 0 < (whole - half).norm() < 0.2 * moved
    capsys.readouterr()
    said = fails(capsys, "train", recipe, "--out", tmp_path / "no", "--set", "train.precision=half")
    assert "bfloat16" in said


def test_the_perception_is_frozen_while_its_memory_learns(recipe: Path) -> None:
    model = load_recipe(recipe).build_task().build().train()
    sound = torch.randn(64, 96)
    assert torch.equal(model.perception.sound(sound), model.perception.sound(sound)), "it draws no dropout"
    model.perception.train()
    assert not torch.equal(model.perception.sound(sound), model.perception.sound(sound)), "as it would"


def test_the_clocks_of_the_inputs_are_read_later(recipe: Path, tmp_path: Path) -> None:
    run = Training(load_recipe(recipe, ["schedule.late_clock=2", "model.options.look_back=2"]), tmp_path)
    clock = run.model.memory.cell.look_back.clock
    read = []
    for _ in range(3):
        run.advance()
        read.append(bool(clock.any()))
    assert read == [False, False, True]


def test_a_perception_is_trained_and_saved(bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "eyes.toml"
    path.write_text(f'task = "perception"\n[train]\nupdates = 2\nrows = 8\nsteps = 1\n[speech]\nbank = "{bank}"\n')
    cli.main(["train", str(path), "--out", str(tmp_path / "run")])
    model = tt.load(tmp_path / "run" / "model")
    assert isinstance(model, Perception)
    assert "seen right" in model.notes["validation"]
    assert "seen right" in capsys.readouterr().out


def test_an_unknown_task_is_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'recall'" in fails(capsys, "train", recipe, "--set", "task=recal")


# --- evaluate and inspect


def test_evaluate_writes_a_list_of_rows(checkpoint: Path, bank: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures" / "one.json"
    cli.main(["evaluate", str(checkpoint), "--delays", "0.5", "--rows", "2", "--bank", str(bank), "--json", str(file)])
    rows = json.loads(file.read_text())
    assert {row["kind"] for row in rows} == set(KINDS)
    for row in rows:
        assert set(row) == {"kind", "delay", "accuracy", "low", "high", "count"}
        assert row["delay"] == 0.5
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
        assert row["count"] > 0
    assert [path.name for path in file.parent.iterdir()] == ["one.json"]


def test_rows_of_several_models_name_them(tmp_path: Path) -> None:
    from tokenturing.cli.evaluate import write_figures

    write_figures(tmp_path / "two.json", {name: [Figure.share("ago", 32, 64, delay=5.0)] for name in ("a", "b")})
    assert [row["model"] for row in json.loads((tmp_path / "two.json").read_text())] == ["a", "b"]


def test_speakers_that_were_trained_on_are_not_tested_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenturing.tasks.recall.voices import choice, utterances

    asked: list[object] = []
    word = np.zeros(10, np.float32)
    words = [utterances.Utterance(0, name, word) for name in ("anna", "bert", "carl")]
    monkeypatch.setattr(choice, "recorded", lambda folder: words)
    monkeypatch.setattr(choice, "cached_bank", lambda *arguments, **_: asked.append(arguments))
    choice.held_out_bank("folder", "", [{"human_speakers": ["anna"]}, {}])
    assert asked == [("test", "folder", ["bert", "carl"])]
    with pytest.raises(OptionError, match="every speaker"):
        choice.held_out_bank("folder", "", [{"human_speakers": ["anna", "carl"]}, {"human_speakers": ["bert"]}])


def test_inspect_says_what_a_checkpoint_is(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["inspect", str(checkpoint)])
    shown = capsys.readouterr().out
    model = tt.load(checkpoint)
    assert f"{sum(p.numel() for p in model.memory.parameters()):,}" in shown
    assert f"{tt.state.nbytes(model.initial_state(1)):,}" in shown
    assert "jackson" in shown


def test_inspect_as_json_and_as_a_list(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["inspect", str(checkpoint), "--json"])
    found = json.loads(capsys.readouterr().out)
    model = tt.load(checkpoint)
    assert found["memory"]["parameters"] == sum(p.numel() for p in model.memory.parameters())
    assert found["settings"] == model.config
    assert found["notes"] == model.notes
    cli.main(["inspect"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in tt.checkpoint.shipped())
    cli.main(["inspect", "--json"])
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == tt.checkpoint.shipped()


def test_inspect_shows_what_is_written(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenturing.cli.inspect.WRITES_SHOWN", 60)
    cli.main(["inspect", "recall-ttm", "--writes"])
    heading, *rows, summary = capsys.readouterr().out.splitlines()
    assert heading.startswith("step  sees  hears")
    opened = [row for row in rows if ": 0." in row or ": 1." in row]
    assert any(row.split()[1].isdigit() for row in opened), "a digit was seen and nothing written"
    assert "of the gates" in summary
    assert "slots to look at" in fails(capsys, "inspect", "recall-lstm", "--writes")


# --- export


def test_export_writes_a_folder_that_runs(checkpoint: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cli.main(["export", str(checkpoint), "--out", str(tmp_path / "out")])
    assert "tokenturing.runtime.load" in capsys.readouterr().out
    machine = tt.runtime.load(tmp_path / "out", threads=1)
    inputs = {name: np.zeros((1, *shape[1:]), kind) for name, (shape, kind) in machine.inputs.items()}
    y, _ = machine.step(inputs, machine.initial_state(1))
    assert y.shape == (1, 2, 16)
    assert machine.ask(y, [[0, 1, 2]]).shape == (1, 3, len(ANSWERS))
    assert "expected a module with initial_state" in fails(capsys, "export", "recall-perception")


def test_an_export_is_evaluated_like_its_checkpoint(checkpoint: Path, bank: Path, tmp_path: Path) -> None:
    cli.main(["export", str(checkpoint), "--out", str(tmp_path / "out")])
    file = tmp_path / "both.json"
    both = ["evaluate", str(checkpoint), str(tmp_path / "out"), "--delays", "0.5,2", "--rows", "8", "--bank", str(bank)]
    cli.main([*both, "--json", str(file)])
    found = json.loads(file.read_text())
    ours, exported = ([{**row, "model": ""} for row in found if row["model"] == name] for name in ("untrained", "out"))
    assert ours == exported
    assert {row["accuracy"] for row in ours} != {0.0}, "a model that is never right shows nothing"
    notes = tt.runtime.load(tmp_path / "out").notes
    assert notes == {"human_speakers": ["jackson"], "seconds": 3, "recipe": {"task": "recall"}}
    tt_only = export_onnx(tt.TokenTuringMachine(16, 4, 2, 1, 2), tmp_path / "bare")
    with pytest.raises(OptionError, match="expected one of the recall task"):
        evaluate({"bare": tt.runtime.load(tt_only)}, tiny_bank(), (0.5,), rows=2)
