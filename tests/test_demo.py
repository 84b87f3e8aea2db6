"""The demo, shortened: it learns, watches a minute, leaves a page; and the trace is what the machine does."""

import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import tokenturing as tt
from tokenturing.baselines import LSTM, FullTransformer
from tokenturing.demo import contest, figures, run
from tokenturing.demo.learning import Learned, has_learned, learn
from tokenturing.demo.live_curve import chart
from tokenturing.demo.report import _ratio
from tokenturing.demo.terminal import Screen, half_blocks, show
from tokenturing.errors import OptionError
from tokenturing.evaluate.growth import growth
from tokenturing.evaluate.trace import BACKGROUND, EMPTY, Event, StepTrace, holdings, trace_step
from tokenturing.media.clock import STEP_SAMPLES, STEP_SECONDS
from tokenturing.media.steps import MediaStep
from tokenturing.models.eager import eager
from tokenturing.models.scan import prepare_one
from tokenturing.tasks.last_digits.task import LastDigits
from tokenturing.tasks.recall.minute import Minute, make_minute
from tokenturing.tasks.recall.model import RecallModel
from tokenturing.tasks.recall.session import RecallSession
from tokenturing.tasks.recall.watching import Asked, Moment, answers, watch
from tokenturing.tasks.recall.world.questions import ANSWERS, QUESTIONS

STEPS = 120
OPTIONS = {"width": 16, "memory_tokens": 6, "read_tokens": 2, "layers": 1, "heads": 2, "hidden": 16}


@pytest.fixture(scope="module")
def minute() -> Minute:
    return make_minute(steps=STEPS)


