"""`tokenturing stream`: what a model notices and answers about real files, and what people are shown of it.

The eyes and ears are the shipped ones, the memory behind them is untrained: asked, it names digits of which there were none.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from command_line import fails
from hypothesis import given
from hypothesis import strategies as st

import tokenturing as tt
from tokenturing.cli import main as cli
from tokenturing.cli.output import WIDTH, in_one_line
from tokenturing.media.steps import MediaStep, open_media
from tokenturing.media.writer import write_video
from tokenturing.models.eager import eager
from tokenturing.tasks.contract import NOTHING_YET
from tokenturing.tasks.last_digits import model as last_digits
from tokenturing.tasks.last_digits.session import DigitSession
from tokenturing.tasks.recall.minute import make_minute
from tokenturing.tasks.recall.model import RecallModel
from tokenturing.tasks.recall.session import SURE, Noticing, RecallSession
from tokenturing.tasks.recall.world.questions import ANSWERS, FACTS, NOTHING, QUESTIONS

OPTIONS = {"width": 16, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2, "hidden": 16}
ABOUT_SEEN = [question for question in QUESTIONS if question.startswith(("seen", "how long"))]
ABOUT_HEARD = [question for question in QUESTIONS if question.startswith("heard") and question.endswith("last")]
ABOUT_BOTH = [question for question in QUESTIONS if question.startswith("heard before")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    perception = tt.load("recall-perception")
    model = RecallModel("TokenTuringMachine", OPTIONS, len(QUESTIONS), len(ANSWERS), FACTS, perception.config["width"])
    model.perception.load_state_dict(perception.state_dict())
    folder = tmp_path_factory.mktemp("models") / "untrained"
    tt.save(model, folder)
    return folder


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files with and without digits."""
    folder, rng = tmp_path_factory.mktemp("media"), np.random.default_rng(1)
    minute = make_minute(steps=100)
    write_video(folder / "digits.mp4", minute.frames, minute.waveform)
    write_video(folder / "clouds.mp4", clouds(40, rng), 0.1 * rng.standard_normal(40 * 1280))
    soundfile.write(folder / "noise.wav", 0.1 * rng.standard_normal((96_000, 2)), 48_000)
    return folder


