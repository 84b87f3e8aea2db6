"""What the command line says in plain words, and how it ends."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import fails

import tokenturing as tt
from tokenturing.cli import main as cli
from tokenturing.errors import PLAIN_WORDS, OptionError, a, in_words
from tokenturing.files import write_file
from tokenturing.media.writer import write_video
from tokenturing.options import build
from tokenturing.tasks.last_digits.model import DigitRecaller
from tokenturing.train.recipe import TrainOptions


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "digits"
    tt.save(DigitRecaller("LSTM", {"width": 16}), folder)
    return folder


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "noise.mp4"
    write_video(path, np.random.default_rng(0).random((25, 32, 32)), np.zeros(25 * 1280))
    return path


@pytest.mark.parametrize(
    "words",
    [
        *("an LSTM", "a GRU", "an MLP", "a MinGRU", "an RNN", "an NTM", "a UNet", "an xLSTM", "an HTTPServer", "a PIL"),
        *("an int", "a str", "a float", "a NoneType", "an ndarray", "an OrderedDict", "a UserModel", "an Upsample", "a dict"),
    ],
)
def test_articles(words: str) -> None:
    assert a(words.split()[1]) == words


def test_articles_of_classes() -> None:
    assert a(tt.baselines.LSTM) == "an LSTM"
    assert a(int) == "an int"


def test_messages_have_the_right_article(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match="is a str: expected an int"):
        build(TrainOptions(), {"updates": "many"})
    tt.save(tt.baselines.LSTM(16), tmp_path / "lstm")
    assert "is an LSTM: --writes" in fails(capsys, "inspect", tmp_path / "lstm", "--writes")


def test_no_message_writes_an_article_before_a_name_by_hand() -> None:
    source = Path(tt.__file__).parent
    for path in source.rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert " a {type(" not in line, f"{path}:{number}: use errors.a"
            assert '"a {type(' not in line, f"{path}:{number}: use errors.a"


@pytest.mark.parametrize("number", PLAIN_WORDS)
def test_errors_of_the_system_in_plain_words(number: int) -> None:
    error = OSError(number, os.strerror(number), "/there/{file}")
    said = in_words(error)
    assert "/there/{file}" in said
    assert "Errno" not in said
    wrapped = in_words(ValueError(f"it cannot be read ({error}): expected a file"))
    assert wrapped == f"it cannot be read ({os.strerror(number)}): expected a file"


def test_other_errors_of_the_system_keep_their_words() -> None:
    assert in_words(OSError(errno.EIO, "Input/output {error}", "x")) == "x: Input/output {error}"
    assert in_words(OSError(errno.EIO, "Input/output error")) == "Input/output error"
    assert in_words(ValueError("one\ntwo")) == "one two"
    assert in_words(ValueError()) == "ValueError"
    assert in_words(ValueError("[1, 2] is no number")) == "[1, 2] is no number"


def test_the_file_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        write_file(tmp_path / "no" / "file.json", b"")
    assert in_words(caught.value) == f"there is no file or folder {tmp_path / 'no' / 'file.json'}"


def test_places_that_cannot_be_written(digits: Path, noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for arguments in (
        ("stream", digits, noise, "--jsonl", tmp_path),
        ("stream", digits, noise, "--jsonl", tmp_path / "file" / "in" / "it"),
    ):
        said = fails(capsys, *arguments)
        assert "Errno" not in said
        assert "expected" in said


def test_nothing_is_written_over_what_is_watched(
    digits: Path, noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film, link = tmp_path / "film.mkv", tmp_path / "link"
    film.write_bytes(noise.read_bytes())
    link.symlink_to(film)
    both = tmp_path / "both"
    for options, other in (
        (("--jsonl", film), "the source"),
        (("--state", link), "the source"),
        (("--jsonl", both, "--state", both), "--jsonl"),
    ):
        assert f"is {other} too" in fails(capsys, "stream", digits, film, *options)
    assert film.read_bytes() == noise.read_bytes()
    assert not both.exists()


@pytest.mark.parametrize("options", [("--every", "nan"), ("--every", "inf"), ("--ask", "nan digit 1 last")])
def test_times_are_numbers(digits: Path, noise: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str]) -> None:
    assert "expected" in fails(capsys, "stream", digits, noise, *options)


def test_a_place_for_figures_is_looked_at_before_they_are_made(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is a folder" in fails(capsys, "evaluate", digits, "--rows", "2", "--json", tmp_path)
    assert "evaluating" not in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out == f"tokenturing {tt.__version__}\n"


def test_json_on_standard_output_and_nothing_else(digits: Path, noise: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["stream", str(digits), str(noise), "--jsonl", "-", "--every", "0.5"])
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["final"] for line in lines if "final" in line].count(True) == 4
    assert "at the end" in said.err
    assert "digits knows handwritten digits" in said.err
    assert not sys.stdout.closed


def test_a_reader_that_has_enough_is_no_failure(digits: Path, noise: Path) -> None:
    for command in (f"stream {digits} {noise} --every 0.08", f"stream {digits} {noise} --jsonl -", "--help"):
        line = f"set -o pipefail; {sys.executable} -m tokenturing {command} | head -n 1"
        run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert len(run.stdout.splitlines()) == 1
        assert "Error" not in run.stderr
