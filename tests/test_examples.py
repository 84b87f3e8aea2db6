"""Each example runs as a user would run it, and fits on a page."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tokenturing.checkpoint import shipped

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str, needs: str | None = None, **environment: str) -> str:
    """What an example prints."""
    if needs and needs not in shipped():
        pytest.skip(f"the weights {needs!r} are not in the package yet")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_step_by_hand():
    said = run("01_step_by_hand.py")
    assert "unchanged: True" in said


def test_replace_an_lstm():
    said = run("02_replace_an_lstm.py", "--updates", "15")
    assert "LSTM: " in said
    assert "TokenTuringMachine: " in said


def test_train_recall():
    said = run("03_train_recall.py", "--updates", "3", needs="recall-perception")
    assert said.count("loss") == 2


def test_stream_a_file():
    said = run("04_stream_a_file.py", "--seconds", "10", needs="recall-ttm")
    assert "seen 1 last?" in said
    assert "bytes, however long" in said


def test_serve_on_ray():
    if find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'tokenturing[ray]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "2 replicas served one session; equal: True" in run("05_serve_on_ray.py", "--port", str(port))


def test_t_maze():
    assert "iteration 20: " in run("06_t_maze.py", "--iterations", "20", "--corridor", "3")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_fits_on_a_page(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
