"""Training on two processes is training on one: the same weights, and checkpoints that either can go on from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recall_files import tiny_recipe
from safetensors.torch import load_file

from tokenturing.errors import OptionError
from tokenturing.train.distributed import Workers

UPDATES = 6
HALF = """
import sys
from tokenturing.train import loop
advance = loop.Training.advance
def stop(run):
    if run.update == 4:
        raise SystemExit(0)
    return advance(run)
loop.Training.advance = stop
from tokenturing.cli.main import main
main(sys.argv[1:])
"""
WITHOUT_EFFECT = "read.mlp.2.bias"
"""a softmax takes no notice of it, so its gradient is rounding error, which AdamW makes as large as any other"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny_recipe(tmp_path_factory.mktemp("parallel"))
    text = path.read_text().replace("rows = 2", "rows = 4")
    text = text.replace("hidden = 16", "hidden = 16, look_back = 2, write_cost = 0.01")
    path.write_text(text.replace("updates = 30", f"updates = {UPDATES}\nwarmup = 1"))
    return path


def run(recipe: Path, out: Path, processes: int, *settings: str) -> dict[str, torch.Tensor]:
    """Train with torchrun -> what the checkpoint holds."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    command += ["-m", "tokenturing", "train", str(recipe), "--out", str(out)]
    done = subprocess.run([*command, *(["--set", *settings] if settings else [])], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("next: tokenturing evaluate") == 1, "one process speaks"
    return load_file(out / "training.safetensors")


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], kind: str) -> float:
    """The largest difference of the tensors of a kind, as a share of each one's largest value."""
    assert a.keys() == b.keys()
    names = [n for n in a if n.startswith(kind) and a[n].is_floating_point() and not n.endswith(WITHOUT_EFFECT)]
    assert names
    return max(float((a[name] - b[name]).abs().max() / b[name].abs().max().clamp(min=1e-6)) for name in names)


def test_two_processes_train_as_one(recipe: Path, tmp_path: Path):
    one, two = run(recipe, tmp_path / "one", 1), run(recipe, tmp_path / "two", 2)
    assert apart(two, one, "model.") < 1e-3
    assert apart(two, one, "carried.") < 1e-3, "the states of all rows, in their order"
    losses = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])["loss"] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    # the control: other rows give another model by far
    other = run(recipe, tmp_path / "other", 1, "train.seed=0", "data.longest=50")
    assert apart(other, one, "model.") > 0.05


def test_a_run_goes_on_with_another_number_of_processes_and_parts(recipe: Path, tmp_path: Path):
    whole = run(recipe, tmp_path / "whole", 1)
    run_half = tmp_path / "half"
    program = recipe.parent / "half.py"
    program.write_text(HALF)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*command, str(program), "train", str(recipe), "--out", str(run_half), "--set", "train.accumulate=2"],
        capture_output=True,
        timeout=300,
    )
    assert load_file(run_half / "training.safetensors")["carried.age"].shape[0] == 4
    resumed = run(recipe, run_half, 1)
    assert apart(resumed, whole, "model.") < 1e-3


def test_rows_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(OptionError, match=r"rows=4 .* 3 processes"):
        Workers(4)
