"""The benchmark of the server: the search finds the edge, late is counted from when a step was due, and the command works."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import fails
from serving import small_machine

import tokenturing.cli.main as cli
from tokenturing.bench.serve import BATCHED, PLAIN, SINGLE, Search, held
from tokenturing.bench.serve_load import PERIOD, Load, Order, Player, Said, framed
from tokenturing.bench.serve_report import draw, in_short, markdown


def row(sessions: int, p99: float, name: str = BATCHED, **odd: Any) -> dict[str, Any]:
    """As a load reports it."""
    timing = {"median": p99 / 3, "p99": p99, "in_time": 0.99, "rate": 12.5 * sessions, "server_cpu": 0.5}
    return {"name": name, "sessions": sessions, "steps": 100, "errors": {}, "unanswered": 0, **timing, **odd}


@pytest.mark.parametrize("edge", [0, 3, 25, 99, 100, 700, 5000])
def test_the_search_finds_the_edge(edge: int) -> None:
    search = Search([25, 100, 800])
    while (number := search.next()) is not None:
        search.note(row(number, 0.01 if number <= edge else 0.1))
    assert search.low <= edge <= max(1.1 * search.low, search.low + 1)
    assert len(search.rows) < 40


def test_one_bad_try_is_no_verdict() -> None:
    search = Search([10, 20])
    for p99 in (0.1, 0.01, 0.01, 0.1, 0.1):
        search.note(row(search.next() or 0, p99))
    assert (search.low, search.high) == (20, 40)


def test_what_is_refused_or_lost_is_not_held() -> None:
    assert held(row(10, 0.05))
    assert not held(row(10, 0.081))
    assert not held(row(10, 0.05, errors={"too_fast": 1}))
    assert not held(row(10, 0.05, unanswered=1))


def test_lateness_counts_from_when_a_step_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(Order("", 1, 1.0))
    player = Player(None, 0.01, [{}])  # type: ignore[arg-type]
    load.players, load._by_name, load._first, load._begin = [player], {player.name: player}, 0, 100.0
    player.due = player.sent = 3
    monkeypatch.setattr("time.perf_counter", lambda: 100.5)
    load.heard(Said("stepped", player.name, 2))
    assert load.latencies == pytest.approx([0.5 - 0.01 - PERIOD])
    assert load._missing(3) == pytest.approx([0.5 - 0.01 - 2 * PERIOD])


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_frames_are_websocket_frames(size: int) -> None:
    from websockets.frames import Frame, Opcode

    content = bytes(size)
    assert len(framed(content)) == len(Frame(Opcode.BINARY, content).serialize(mask=True))


def test_tables_and_figure(tmp_path: Path) -> None:
    found = {BATCHED: 100, SINGLE: 40, PLAIN: 20}
    rows = [row(number, p99, name) for name in found for number, p99 in ((20, 0.1), (20, 0.02), (100, 0.07))]
    soaked = row(70, 0.03) | {"minutes": 2, "memory": [{"minute": 0.0, "mib": 200.0}, {"minute": 2.0, "mib": 201.0}]}
    machine = {"processor": "one", "cores": 2, "versions": {"torch": "2"}}
    result = {"command": "tokenturing bench serve", "machine": machine, "rows": rows, "held": found, "soak": soaked}
    page = markdown(result)
    assert "| batches | 20 | 6.67 | 20 | 99.0% | 250 | 0.50 |" in page, "the better of two tries"
    assert "2.50 times the better" in page
    assert "memory 200 MiB at first and 201 MiB at last" in in_short(result)[-1]
    assert draw(result, tmp_path / "figure.png").stat().st_size > 5000


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small_machine(tmp_path / "machine")
    few = ["--kind", "inputs", "--sessions", "2", "--seconds", "0.4", "--against", "", "--json", str(tmp_path / "found.json")]
    from tokenturing.bench import serve

    search = serve.Search.next
    serve.Search.next = lambda self: None if self.rows else search(self)  # type: ignore[method-assign]
    try:
        cli.main(["bench", "serve", str(folder), *few, "--soak", "0.01", "--figure", str(tmp_path / "found.png")])
    finally:
        serve.Search.next = search  # type: ignore[method-assign]
    found = json.loads((tmp_path / "found.json").read_text())
    assert {one["name"] for one in found["rows"]} == {BATCHED, SINGLE}
    assert all(one["steps"] == 2 * 5 and not one["errors"] for one in found["rows"])
    assert found["soak"]["memory"][0]["mib"] > 0
    assert "sessions at 12.5 steps a second" in capsys.readouterr().out
    assert (tmp_path / "found.png").exists()


def test_wrong_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--sound: expected 0 to 1" in fails(capsys, "bench", "serve", "--sound", "2")
    assert "--sessions 'x'" in fails(capsys, "bench", "serve", "--sessions", "x")