def clouds(steps: int, rng: np.random.Generator) -> np.ndarray:
    """A drift over smooth noise, whose amplitudes fall with the square of the frequency: [T, 32, 32]."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    frequency[0, 0] = 1
    picture = np.fft.ifft2(np.fft.fft2(rng.standard_normal((128, 128))) / frequency**2).real
    picture = (picture - picture.min()) / np.ptp(picture)
    return np.stack([picture[t // 2 : t // 2 + 32, t : t + 32] for t in range(steps)])


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def watched(checkpoint: Path, path: Path) -> tuple[RecallSession, list]:
    """A session at the end of a file, and all that it noticed."""
    with open_media(path) as media:
        session = RecallSession(eager(tt.load(checkpoint)), hears=media.has_sound)
        return session, [event for step in media for event in session.take(step)]


@pytest.fixture(scope="module")
def without_digits(checkpoint: Path, media: Path) -> tuple[RecallSession, list]:
    return watched(checkpoint, media / "clouds.mp4")


@pytest.fixture(scope="module")
def with_digits(checkpoint: Path, media: Path) -> tuple[RecallSession, list]:
    return watched(checkpoint, media / "digits.mp4")


def named_by_the_model(session: RecallSession) -> list[str]:
    """Its own answers to all questions."""
    logits = session.model.ask(session.y, np.arange(len(QUESTIONS))[None])[0]
    return [ANSWERS[index] for index in logits.argmax(-1)]


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[list[str], list[str]]:
    """What the command prints, before and after "at the end"."""
    cli.main(["stream", *map(str, arguments)])
    before, after = capsys.readouterr().out.split("\nat the end, ")
    return before.splitlines(), after.splitlines()[1:]


# --- what is answered


def test_a_film_without_digits_is_answered_nothing_yet(without_digits: tuple[RecallSession, list]) -> None:
    session, events = without_digits
    assert not events
    answers = session.ask(*QUESTIONS)
    assert [answer.question for answer in answers] == QUESTIONS
    assert {answer.answer for answer in answers} == {NOTHING_YET}
    assert set(named_by_the_model(session)) - {NOTHING_YET}, "the control: the model itself would name something"


def test_confidence_says_how_near_a_digit_came(without_digits: tuple[RecallSession, list]) -> None:
    session, _ = without_digits
    eyes, ears = session.eyes.surest, session.ears.surest
    assert 0.1 < eyes < SURE["sees"], "a film that leaves no doubt shows nothing"
    assert 0 < ears < eyes
    confidence = {answer.question: answer.confidence for answer in session.ask(*QUESTIONS)}
    for questions, expected in ((ABOUT_SEEN, 1 - eyes), (ABOUT_HEARD, 1 - ears), (ABOUT_BOTH, 1 - ears)):
        assert {confidence.pop(question) for question in questions} == {expected}
    assert not confidence


def test_what_was_noticed_is_asked_of_the_model(with_digits: tuple[RecallSession, list]) -> None:
    session, events = with_digits
    assert {event.sense for event in events} == {"sees", "hears"}
    answers = [answer.answer for answer in session.ask(*QUESTIONS)]
    assert answers == named_by_the_model(session)
    assert set(answers) != {NOTHING_YET}, "the control"


@pytest.mark.parametrize("sense", ["sees", "hears"])
def test_of_one_sense_only_its_own_questions_reach_the_model(sense: str, checkpoint: Path, media: Path) -> None:
    session = RecallSession(eager(tt.load(checkpoint)), hears=sense == "hears")
    with open_media(media / "digits.mp4") as both:
        for step in both:
            session.take(MediaStep(step.time, *((step.frame, None) if sense == "sees" else (None, step.sound))))
    own = ABOUT_SEEN if sense == "sees" else ABOUT_HEARD
    answers = {answer.question: answer for answer in session.ask(*QUESTIONS)}
    for question, named in zip(QUESTIONS, named_by_the_model(session), strict=True):
        if question in own:
            assert answers[question].answer == named
        else:
            assert answers[question][1:] == (NOTHING_YET, 1.0), "what has no pictures, or no sound, is certain"


def test_questions_are_answered_in_their_order(with_digits: tuple[RecallSession, list], monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = with_digits
    monkeypatch.setattr(session, "ears", Noticing("hears"))
    asked = ("heard 1 last", "seen 1 last", "heard 2 last", "seen 1 last", "how long ago seen")
    answers = session.ask(*asked)
    assert tuple(answer.question for answer in answers) == asked
    assert answers[1] == answers[3]
    assert [answer.answer == NOTHING_YET and answer.confidence == 1 for answer in answers] == [True, False, True, False, False]


def test_names_of_questions_are_checked_though_nothing_was_noticed(without_digits: tuple[RecallSession, list]) -> None:
    session, _ = without_digits
    with pytest.raises(tt.errors.OptionError, match="did you mean 'seen 1 last'"):
        session.ask("sen 1 last")
    fresh = RecallSession(session.model, hears=False)
    assert fresh.ask("seen 1 last") == []
    with pytest.raises(tt.errors.OptionError):
        fresh.ask("sen 1 last")


def test_asking_changes_nothing(checkpoint: Path, media: Path, with_digits: tuple[RecallSession, list]) -> None:
    quiet, _ = with_digits
    asked = RecallSession(eager(tt.load(checkpoint)), hears=True)
    with open_media(media / "digits.mp4") as steps:
        for step in steps:
            asked.take(step)
            answers = asked.ask("seen 1 last", "how long ago seen")
    assert [answer.question for answer in answers] == ["seen 1 last", "how long ago seen"]
    assert asked.eyes.noticed, "or the model is not asked"
    assert all(np.array_equal(a, b) for a, b in zip(quiet.state, asked.state, strict=True))
    assert quiet.ask(*QUESTIONS) == asked.ask(*QUESTIONS)


# --- what is noticed


def share_of(digit: int, share: float) -> np.ndarray:
    """Shares [11] of which that digit has so much."""
    return np.where(np.arange(NOTHING + 1) == digit, share, (1 - share) / NOTHING)


def test_a_digit_is_noticed_once() -> None:
    eyes = Noticing("sees")
    stream = [10, 3, 3, 3, 10, 3, 3, 10, 10, 10, 10, 3, 3, 5, 10]
    noticed = [eyes.advance(share_of(digit, 0.91)) for digit in stream]
    assert [step for step, notice in enumerate(noticed) if notice] == [2, 12]


SHARES = [0.2, 0.97, *SURE.values(), *(share - 1e-6 for share in SURE.values())]


@given(st.sampled_from(sorted(SURE)), st.lists(st.tuples(st.integers(0, NOTHING), st.sampled_from(SHARES)), max_size=6))
def test_a_sense_has_noticed_something_if_and_only_if_there_was_an_event(name: str, steps: list[tuple[int, float]]) -> None:
    sense = Noticing(name)
    events = [sense.advance(share_of(*step)) for step in steps]
    assert sense.noticed == any(events)


@pytest.mark.parametrize(
    ("steps", "surest"),
    [
        ([(3, 0.9), (3, 0.8)], 0.8),
        ([(3, 0.95), (3, 0.97)], 0.95),
        ([(3, 0.9), (5, 0.9)], 0.01),  # of no digit in two steps
        ([(3, 0.9), (NOTHING, 0.9), (3, 0.9)], 0.01),
        ([(NOTHING, 1.0)] * 3, 0.0),
        ([(3, 0.6), (3, 0.6), (3, 0.3), (3, 0.3)], 0.6),
    ],
)
def test_the_surest_is_of_one_digit_in_two_steps(steps: list[tuple[int, float]], surest: float) -> None:
    eyes = Noticing("sees")
    for step in steps:
        eyes.advance(share_of(*step))
    assert eyes.surest == pytest.approx(surest)
    assert eyes.noticed == (surest >= SURE["sees"])


# --- what is shown


def test_it_says_first_what_it_knows(checkpoint: Path, media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, _ = shown(capsys, checkpoint, media / "clouds.mp4", "--every", "1")
    said = " ".join(before[1:3])
    assert said.startswith("untrained knows handwritten digits, seen")
    assert all(f"{share:.0%}" in said for share in SURE.values())
    assert before[3].startswith("0:0"), "then what happens"


def test_a_film_without_digits_ends_with_one_sentence(
    checkpoint: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("clouds.mp4", "noise.wav"):
        _, after = shown(capsys, checkpoint, media / name, "--jsonl", tmp_path / "answers.jsonl")
        assert after == ['nothing was recognised: all 19 answers are "nothing yet" (--all prints them)']
        assert [line["question"] for line in lines(tmp_path / "answers.jsonl") if line.get("final")] == QUESTIONS
    _, after = shown(capsys, checkpoint, media / "noise.wav", "--all")
    assert len(after) == 20
    assert "--all" not in after[-1]
    _, after = shown(capsys, checkpoint, media / "digits.mp4")
    assert "nothing was recognised" not in " ".join(after), "the control"


def test_only_what_there_is_to_say_is_printed(
    checkpoint: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "answers.jsonl"
    with open_media(media / "digits.mp4") as both:
        frames = np.stack([step.frame for step in both if step.frame is not None])
    mute = tmp_path / "mute.mp4"
    write_video(mute, frames, np.zeros(len(frames) * 1280))
    before, after = shown(capsys, checkpoint, mute, "--jsonl", file)
    assert any("(sees " in line for line in before)
    final = [line for line in lines(file) if line.get("final")]
    told = [line["question"] for line in final if line["answer"] != NOTHING_YET]
    assert [line["question"] for line in final] == QUESTIONS
    assert told
    assert [line.split("  ")[1].split("?")[0] for line in after[:-1]] == told
    assert after[-1].startswith("nothing yet: ")
    assert after[-1].endswith("more questions; --all prints them)")
    _, everything = shown(capsys, checkpoint, mute, "--all")
    assert [line.split("  ")[1].split("?")[0] for line in everything] == QUESTIONS


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 19])
def test_what_is_left_out_is_counted_in_one_line(count: int) -> None:
    line = in_one_line("nothing yet: ", QUESTIONS[-count:])
    assert len(line) <= WIDTH
    if "..." in line:
        named, more = line.removeprefix("nothing yet: ").split(" ... (")
        assert len(named.split(", ")) + int(more.split()[0]) == count
        assert ("question;" in more) == more.startswith("1 ")
    else:
        assert line.removeprefix("nothing yet: ").split(", ") == QUESTIONS[-count:]
    assert ("..." in line) == (count > 3), "the control: some are left out, some are not"


def test_a_question_longer_than_a_line_is_counted_too() -> None:
    assert in_one_line("nothing yet: ", ["x" * 90]) == "nothing yet: 1 question (--all prints them)"


def test_what_is_piped_is_plain_and_80_columns_wide(
    checkpoint: Path, media: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(media)
    cli.main(["stream", str(checkpoint), "digits.mp4", "--every", "1"])
    said = capsys.readouterr()
    assert max(map(len, said.out.splitlines())) <= 80
    assert not {"\x1b", "\r"} & set(said.out + said.err)
    assert [line for line in said.err.splitlines() if not line.startswith("watching ")] == []


# --- of another task


@pytest.mark.parametrize(
    ("digits", "expected"),
    [
        ([3, 3, 3, 3], ["last? 3", "2nd last? 3", "3rd last? 3", "4th last? 3"]),
        ([3, NOTHING, NOTHING, NOTHING], ["last? 3", "nothing yet: 2nd last, 3rd last, 4th last"]),
        ([NOTHING] * 4, ["nothing was recognised: all 4 answers"]),
    ],
)
def test_last_digits_says_its_own(
    digits: list[int], expected: list[str], media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = last_digits.DigitRecaller("LSTM", {"width": 16})
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(10.0 * torch.nn.functional.one_hot(torch.tensor(digits), NOTHING + 1).flatten())
    tt.save(model, tmp_path / "digits")
    before, after = shown(capsys, tmp_path / "digits", media / "clouds.mp4", "--every", "0")
    assert before[1].startswith("digits knows handwritten digits, seen; ")
    assert len(after) == len(expected)
    assert all(part in line for part, line in zip(expected, after, strict=True))
    assert ("0:00.00  (sees 3)" in before) == (digits[0] == 3)


def test_a_session_need_not_say_what_it_knows(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tt.save(last_digits.DigitRecaller("LSTM", {"width": 16}), tmp_path / "digits")
    monkeypatch.delattr(DigitSession, "knows")
    before, _ = shown(capsys, tmp_path / "digits", media / "clouds.mp4")
    assert "knows" not in " ".join(before)


# --- when what is asked, of which files


def test_answers_about_a_video(checkpoint: Path, media: Path, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    cli.main(["stream", str(checkpoint), str(media / "clouds.mp4"), "--jsonl", str(file), "--every", "1"])
    answers = [line for line in lines(file) if "question" in line]
    during, after = ([a for a in answers if a["final"] == final] for final in (False, True))
    assert [round(answer["time"], 1) for answer in during] == [1.0, 2.0, 3.0]
    assert [answer["question"] for answer in after] == QUESTIONS
    assert all(answer["answer"] in ANSWERS and 0 <= answer["confidence"] <= 1 for answer in answers)


def test_of_an_export_and_of_what_cannot_be_exported(
    checkpoint: Path,
    media: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video = str(media / "digits.mp4")
    cli.main(["export", str(checkpoint), "--out", str(tmp_path / "exported")])
    found = []
    for number, given_model in enumerate((checkpoint, tmp_path / "exported")):
        file = tmp_path / f"{number}.jsonl"
        cli.main(["stream", str(given_model), video, "--jsonl", str(file)])
        found.append(lines(file))
    assert found[0] == found[1]
    said = {line.get("answer") for line in found[0]}
    assert None in said, "events are among the lines"
    assert said - {None, NOTHING_YET}, "answers of the model's are among the lines"
    assert "PyTorch" not in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setenv("TOKENTURING_CACHE", str(tmp_path / "cache"))
    cli.main(["stream", str(checkpoint), video, "--jsonl", str(tmp_path / "eager.jsonl")])
    assert "on PyTorch" in capsys.readouterr().err
    assert [line.get("answer") for line in lines(tmp_path / "eager.jsonl")] == [line.get("answer") for line in found[0]]


def test_it_asks_what_it_is_told_to(checkpoint: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "answers.jsonl"
    asked = ["--ask", "1.6 seen 2 last", "--ask", "0.5 heard 1 last", "99 how long ago seen"]
    cli.main(["stream", str(checkpoint), str(media / "clouds.mp4"), "--jsonl", str(file), *asked])
    answers = [line for line in lines(file) if "question" in line and not line["final"]]
    assert [(answer["time"], answer["question"]) for answer in answers] == [
        (0.48, "heard 1 last"),
        (1.6, "seen 2 last"),
    ]
    assert "not asked" in capsys.readouterr().err


def test_wrong_questions_and_broken_files_are_one_line(
    checkpoint: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ("stream", checkpoint, media / "clouds.mp4", "--ask")
    assert "SECONDS QUESTION" in fails(capsys, *ask, "seen 2 last")
    assert "did you mean 'seen 2 last'" in fails(capsys, *ask, "1.0 sen 2 last")
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 1000)
    assert "broken.mp4" in fails(capsys, "stream", checkpoint, tmp_path / "broken.mp4")


def test_of_sound_alone(checkpoint: Path, media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, _ = shown(capsys, checkpoint, media / "noise.wav", "--every", "1")
    assert before[0].endswith("noise.wav: sound, 2.0 s")
    assert before[-1].endswith("seen 1 last? nothing yet (100%)")
