"""Sessions that `tokenturing stream --state` keeps: stopped and gone on with, it is as if they had never stopped."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import fails
from safetensors.numpy import load_file, save_file

import tokenturing as tt
from tokenturing.cli import main as cli
from tokenturing.cli.stream import Due, Schedule
from tokenturing.errors import CheckpointError, OptionError, TokenTuringError
from tokenturing.media.steps import MediaStep, open_media
from tokenturing.media.writer import write_video
from tokenturing.models.eager import eager
from tokenturing.tasks import keeping
from tokenturing.tasks.keeping import KeptSession
from tokenturing.tasks.last_digits.model import DigitRecaller
from tokenturing.tasks.last_digits.session import DigitSession
from tokenturing.tasks.recall.minute import make_minute
from tokenturing.tasks.recall.model import RecallModel
from tokenturing.tasks.recall.session import RecallSession
from tokenturing.tasks.recall.world.questions import ANSWERS, FACTS, QUESTIONS

OPTIONS = {"width": 16, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2, "hidden": 16}
STEPS, HALF = 60, 31


def recall_model(memory: str = "TokenTuringMachine", options: dict[str, Any] = OPTIONS) -> RecallModel:
    """The shipped eyes and ears, an untrained memory."""
    torch.manual_seed(0)
    perception = tt.load("recall-perception")
    model = RecallModel(memory, options, len(QUESTIONS), len(ANSWERS), FACTS, perception.config["width"])
    model.perception.load_state_dict(perception.state_dict())
    return model.eval()


@pytest.fixture(scope="module")
def minute() -> list[MediaStep]:
    made = make_minute(steps=STEPS)
    return [MediaStep(0.08 * step, made.frames[step], made.waveform[1280 * step : 1280 * (step + 1)]) for step in range(STEPS)]


def recall_session(model: RecallModel, hears: bool = True) -> RecallSession:
    return RecallSession(eager(model), hears)


def lived(session: Any, steps: list[MediaStep]) -> list[tuple[Any, ...]]:
    """Events and answers, step by step."""
    return [(*session.take(step), *session.ask(session.questions[0], session.questions[-1])) for step in steps]


@pytest.mark.parametrize("memory", ["TokenTuringMachine", "FullTransformer", "digits"])
def test_stopped_and_gone_on_is_never_stopped(memory: str, minute: list[MediaStep], tmp_path: Path) -> None:
    options = OPTIONS if memory == "TokenTuringMachine" else {"width": 16, "layers": 1, "heads": 2}
    if memory == "digits":
        torch.manual_seed(0)
        digits = DigitRecaller("LSTM", {"width": 16})

        def begin() -> Any:
            return DigitSession(eager(digits))
    else:
        model = recall_model(memory, options)

        def begin() -> Any:
            return recall_session(model)

    file = tmp_path / "kept" / "session.safetensors"
    whole = lived(begin(), minute)
    first = begin()
    kept = KeptSession(file, first)
    assert kept.steps == 0
    before = lived(first, minute[:HALF])
    for _ in range(HALF):
        kept.advance()
    kept.save()
    second = begin()
    kept = KeptSession(file, second)
    assert kept.steps == HALF
    assert second.ask(*second.questions) == first.ask(*first.questions), "before any further step"
    assert before + lived(second, minute[HALF:]) == whole
    assert lived(begin(), minute[HALF:]) != whole[HALF:], "the control: one that begins anew"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_session_may_gain_and_lose_its_sound(minute: list[MediaStep], tmp_path: Path) -> None:
    model, file = recall_model(), tmp_path / "session"
    hearing, deaf = recall_session(model), recall_session(model, hears=False)
    lived(hearing, minute[:5])
    KeptSession(file, hearing).save()
    KeptSession(file, deaf).save()
    assert np.array_equal(deaf.state[0], hearing.state[0])
    again = recall_session(model)
    KeptSession(file, again)
    assert np.array_equal(again.state[0], hearing.state[0])
    assert again.sound_state is not None


def test_files_that_are_not_gone_on_with(minute: list[MediaStep], tmp_path: Path) -> None:
    model, file = recall_model(), tmp_path / "session"
    KeptSession(file, recall_session(model)).save()
    other = recall_model()
    with torch.no_grad():
        other.adapt.weight.add_(1.0)
    with pytest.raises(CheckpointError, match="session of another model"):
        KeptSession(file, recall_session(other))
    with pytest.raises(CheckpointError, match="session of another model"):
        KeptSession(file, DigitSession(eager(DigitRecaller("LSTM", {"width": 16}))))
    tt.save_state(model.initial_state(1), tmp_path / "state", model)
    with pytest.raises(CheckpointError, match="no session"):
        KeptSession(tmp_path / "state", recall_session(model))
    with pytest.raises(OptionError, match="is a folder"):
        KeptSession(tmp_path, recall_session(model))
    with pytest.raises(OptionError, match="an object cannot be kept"):
        KeptSession(file, object())
    content = file.read_bytes()
    for number in range(0, len(content), 1009):
        damaged = bytearray(content)
        damaged[number] ^= 0x10
        file.write_bytes(damaged)
        try:
            KeptSession(file, recall_session(model, hears=False))
        except TokenTuringError:
            continue
        pytest.fail(f"byte {number} was changed and nobody noticed")
    file.write_bytes(content)
    KeptSession(file, recall_session(model))  # the control


@pytest.mark.parametrize("change", ["missing", "shape", "type", "foreign", "NaN"])
def test_arrays_that_do_not_fit(change: str, tmp_path: Path) -> None:
    model, file = recall_model(), tmp_path / "session"
    KeptSession(file, recall_session(model)).save()
    from tokenturing.checkpoint.tensors import TensorBytes, pack

    found = TensorBytes(file.read_bytes(), "", "")
    tensors, metadata = found.tensors("cpu"), {k: v for k, v in found.metadata.items() if k not in ("crc32", "format")}
    tensors |= {
        "missing": {},
        "shape": {"y": torch.zeros(1, 3, 16)},
        "type": {"y": tensors["y"].double()},
        "foreign": {"nobody": torch.zeros(1)},
        "NaN": {"eyes": torch.full((14,), torch.nan, dtype=torch.float64)},
    }[change]
    if change == "missing":
        del tensors["ears"]
    file.write_bytes(pack(tensors, metadata, checksum="crc32"))
    with pytest.raises(CheckpointError, match=r"eyes|ears|y is|nobody|cannot be gone on with"):
        KeptSession(file, recall_session(model))


def test_it_is_saved_every_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, file = DigitSession(eager(DigitRecaller("LSTM", {"width": 16}))), tmp_path / "session"
    kept = KeptSession(file, session)
    kept.advance()
    assert not file.exists()
    monkeypatch.setattr(keeping, "SAVE_SECONDS", 0.0)
    kept.advance()
    assert KeptSession(file, session).steps == 2
    file.unlink()
    file.mkdir()
    with pytest.warns(UserWarning, match="could not be written"):
        kept.advance()


def test_a_session_may_have_nothing_to_ask_in_turn() -> None:
    schedule = Schedule([Due(1.0, "a")], 2.0, ())
    schedule.skip(0.5)
    assert schedule.due(10.0) == ["a"]


def test_questions_of_the_past_are_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    whole, gone_on = (Schedule([Due(1.0, "a"), Due(5.0, "b")], 2.0, ["x", "y", "z"]) for _ in range(2))
    times = [0.08 * step for step in range(1, 126)]
    asked = [(time, whole.due(time)) for time in times]
    gone_on.skip(3.6)
    assert [(time, gone_on.due(time)) for time in times[45:]] == asked[45:]
    assert "not asked" in capsys.readouterr().err


# --- the command


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "digits"
    tt.save(DigitRecaller("LSTM", {"width": 16}), folder)
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.mp4 and b.mp4, of 2 s each."""
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / name, rng.random((25, 32, 32)), np.zeros(25 * 1280))
    return folder


