"""The benchmark: who is measured is equal where it should be, takes turns, and comes out in tables and figures."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tokenturing.cli.main as cli
from tokenturing import baselines
from tokenturing.bench import report
from tokenturing.bench.contestants import (
    SIZES,
    Contestant,
    Size,
    contestants,
    inputs,
    matched,
    numbers,
    state_bytes,
)
from tokenturing.bench.measure import Timing, by_position, take_turns, training
from tokenturing.bench.peers import PEERS
from tokenturing.bench.plain import plain
from tokenturing.errors import OptionError

TINY = Size(width=16, memory_tokens=4, read_tokens=2, layers=1, heads=2, input_tokens=3)
GOAL = numbers(TINY.machine())


def test_the_plain_loop_is_the_machine() -> None:
    model, x = TINY.machine().double(), inputs(TINY, 2, 7).double()
    y, state = model(x)
    plainly, plain_state = plain(model, x)
    torch.testing.assert_close(plainly, y)
    torch.testing.assert_close(plain_state.memory, state.memory)
    torch.testing.assert_close(plain_state.age, state.age)
    with torch.no_grad():
        model.cell.processor.norm.weight[0] += 0.1
    assert not torch.allclose(plain(model, x)[0], y), "another model gives the same"


@pytest.mark.parametrize("size", ["small", "paper"])
@pytest.mark.parametrize("name", baselines.__all__)
def test_baselines_have_as_many_parameters(name: str, size: str) -> None:
    with torch.device("meta"):
        goal = numbers(SIZES[size].machine())
    assert abs(numbers(matched(name, SIZES[size], goal)) / goal - 1) < 0.1


def test_all_step_train_and_say_what_grows(tmp_path: Path) -> None:
    names = ["plain loop", "eager", "eager bfloat16", "runtime float32", *baselines.__all__]
    found, skipped = contestants(TINY, tmp_path, 1, only=names)
    assert [one.name for one in found] == names
    assert not skipped
    x = inputs(TINY, 2, 4)
    for one in found:
        state, sizes = one.start(2), []
        with torch.no_grad():
            for step in range(4):
                y, state = one.step(x[:, step], state)
                sizes.append(state_bytes(state))
        assert torch.as_tensor(y).isfinite().all()
        assert (sizes[-1] > sizes[1]) == one.grows, f"{one.name}: {sizes}"
        if one.train is not None:
            one.train(x)
    assert {one.name for one in found if one.grows} == {"FullTransformer", "Retrieval"}


def peer(name: str) -> Contestant:
    package = {"titans neural memory": "titans_pytorch", "mamba": "transformers"}.get(name, name.replace("-", "_"))
    pytest.importorskip(package + "_pytorch" * name.endswith("-transformer"))
    return PEERS[name](SIZES["small"], numbers(SIZES["small"].machine()), "cpu")


@torch.no_grad()
def streamed(one: Contestant, x: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """All outputs [B, T * N, ...], step by step, and the state's bytes after each."""
    state, outputs, sizes = one.start(len(x)), [], []
    for step in range(x.shape[1]):
        y, state = one.step(x[:, step], state)
        outputs.append(y)
        sizes.append(state_bytes(state))
    return torch.cat(outputs, 1), sizes


@pytest.mark.parametrize("name", PEERS)
def test_peers(name: str) -> None:
    one = peer(name)
    assert abs(one.parameters / numbers(SIZES["small"].machine()) - 1) < 0.05
    x = inputs(SIZES["small"], 2, 6)
    y, sizes = streamed(one, x)
    assert y.shape[:2] == (2, 6 * x.shape[2]), "a step has an output for each of its tokens"
    assert (sizes[-1] > sizes[2]) == one.grows
    assert one.train is not None
    one.train(x)


@pytest.mark.parametrize("name", PEERS)
def test_peers_remember(name: str) -> None:
    """The last step's outputs depend on the first step's inputs, five steps before."""
    one = peer(name)
    x = inputs(SIZES["small"], 2, 6)
    other = x.clone()
    other[:, 0] = -other[:, 0]
    last, changed = (streamed(one, tokens)[0][:, -x.shape[2] :] for tokens in (x, other))
    assert (last - changed).abs().max() > 1e-5
    torch.testing.assert_close(last, streamed(one, x)[0][:, -x.shape[2] :])


@pytest.mark.parametrize("name", [name for name in PEERS if name != "recurrent-memory-transformer"])
def test_peers_step_as_they_train(name: str) -> None:
    """Step by step they say what they say of all steps at once: nothing is lost between steps."""
    one = peer(name)
    x = inputs(SIZES["small"], 2, 24)
    assert one.whole is not None
    with torch.no_grad():
        torch.testing.assert_close(streamed(one, x)[0], one.whole(x), rtol=1e-4, atol=1e-4)


