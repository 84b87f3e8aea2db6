"""The page on training at scale does what it says: its commands on the CPU, its programs in two processes that talk."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_docs import ROOT, blocks

import tokenturing as tt
from tokenturing.cli.main import main

PAGE = ROOT / "docs" / "scale.md"
FEW = ["--set", "train.updates=2", "train.rows=4", "train.steps=3"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WITH_FLAG = "DistributedDataParallel(model, find_unused_parameters=True)"
DRIVER = """
import os, pathlib
import torch.distributed as dist
dist.init_process_group("gloo")
dist.init_process_group = dist.destroy_process_group = lambda *_: None  # one group for all programs
for path in sorted(pathlib.Path("programs").iterdir()):
    text, folder = path.read_text(), pathlib.Path(path.stem)
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    try:
        exec(compile(text, path.name, "exec"), {"__name__": "__main__"})
    except RuntimeError as error:
        pathlib.Path(f"error{dist.get_rank()}").write_text(str(error))
    os.chdir("..")
    dist.barrier()
"""


def programs() -> dict[str, str]:
    """The programs of the page that begin with their name."""
    return {block.split()[1].strip(":"): block for block in blocks(PAGE, "python") if block.startswith("# ")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs, and ways of writing them that the page speaks of, after two processes ran each."""
    folder = tmp_path_factory.mktemp("scale")
    ddp, fsdp = programs()["ddp.py"], programs()["fsdp.py"]
    plain = ddp.replace(WITH_FLAG, "DistributedDataParallel(model)")
    assert plain != ddp
    no_resets = "reset=torch.zeros(chunk.shape[:2], dtype=torch.bool)"
    ways = {
        "1_as_printed": ddp,
        "2_single_steps": ddp.replace("split(4, dim=1)", "split(1, dim=1)"),
        "3_with_resets": plain.replace("shared(chunk, state)", f"shared(chunk, state, {no_resets})"),
        "4_fsdp": fsdp,
        "5_control": plain,
    }
    (folder / "programs").mkdir()
    for name, text in ways.items():
        (folder / "programs" / f"{name}.py").write_text(text)
    (folder / "driver.py").write_text(DRIVER)
    ran = subprocess.run([*TORCHRUN, "driver.py"], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return folder


def alone(steps: int) -> tt.TokenTuringMachine:
    """What the programs train, in one process on the whole batch."""
    torch.manual_seed(0)
    model = tt.TokenTuringMachine(width=16, memory_tokens=4, read_tokens=2, layers=1, heads=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stream = torch.randn(4, 12, 3, 16, generator=torch.Generator().manual_seed(1))
    state: Any = None
    for chunk in stream.split(steps, dim=1):
        y, state = model(chunk, state)
        y.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        state = tt.state.detach(state)
    return model


def off(came: dict[str, torch.Tensor], steps: int = 4) -> float:
    """The largest difference to the weights that one process trains."""
    wanted = alone(steps).state_dict()
    assert came.keys() == wanted.keys()
    return max(float((came[name] - wanted[name]).abs().max()) for name in wanted)


@pytest.mark.parametrize(("way", "steps"), [("1_as_printed", 4), ("2_single_steps", 1), ("3_with_resets", 4)])
def test_two_processes_train_what_one_does(done: Path, way: str, steps: int) -> None:
    assert off(tt.load(done / way / "trained").state_dict(), steps) < 1e-5
    assert off(tt.load(done / way / "trained").state_dict(), 6) > 1e-4, "the control: other chunks"


def test_split_weights_too(done: Path) -> None:
    assert off(load_file(done / "4_fsdp" / "whole.safetensors")) < 1e-5


def test_without_the_flag_it_stops_as_the_page_says(done: Path) -> None:
    for rank in (0, 1):
        assert "find_unused_parameters" in (done / "5_control" / f"error{rank}").read_text()
    assert not (done / "5_control" / "trained").exists()


def test_accumulated_gradients_and_mixed_precision() -> None:
    accumulate, half = [block for block in blocks(PAGE, "python") if not block.startswith("# ")]
    for parts in (1, 2, 4):
        names: dict[str, Any] = {}
        exec(accumulate.replace("parts = 2", f"parts = {parts}"), names)
        assert off(names["model"].state_dict()) < 1e-5
    exec(half, names)
    assert names["y"].dtype == torch.bfloat16


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As they stand, but for fewer updates; the one for a GPU on the CPU. `test_cli` trains with a compiled step."""
    *lines, several = "\n".join(blocks(PAGE, "sh")).splitlines()
    for number, line in enumerate(lines):
        _, *words = shlex.split(line.replace("cuda", "cpu").replace("recipes/", f"{ROOT}/recipes/"))
        if "train.compile=true" not in words:
            main([*words, *FEW, "--out", str(tmp_path / str(number))])
    assert capsys.readouterr().out.count("next: tokenturing evaluate") == 4
    _, *words = shlex.split(several.replace("recipes/", f"{ROOT}/recipes/"))
    command = [*TORCHRUN[:3], *words, *FEW, "--out", str(tmp_path / "several")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    parts = next(str(number) for number, line in enumerate(lines) if "train.accumulate" in line)
    runs = [tmp_path / run / "metrics.jsonl" for run in ("0", parts, "several")]
    whole, *others = (json.loads(run.read_text().splitlines()[-1])["loss"] for run in runs)
    assert others == pytest.approx([whole, whole], rel=1e-5)
