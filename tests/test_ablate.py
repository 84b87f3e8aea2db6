"""Ablations: planned from a recipe's table, run once, gone on with after a kill, and laid out with what is noise."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import fails
from safetensors.torch import load_file

from tokenturing.cli import main as cli
from tokenturing.errors import OptionError
from tokenturing.evaluate.figures import Figure
from tokenturing.tasks.last_digits.task import LastDigits
from tokenturing.train.ablation.jobs import Outcome, run_all
from tokenturing.train.ablation.plan import Plan, load_plan
from tokenturing.train.ablation.table import markdown, result, value_of
from tokenturing.train.recipe import load_recipe

BASE = """
task = "last_digits"
options = {width = 8, memory_tokens = 4, read_tokens = 2, layers = 1, heads = 2, hidden = 16, write = "gated"}
[train]
updates = 2
rows = 2
steps = 6
save_every = 1
"""
TABLE = """
[ablate]
evaluate = {rows = 4}
paper = "mAP on Charades"
base = {paper = 26.34, paper_cost = 0.842}
[[ablate.axis]]
name = "write"
key = "options.write"
rows = ["gated", {value = "concat", paper = 20.97}]
"""


class Crashing(LastDigits):
    """A task whose process is gone of a sudden."""

    def build(self) -> Any:
        os._exit(9)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(BASE + TABLE)
    return path


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all else here."""
    monkeypatch.setattr("tokenturing.cli.ablate.draw", lambda *_: None)


def found_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "ablation.json").read_text())


# --- plans