def test_a_missing_peer_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "xlstm", None)
    found, skipped = contestants(TINY, tmp_path, 1, only=["eager", "xlstm"])
    assert [one.name for one in found] == ["eager"]
    assert "tokenturing[peers]" in skipped["xlstm"]


def test_they_take_turns() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    timings = take_turns(calls, 4, warm_up=1)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert all(timing.rounds == 4 and timing.low <= timing.median <= timing.high for timing in timings.values())
    assert Timing.of([2.0]) == Timing(2.0, 2.0, 2.0, 1)


def broken(x: torch.Tensor) -> None:
    raise RuntimeError("no gradient here")


def test_who_cannot_be_trained_stops_nobody() -> None:
    able = Contestant("able", "machine", 1, lambda rows: (), lambda x, state: (x, state), lambda x: None)
    unable = Contestant("unable", "peer", 1, able.start, able.step, broken)
    rows, failed = training([able, unable], TINY, 2)
    assert [row["name"] for row in rows] == ["able"]
    assert "no gradient here" in failed["unable"]


def test_positions_end_when_the_time_is_up(tmp_path: Path) -> None:
    found, _ = contestants(TINY, tmp_path, 1, only=["eager", "FullTransformer"])
    rows = by_position(found, TINY, [5, 20], 60.0)
    sizes = {(row["name"], row["position"]): row["state_bytes"] for row in rows}
    assert sizes["eager", 5] == sizes["eager", 20]
    assert sizes["FullTransformer", 5] < sizes["FullTransformer", 20]
    rows = by_position(found, TINY, [5, 10**6], 0.02)
    assert [row["reached"] for row in rows if row["name"] == "eager"][-1] is False


def result() -> dict[str, Any]:
    one = {"name": "plain loop", "kind": "machine", "parameters": 1000, "grows": False}
    timing = {"median": 2e-3, "low": 1e-3, "high": 3e-3, "rounds": 3}
    return {
        "command": "tokenturing bench",
        "size": "small",
        "threads": 1,
        "device": "cpu",
        "multiply_adds": 10**6,
        "machine": {"processor": "one", "cores": 2, "flags": [], "versions": {"torch": "2"}},
        "limits": {"float32_gflops": 10.0, "bfloat16_gflops": 20.0, "copy_gbytes": 1.0},
        "contestants": [one, {**one, "name": "eager"}],
        "skipped": {"xlstm": "not there"},
        "step": [
            {"name": "plain loop", "batch": 1, **timing},
            {"name": "eager", "batch": 1, **timing, "median": 1e-3},
        ],
        "training": [{"name": "plain loop", "rows": 8, "steps": 2, "first": 1.0, **timing}],
        "position": [{"name": "eager", "position": p, "reached": True, "state_bytes": 8, **timing} for p in (10, 100)],
        "memory": [
            {"steps": t, "recompute": k, "width": 8, "seconds": 1.0, "peak_mib": 9.0, "grown_mib": t / 9}
            for t in (10, 20)
            for k in (0, 16, 3)
        ],
    }


def test_tables_and_figures(tmp_path: Path) -> None:
    page = report.markdown(result())
    # 10^6 multiply-adds at 10^10 operations a second are 0.2 ms of the 1 ms
    assert "| eager | 0.00 M | 1 (1-3) | 0.50 | 20% (arithmetic) |" in page
    assert "xlstm: not there" in page
    assert "out of time" not in page
    made = report.figures(result(), tmp_path)
    assert [path.name for path in made] == ["bench-step.png", "bench-position.png", "bench-memory.png"]
    assert all(path.stat().st_size > 5000 for path in made)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenturing.bench import memory

    monkeypatch.setattr(memory, "LENGTHS", (20,))
    monkeypatch.setattr(memory.recompute_memory, "__defaults__", ((20,), 16, 1, None))
    few = [
        "--models",
        "plain loop,eager",
        "--batches",
        "1",
        "--rounds",
        "2",
        "--steps",
        "30",
        "--seconds",
        "5",
    ]
    cli.main(["bench", *few, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "bench.json").read_text())
    assert {row["name"] for row in found["step"]} == {"plain loop", "eager"}
    assert [row["recompute"] for row in found["memory"]] == [0, 16, 4]
    assert found["machine"]["versions"]["torch"] == torch.__version__
    assert "A step of 1 row" in (tmp_path / "bench.md").read_text()
    assert "A step of 1 row" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["bench", "--models", "eagre"])
    assert "did you mean 'eager'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["bench", "speed"])
    assert "expected one of 'step'" in capsys.readouterr().err


def test_a_wrong_name_lists_them(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="models"):
        contestants(TINY, tmp_path, 1, only=["nobody"])