@pytest.fixture(scope="module", autouse=True)
def noticing() -> Iterator[None]:
    """Sessions leave all questions to the model, though eyes and ears that are untrained never notice anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenturing.tasks.recall.session.SURE", {"sees": 0.0, "hears": 0.0})
        yield


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


# --- the page


def recall(memory: str, options: dict[str, object], seed: int) -> RecallModel:
    torch.manual_seed(seed)
    return RecallModel(memory, options, len(QUESTIONS), len(ANSWERS), 0, perception=16).eval()


def rival(answer: str | None = None, seed: int = 1) -> RecallModel:
    """An LSTM, of random answers or of always the same."""
    lstm = recall("LSTM", {"width": 16}, seed)
    if answer is not None:
        lstm.answer.out.bias.data[ANSWERS.index(answer)] = 1e4
    return lstm


@dataclass
class Demo:
    """One run of the whole."""

    path: Path
    shown: str
    machine: RecallModel
    rival: RecallModel


@pytest.fixture(scope="module")
def demo(minute: Minute, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    row = {"accuracy": 0.9, "low": 0.8, "high": 0.95, "count": 64}
    rows = [{"kind": kind, "delay": delay, **row} for kind in ("seen-1", "ago") for delay in (0.5, 60.0)]
    machine, lstm = recall("TokenTuringMachine", OPTIONS, 0), rival("nothing yet")
    tt.save(machine, folder / "model", notes={"figures": rows, "seconds": 60})
    tt.save(lstm, folder / "lstm")
    console = Console(file=io.StringIO(), width=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "make_minute", lambda: minute)
        patch.setattr(run, "FAST_SECONDS", 1.0)
        patch.setattr(run, "RIVAL", str(folder / "lstm"))
        patch.setattr(figures, "shipped", list)
        path = run.run(folder / "out", str(folder / "model"), True, console)
    return Demo(path, console.file.getvalue(), machine, lstm)  # type: ignore[attr-defined]


def test_the_whole_demo_leaves_one_page(demo: Demo) -> None:
    text = demo.path.read_text()
    assert "full Transformer" in text, "what grows is shown beside what does not"
    assert "http" not in text
    assert 'src="' not in text
    assert "@import" not in text
    assert text.count("<svg") == 2 * 5, "each for a broad and for a narrow window"
    assert text.count('-narrow"') == 5
    assert all(use.startswith("#") for use in (part.split(")")[0] for part in text.split("url(")[1:]))
    assert sorted(path.name for path in demo.path.parent.iterdir()) == ["minute.mp4", "report.html"]
    assert str(demo.path) in demo.shown.replace("\n", "")


def lived(model: RecallModel, minute: Minute) -> list[Asked]:
    """What a model answers, alone, step by step in a session of its own."""
    session, asked = RecallSession(eager(model), hears=True), []
    for step, frame in enumerate(minute.frames):
        samples = minute.waveform[step * STEP_SAMPLES : (step + 1) * STEP_SAMPLES]
        session.take(MediaStep(step * STEP_SECONDS, frame, samples))
        for when, question, truth in minute.questions:
            if when == step:
                (answer,) = session.ask(QUESTIONS[question])
                asked.append(Asked(step, answer.question, answer.answer, ANSWERS[truth], answer.confidence))
    return asked


def same(left: list[Asked], right: list[Asked]) -> bool:
    close = np.allclose([one.confidence for one in left], [one.confidence for one in right], atol=1e-4)
    return close and [replace(one, confidence=0) for one in left] == [replace(one, confidence=0) for one in right]


def test_another_model_lives_through_the_same_minute(model: RecallModel, minute: Minute) -> None:
    moments, lstm = list(watch(model, minute)), rival()
    alone = lived(lstm, minute)
    assert len(alone) == len(minute.questions)
    assert same(answers(lstm, moments), alone)
    assert same(answers(model, moments), [one for moment in moments for one in moment.asked])
    assert not same(answers(rival(seed=2), moments), alone), "control: another LSTM"
    dark = [replace(moment, inputs={**moment.inputs, "has_frame": np.array([False])}) for moment in moments]
    assert not same(answers(lstm, dark), alone), "control: the same one with its eyes shut"
    assert answers(lstm, [replace(moment, asked=[]) for moment in moments]) == []


BAR = re.compile(r'<div class="bar"><span>(.+?)</span>.*?<b>(\d+) of (\d+) ')


def test_the_page_says_what_each_got_right_in_this_run(demo: Demo, minute: Minute) -> None:
    machine, lstm = lived(demo.machine, minute), lived(demo.rival, minute)
    expected = {
        "Token Turing Machine": contest.score(machine),
        "LSTM": contest.score(lstm),
        contest.GUESS: contest.guess(machine),
    }
    bars = {name: (int(right), int(count)) for name, right, count in BAR.findall(demo.path.read_text())}
    assert bars == {name: (round(score.right), score.asked) for name, score in expected.items()}
    (line,) = (line for line in demo.shown.splitlines() if line.startswith("Right: "))
    assert line == contest.summary(machine, {"LSTM": lstm})
    other = lived(rival("5"), minute)
    assert bars["LSTM"][0] > 0
    assert bars["LSTM"][0] != contest.score(other).right, "control: an LSTM that says something else"
    assert line != contest.summary(machine, {"LSTM": other})


def test_a_guess_knows_what_can_be_answered() -> None:
    asked = [Asked(1, "seen 1 last", "3", "3", 1.0), Asked(2, "how long ago seen", "1 to 4 s", "over 64 s", 1.0)]
    assert contest.guess(asked).right == pytest.approx(1 / 11 + 1 / 6)
    assert contest.score(asked) == (1, 2)
    assert {title: len(ones) for title, ones in contest.by_group(asked).items()} == {"seen": 1, "how long ago": 1}


def test_no_rival_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "RIVAL", "no-such-model")
    assert run._others([]) == {}
    assert "LSTM" not in contest.summary([], {})


def test_what_puzzles_is_explained(demo: Demo) -> None:
    text = demo.path.read_text()
    for caption in ("<b>What each slot holds</b>", "<b>Where it writes</b>", "<b>What it reads</b>", "<b>How long ago</b>"):
        assert text.count(f'<p class="note">{caption}') == 1, caption
    assert "after 0.5 s “under 1 s”, after 1 min “16 to 64 s”" in text
    assert "1 min (border at 64 s)" in text
    assert "0.5 s (border" not in text, "control: far from any"


def test_the_cost_is_said_in_words(demo: Demo) -> None:
    compared = figures.compare(demo.machine, "model", (1.0, 60.0))
    ours, (full,) = compared[0].sizes[-1], (model.sizes[-1] for model in compared if model.name == "full Transformer")
    said = f"the cache of the full Transformer is {full.nbytes / ours.nbytes:,.0f} times the state"
    assert said in demo.path.read_text()
    assert _ratio(compared) != []
    assert _ratio([model for model in compared if not model.grows]) == [], "nothing grows, nothing is said"


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MEASURE = """<!doctype html><body><iframe width="{width}" height="800" style="border: 0"></iframe><script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const page = frame.contentDocument, shown = kind => page.querySelector(kind)?.getBoundingClientRect().width ?? 0;
  page.querySelectorAll("details").forEach(one => one.open = true);
  const inside = [...page.querySelectorAll(".wide")].map(one => one.scrollWidth - one.clientWidth);
  const found = [page.documentElement.scrollWidth, Math.max(0, ...inside), shown(".broad"), shown(".narrow")];
  document.title = found.map(Math.round).join(" ");
}};
frame.srcdoc = {page};
</script>"""


def measured(page: str, width: int, folder: Path) -> tuple[int, ...]:
    """What a browser makes of a page in a window so wide: its width, what its boxes hide, widths of the figures."""
    assert BROWSER is not None
    file = folder / "measure.html"
    file.write_text(MEASURE.format(width=width, page=json.dumps(page).replace("</", "<\\/")))
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1600,900",
        "--virtual-time-budget=5000",
    ]
    command += [f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"<title>(.+?)</title>", shown)
    assert found is not None, shown[:500]
    return tuple(map(int, found[1].split()))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_page_fits_a_phone(demo: Demo, tmp_path: Path) -> None:
    text = demo.path.read_text()
    width, hidden, broad, narrow = measured(text, 390, tmp_path)
    assert (width, hidden, broad) == (390, 0, 0)
    assert 340 < narrow < 390
    width, hidden, broad, narrow = measured(text, 1280, tmp_path)
    assert (width, hidden, narrow) == (1280, 0, 0)
    assert broad > 1000
    wide = text.replace("<h1>", '<div style="width: 600px">x</div><h1>')
    assert measured(wide, 390, tmp_path)[0] > 390, "control: something that does not fit"


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
