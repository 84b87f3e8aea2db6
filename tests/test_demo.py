"""The demo, shortened: it learns, watches a minute, leaves a page; and the trace is what the machine does."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import tokenturing as tt
from tokenturing.baselines import LSTM, FullTransformer
from tokenturing.demo import figures, run
from tokenturing.demo.learning import Learned, has_learned, learn
from tokenturing.demo.live_curve import chart
from tokenturing.demo.terminal import Screen, half_blocks, show
from tokenturing.errors import OptionError
from tokenturing.evaluate.growth import growth
from tokenturing.evaluate.trace import BACKGROUND, EMPTY, Event, StepTrace, holdings, trace_step
from tokenturing.models.scan import prepare_one
from tokenturing.tasks.last_digits.task import LastDigits
from tokenturing.tasks.recall.minute import Minute, make_minute
from tokenturing.tasks.recall.model import RecallModel
from tokenturing.tasks.recall.watching import Asked, Moment, watch
from tokenturing.tasks.recall.world.questions import ANSWERS, QUESTIONS

STEPS = 120
OPTIONS = {"width": 16, "memory_tokens": 6, "read_tokens": 2, "layers": 1, "heads": 2, "hidden": 16}


@pytest.fixture(scope="module")
def minute() -> Minute:
    return make_minute(steps=STEPS)


@pytest.fixture
def model() -> RecallModel:
    return RecallModel("TokenTuringMachine", OPTIONS, len(QUESTIONS), len(ANSWERS), 0, perception=16).eval()


# --- the trace


@pytest.mark.parametrize("write", ["gated", "mlp", "erase_add", "none"])
@pytest.mark.parametrize("read", ["mlp", "query", "pool"])
def test_a_traced_step_is_the_step(read: str, write: str) -> None:
    machine = tt.TokenTuringMachine(16, 6, 3, layers=1, heads=2, read=read, write=write).eval()
    state = machine.initial_state(1)
    mask = torch.tensor([[True, False, True]])
    for _ in range(3):
        x = torch.randn(1, 3, 16)
        with torch.no_grad():
            y, following = machine.step(x, state, token_mask=mask)
        traced, state, trace = trace_step(machine, x, state, mask)
        assert torch.equal(traced, y)
        assert torch.equal(state.memory, following.memory)
        assert trace.gate.shape == (6,)
        assert trace.read.shape == (3, 9)
        np.testing.assert_allclose(trace.read.sum(1), 1, rtol=1e-5)
        assert not trace.read[:, 7].any(), "an absent token is not read"
        assert (trace.gate == 0).all() == (write == "none") or write == "gated"


def test_the_gate_of_the_trace_is_the_gate() -> None:
    machine = tt.TokenTuringMachine(16, 6, 3, layers=1, heads=2, look_back=2, input_tokens=1).eval()
    state, x = machine.initial_state(1), torch.randn(1, 1, 16)
    mask = torch.ones(1, 1, dtype=torch.bool)
    with torch.no_grad():
        prepared, _ = prepare_one(machine, x, mask, state)
        slots = machine.cell.slots(state)
        z = machine.cell.read.combine([machine.cell.read.encode(slots.tokens), prepared.read])
        _, gate = machine.cell.write.propose(slots, prepared.write, machine.cell.processor(z))
    _, _, trace = trace_step(machine, x, state, mask)
    np.testing.assert_allclose(trace.gate, gate[0, :, 0], atol=1e-5)


def test_other_memories_cannot_be_traced() -> None:
    lstm = LSTM(16, input_tokens=1)
    with pytest.raises(OptionError, match="LSTM has no slots"):
        trace_step(lstm, torch.zeros(1, 1, 16), lstm.initial_state(1), torch.ones(1, 1, dtype=torch.bool))


def test_a_slot_holds_the_event_of_its_last_write() -> None:
    events = [Event("seen", 3, 1, 4), Event("heard", 7, 3, 5)]
    gates = np.zeros((8, 3))
    gates[2, 0] = gates[4, 1] = gates[6, 0] = 1.0
    gates[2, 2] = 0.1
    held = holdings(gates, events)
    assert held[:, 0].tolist() == [EMPTY, EMPTY, 0, 0, 0, 0, BACKGROUND, BACKGROUND]
    assert held[:, 1].tolist() == [EMPTY] * 4 + [1] * 4
    assert (held[:, 2] == EMPTY).all()


def test_growth_is_measured() -> None:
    lengths = (10, 200)
    machine = tt.TokenTuringMachine(16, 6, 3, layers=1, heads=2, input_tokens=2)
    fixed = growth(machine, 2, lengths)
    assert fixed[0].nbytes == fixed[1].nbytes == tt.state.nbytes(machine.initial_state(1))
    assert fixed[0].multiply_adds == fixed[1].multiply_adds
    full = FullTransformer(16, layers=1, heads=2, input_tokens=2)
    grown = growth(full, 2, lengths)
    assert [size.steps for size in grown] == list(lengths)
    assert grown[1].nbytes > 10 * grown[0].nbytes
    assert grown[1].multiply_adds > grown[0].multiply_adds


# --- what is shown


def test_streams_tell_the_truth() -> None:
    frames, truth, _ = next(LastDigits().batches("test", range(4), 30, LastDigits().build()))
    assert frames.shape == (4, 30, 8, 8)
    for row in truth:
        for before, after in pairwise(row):
            assert torch.equal(before, after) or torch.equal(before[:-1], after[1:])


def test_it_learns_and_reports() -> None:
    points: list[float] = []
    learned = learn(1.5, lambda point, _: points.append(point.seconds))
    assert points == learned.seconds
    assert learned.seconds[-1] >= 1.5
    assert all(0 <= share <= 1 for shares in learned.shares for share in shares)
    assert "●" in chart(learned, 1.5).plain


def test_a_minute_repeats_itself(minute: Minute) -> None:
    again = make_minute(steps=STEPS)
    assert np.array_equal(again.frames, minute.frames)
    assert np.array_equal(again.waveform, minute.waveform)
    assert again.questions == minute.questions
    assert {event.kind for event in minute.events} == {"seen", "heard"}


def test_a_picture_in_half_blocks() -> None:
    picture = half_blocks(np.random.default_rng(0).random((32, 32)))
    assert [len(line) for line in picture.plain.split("\n")] == [32] * 16


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(("width", "height"), [(60, 20), (80, 24), (140, 40)])
def test_the_minute_is_shown(model: RecallModel, minute: Minute, terminal: bool, width: int, height: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, height=height)
    moments = show(minute, watch(model, minute), 6, 1e6, console)
    assert len(moments) == STEPS
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "right" in shown
    assert "seen" in shown
    assert ("what it sees" in shown) == (terminal and width >= 80)
    assert ("too small for pictures" in shown) == (terminal and width < 80)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 30), (160, 24)])
def test_all_fits_the_terminal(model: RecallModel, minute: Minute, width: int, height: int) -> None:
    slots = 20
    screen = Screen(minute, slots, width, height)
    trace = StepTrace(np.ones(slots), np.ones((2, slots)), np.full(slots, 1e6))
    for number in range(30):
        asked = Asked(number, "heard before 7 was seen", "16 to 64 s", "over 64 s", 0.5)
        screen.take(Moment(number, (3, 1.0), (4, 1.0), trace, [asked]))
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)
    console.print(screen.render())
    lines = console.file.getvalue().rstrip("\n").split("\n")  # type: ignore[attr-defined]
    assert len(lines) < height, "a line is left for the cursor"
    assert max(map(len, lines)) <= width
    assert sum("questions" in line for line in lines) == 1
    assert sum("███" in line for line in lines) >= 16, "no slot is wrapped"


def test_the_whole_demo_leaves_one_page(
    model: RecallModel, minute: Minute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"accuracy": 0.9, "low": 0.8, "high": 0.95, "count": 64}
    rows = [{"kind": kind, "delay": delay, **row} for kind in ("seen-1", "ago") for delay in (0.5, 60.0)]
    tt.save(model, tmp_path / "model", notes={"figures": rows, "seconds": 60})
    monkeypatch.setattr(run, "make_minute", lambda: minute)
    monkeypatch.setattr(run, "FAST_SECONDS", 1.0)
    monkeypatch.setattr(figures, "shipped", list)
    console = Console(file=io.StringIO(), width=100)
    report = run.run(tmp_path / "out", str(tmp_path / "model"), True, console)
    text = report.read_text()
    assert "full Transformer" in text, "what grows is shown beside what does not"
    assert "http" not in text
    assert 'src="' not in text
    assert "@import" not in text
    assert text.count("<svg") == 5
    assert all(use.startswith("#") for use in (part.split(")")[0] for part in text.split("url(")[1:]))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["minute.mp4", "report.html"]
    assert str(report) in console.file.getvalue().replace("\n", "")  # type: ignore[attr-defined]


def test_a_demo_of_a_model_without_slots_is_refused(tmp_path: Path) -> None:
    model = RecallModel("LSTM", {"width": 16}, len(QUESTIONS), len(ANSWERS), 0, perception=16)
    tt.save(model, tmp_path / "lstm")
    with pytest.raises(OptionError, match="no slots"):
        run.run(tmp_path, str(tmp_path / "lstm"), True, Console(file=io.StringIO()))


def test_it_stops_when_it_has_learned() -> None:
    learned = Learned(3, shares=[[0.5] * 4, [0.99] * 4, [0.99] * 4])
    assert not has_learned(learned)
    learned.shares.append([0.98, 0.99, 0.97, 0.99])
    assert has_learned(learned)
    learned.shares.append([0.99, 0.99, 0.9, 0.99])
    assert not has_learned(learned), "one of the digits is not known yet"


def test_learned_is_plain() -> None:
    assert Learned(3).seconds == []