def test_rows_change_one_thing_over_settings_and_seeds(recipe: Path) -> None:
    plan = load_plan(recipe, ["train.rows=3"], over=["train.steps=4", "train.steps=5"], seeds=[1, 2])
    assert [row.label for row in plan.rows] == ["as it is", "gated", "concat"]
    base, same, concat = (plan.of(row) for row in plan.rows)
    assert [(cell.recipe.train.steps, cell.seed) for cell in concat] == [(4, 1), (4, 2), (5, 1), (5, 2)]
    assert {cell.recipe.options.options["write"] for cell in concat} == {"concat"}
    assert {cell.recipe.train.rows for cell in plan.cells} == {3}
    assert [cell.place for cell in same] == [cell.place for cell in base], "what changes nothing is not run twice"
    assert len(plan.runs()) == 8
    assert load_recipe(recipe).options == load_recipe(recipe, ["ablate=3"]).options, "to train one needs no [ablate]"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", r"has no table \[ablate\]"),
        ("[ablate]", "has no axis"),
        ("[ablate]\nseed = [0]\n", "did you mean 'seeds'"),
        ("[ablate]\nseeds = [0, 0]\n[[ablate.axis]]\nname = 'a'\nkey = 'train.rate'\nrows = [1.0]", "different whole numbers"),
        ("[[ablate.axis]]\nkey = 'train.rate'\nrows = [1.0]", "name=None"),
        ("[[ablate.axis]]\nname = 'a'\nkey = 'train.rate'\nrows = []", "'a' has no rows"),
        ("[[ablate.axis]]\nname = 'a'\nrows = [1.0]", "the axis no key"),
        ("[[ablate.axis]]\nname = 'a'\nkey = 'train.rat'\nrows = [1.0]", "row '1.0' of the axis 'a': .*did you mean 'rate'"),
        ("[[ablate.axis]]\nname = 'a'\nkey = 'train.rate'\nrows = [-1.0]", "row '-1.0' of the axis 'a': .*above 0"),
        ("[[ablate.axis]]\nname = 'a'\nkey = 'train.rate'\nrows = [1.0, 1.0]", "two rows .* label of its own"),
        ("[[ablate.axis]]\nname = 'a'\nrows = [{set = ['train.rate']}]", "expected key=value"),
        ("[[ablate.axis]]\nname = 'a'\nrows = [{set = ['train.rate=1'], value = 1}]", "both value and set"),
        ("[[ablate.axis]]\nname = 'a'\nrows = [{label = 'x'}]", "neither value and set"),
        ("[[ablate.axis]]\nname = 'a'\nrows = [{value = 1, papr = 2}]", "did you mean 'paper'"),
        ("[[ablate.axis]]\nname = 'a'\nkey = 'train.rate'\nrows = [{value = 1.0, paper = '2'}]", "paper='2': expected a number"),
    ],
)
def test_a_wrong_table_is_said_before_anything_runs(table: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text(BASE + table)
    with pytest.raises(OptionError, match=said):
        load_plan(tmp_path / "wrong.toml")


def test_axes_can_be_chosen(recipe: Path) -> None:
    assert len(load_plan(recipe, axes=["write"]).rows) == 3
    with pytest.raises(OptionError, match="did you mean 'write'"):
        load_plan(recipe, axes=["wirte"])


def test_labels_that_make_the_same_name_have_folders_of_their_own(tmp_path: Path) -> None:
    rows = "[{label = 'a/b', set = ['train.rate=1']}, {label = 'a b', set = ['train.rate=2']}]"
    (tmp_path / "two.toml").write_text(f"{BASE}[[ablate.axis]]\nname = 'a'\nrows = {rows}\n")
    places = [cell.place for cell in load_plan(tmp_path / "two.toml").cells]
    assert len(set(places)) == 3
    assert all(".." not in place and place.count("/") == 1 for place in places)


# --- means


def made_up(plan: Plan, shares: dict[str, list[float]]) -> dict[str, Outcome]:
    """Outcomes with these shares right of the cells of each row."""
    found = {}
    for row in plan.rows:
        for cell, share in zip(plan.of(row), shares.get(row.label, []), strict=False):
            figures = [Figure("last", share, 0, 1, 9).to_json(), Figure("other", share, 0, 1, 9).to_json()]
            kept = {"parameters": 1_234_567, "multiply_adds": 4200, "growing": row.label == "concat", "figures": figures}
            found.setdefault(cell.place, Outcome(kept))
    return found


def test_what_all_runs_share_is_no_noise_of_a_difference(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("[ablate]", '[ablate]\nfigures = ["last"]'))
    plan = load_plan(recipe, seeds=[0, 1, 2])
    shares = {"as it is": [0.2, 0.5, 0.8], "concat": [0.31, 0.6, 0.9]}
    found = result(plan, made_up(plan, shares))
    base, same, concat = found["rows"]
    assert same["base"]
    assert same["difference"] is None
    assert concat["difference"]["low"] > 0
    assert concat["figures"]["last"]["low"] < base["figures"]["last"]["high"], "the control: side by side one would not know"
    page = markdown(found)
    assert "| concat | 1.23 M | 4.2 k, growing | 0.603 ± 0.733 | **+0.103 ± 0.014** | 20.97 |  |" in page
    assert "| as it is | 1.23 M | 4.2 k | 0.500 ± 0.745 |  | 26.34 | 0.842 G |" in page
    shares["concat"] = [0.5, 0.5, 0.5]
    assert "**+" not in markdown(result(plan, made_up(plan, shares)))


def test_folds_are_what_is_independent(recipe: Path) -> None:
    plan = load_plan(recipe, over=["train.steps=4", "train.steps=5"], seeds=[0, 1])
    shares = {"as it is": [0.5, 0.5, 0.5, 0.5], "concat": [0.6, 0.6, 0.7, 0.7]}
    difference = result(plan, made_up(plan, shares))["rows"][2]["difference"]
    assert difference["runs"] == 4
    assert difference["low"] < 0, "two folds that disagree by .1"
    shares["concat"] = [0.6, 0.7, 0.6, 0.7]
    assert result(plan, made_up(plan, shares))["rows"][2]["difference"]["low"] > 0, "the control: two seeds that do, on each fold"


def test_runs_that_are_missing_leave_out_their_pairs(recipe: Path) -> None:
    plan = load_plan(recipe, seeds=[0, 1, 2])
    outcomes = made_up(plan, {"as it is": [0.2, 0.4, 0.6], "concat": [0.5]})
    outcomes[plan.of(plan.rows[2])[1].place] = Outcome(None, "no room")
    concat = result(plan, outcomes)["rows"][2]
    assert concat["difference"] == {"value": pytest.approx(0.3), "low": None, "high": None, "runs": 1}
    assert [run["state"] for run in concat["runs"]] == ["ended", "failed", "to be run"]
    page = markdown(result(plan, outcomes))
    assert "no room" in page
    assert "1 of 6 runs are still to be made" in page


def test_a_figure_that_the_evaluation_lacks_is_said() -> None:
    with pytest.raises(OptionError, match="did you mean 'last'"):
        value_of([Figure("last", 0.5, 0, 1, 9).to_json()], "lost")


# --- runs


def test_it_runs_once_and_says_what_evaluate_says(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    cli.main(["ablate", str(recipe), "--out", str(out)])
    assert "gated (the base)" in capsys.readouterr().out
    found = found_in(out)
    base, _, concat = found["rows"]
    assert concat["multiply_adds"] < base["multiply_adds"]
    assert (base["paper"], concat["paper"]) == (26.34, 20.97)
    assert "| paper, mAP on Charades |" in (out / "ablation.md").read_text()
    run = out / concat["runs"][0]["folder"]
    cli.main(["evaluate", str(run), "--rows", "4", "--json", str(tmp_path / "figures.json")])
    assert json.loads((run / "cell.json").read_text())["figures"] == json.loads((tmp_path / "figures.json").read_text())
    sizes = {}
    for name in ("ablation", "ablation-dark", "ablation-narrow", "ablation-narrow-dark"):
        png = (out / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        sizes[name] = int.from_bytes(png[16:20], "big")
    assert sizes["ablation"] == sizes["ablation-dark"] > 2 * sizes["ablation-narrow"]
    monkeypatch.setattr("tokenturing.cli.ablate.draw", lambda *_: None)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.parent.name.startswith("seed")}
    cli.main(["ablate", str(recipe), "--out", str(out)])
    assert {path: path.stat().st_mtime_ns for path in written} == written, "what has ended is not run again"
    assert found_in(out) == found
    cli.main(["ablate", str(recipe), "--out", str(out), "--set", "train.updates=3"])
    assert json.loads((run / "cell.json").read_text())["recipe"]["train"]["updates"] == 3, (
        "the control: with more to do it goes on"
    )


def without_times(cell: Path) -> dict[str, Any]:
    return {key: value for key, value in json.loads(cell.read_text()).items() if key != "seconds"}


@pytest.mark.usefixtures("no_figures")
def test_killed_in_the_middle_it_comes_to_the_same(recipe: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    few = ["--set", "train.updates=12"]
    cli.main(["ablate", str(recipe), "--out", str(whole), *few])
    command = [sys.executable, "-m", "tokenturing", "ablate", str(recipe), "--out", str(killed), *few]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (killed / "write-concat" / "seed-0" / "training.safetensors").exists():
        assert run.poll() is None
        time.sleep(0.002)
    run.kill()
    run.wait()
    assert not (killed / "write-concat" / "seed-0" / "cell.json").exists(), "it was killed too late to show anything"
    ended = (killed / "base" / "seed-0" / "cell.json").read_bytes()
    middle = load_file(killed / "write-concat" / "seed-0" / "training.safetensors")
    cli.main(["ablate", str(recipe), "--out", str(killed), *few])
    assert (killed / "base" / "seed-0" / "cell.json").read_bytes() == ended
    for place in ("base", "write-concat"):
        assert without_times(killed / place / "seed-0" / "cell.json") == without_times(whole / place / "seed-0" / "cell.json")
    trained = load_file(whole / "write-concat" / "seed-0" / "model" / "model.safetensors")
    assert any(not trained[name].equal(middle[f"model.{name}"]) for name in trained), "the control: it had not ended"


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["ablate", *arguments])
    assert stopped.value.code == 1
    return capsys.readouterr().err


@pytest.mark.usefixtures("no_figures")
def test_a_run_that_fails_is_reported_and_the_rest_goes_on(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    recipe.write_text(recipe.read_text().replace('["gated",', '[{label = "three heads", set = ["options.heads=3"]},'))
    said = fail(capsys, str(recipe), "--out", str(out))
    assert "write-three-heads" in said
    assert "cannot be split into heads=3" in said
    assert "1 of 3 runs failed" in said
    states = {row["label"]: row["runs"][0]["state"] for row in found_in(out)["rows"]}
    assert states == {"as it is": "ended", "three heads": "failed", "concat": "ended"}
    assert "cannot be split" in (out / "ablation.md").read_text()
    recipe.write_text(recipe.read_text().replace("heads=3", "heads=1"))
    cli.main(["ablate", str(recipe), "--out", str(out)])
    assert {row["runs"][0]["state"] for row in found_in(out)["rows"]} == {"ended"}, "the control: once it is mended it runs"


def test_a_process_that_is_gone_takes_no_other_with_it(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text().replace('"gated",', '{label = "crash", set = ["task=test_ablate:Crashing"]},'))
    outcomes = run_all(load_plan(recipe), tmp_path / "out", jobs=2)
    assert "exit code 9" in outcomes["write-crash/seed-0"].error
    ended = {place for place, outcome in outcomes.items() if outcome.found}
    assert ended == {"base/seed-0", "write-concat/seed-0"}


@pytest.mark.usefixtures("no_figures")
def test_a_folder_of_another_recipe_is_not_overwritten(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    cli.main(["ablate", str(recipe), "--out", str(out)])
    table = found_in(out)
    said = fail(capsys, str(recipe), "--out", str(out), "--set", "train.rate=1e-4")
    assert "holds a run of another recipe (train.rate=" in said
    assert found_in(out) == table, "where no run ended, the table is left as it was"


@pytest.mark.usefixtures("no_figures")
def test_what_cannot_be_run_is_one_line(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no recipe" in fails(capsys, "ablate", tmp_path / "none.toml")
    assert "--jobs 0" in fails(capsys, "ablate", recipe, "--jobs", "0")
    assert "cannot be cut" in fails(capsys, "ablate", recipe, "--set", "train.accumulate=1000")
    assert "no such device" in fails(capsys, "ablate", recipe, "--device", "cuda:7")
    wrong = recipe.with_name("figure.toml")
    wrong.write_text(recipe.read_text().replace("[ablate]", '[ablate]\nfigures = ["lost"]'))
    assert "did you mean 'last'" in fails(capsys, "ablate", wrong, "--out", tmp_path / "out")