def test_one_film_after_the_other(digits: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    for name in ("a", "b"):
        cli.main(["stream", str(digits), str(films / f"{name}.mp4"), "--state", str(state), "--jsonl", str(tmp_path / name)])
    assert "going on with" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "b").read_text().splitlines()]
    with open_media(films / "a.mp4") as media:
        watched = len(list(media)) * 0.08
    assert min(line["time"] for line in lines) >= round(watched, 2)
    assert [line["time"] for line in lines if line.get("final")] == [round(2 * watched, 2)] * 4
    asked = [line["question"] for line in lines if line.get("final") is False]
    assert asked[:1] == ["2nd last"], "the rotation goes on too"
    assert "another model" in fails(capsys, "stream", "recall-ttm", films / "a.mp4", "--state", state)


def test_terminated_it_keeps_what_it_has(digits: Path, tmp_path: Path) -> None:
    """A real process that watches a pipe without end."""
    from media_files import film

    state, content = tmp_path / "state", film(tmp_path / "a.ts", 1.0).read_bytes()
    command = [sys.executable, "-m", "tokenturing", "stream", str(digits), "-", "--state", str(state), "--every", "0.5"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=False) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        for _ in range(20):
            run.stdin.write(content)
            run.stdin.flush()
        said = b""
        while b"? " not in said:
            line = run.stdout.readline()
            assert line, run.stderr.read() if run.stderr else ""
            said += line
        run.send_signal(signal.SIGTERM)
        began = time.monotonic()
        rest = run.stdout.read()
        run.stdin.close()
        assert run.wait(30) == 0
    assert time.monotonic() - began < 20
    assert b"at the end" in rest
    steps = KeptSession(state, DigitSession(eager(tt.load(digits)))).steps
    assert steps > 5


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    KeptSession(tmp_path / "session", DigitSession(eager(DigitRecaller("LSTM", {"width": 16})))).save()
    arrays = load_file(tmp_path / "session")
    assert {"began", "shares"} < set(arrays)
    save_file(arrays, tmp_path / "stripped")  # the control: without what it says of itself it is refused
    with pytest.raises(CheckpointError, match="no session"):
        KeptSession(tmp_path / "stripped", DigitSession(eager(DigitRecaller("LSTM", {"width": 16}))))
