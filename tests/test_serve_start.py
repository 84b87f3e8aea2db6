"""What is said when a server starts, or cannot: the option that is wrong, and how to put it right."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import small_machine

from tokenturing.cli.main import main
from tokenturing.cli.serve import read_tokens
from tokenturing.errors import OptionError
from tokenturing.serve.limits import FLAGS, Limits
from tokenturing.serve.sqlite import SqliteStore

PAGE = 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_machine(tmp_path_factory.mktemp("start") / "machine")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, a file that is none of ours, and one that is damaged."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").mkdir()
    (tmp_path / "text").write_text("this is no database, but a text of some length" * 50)
    SqliteStore("damaged.db", 4).close()
    data = bytearray((tmp_path / "damaged.db").read_bytes())
    data[PAGE:] = bytes(range(256)) * ((len(data) - PAGE) // 256)
    (tmp_path / "damaged.db").write_bytes(data)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--store", "sqlite:w"), "--store sqlite:w: w is a folder: name a file in it, such as w/sessions.db"),
        (("--store", "sqlite:none/s.db"), "--store sqlite:none/s.db: there is no folder none: make it"),
        (("--store", "sqlite:text"), "it is no SQLite file: name another one"),
        (("--store", "sqlite:damaged.db"), "it is damaged: restore a copy"),
        (("--store", "sqlite::memory:"), "--store sqlite::memory:"),
        (("--store", "redi://:hidden@h/0"), "--store redi://h/0: expected sqlite:PATH"),
        (("--store", "redis://:hidden@127.0.0.1:1/0"), "--store redis://127.0.0.1:1/0"),
        (("--store", "redis://:hidden@127.0.0.1:1/0"), "start one there, or mend the address"),
        (("--store", "redis://127.0.0.1:none/0"), "expected redis://HOST:PORT/NUMBER"),
        (("--max-sessions", "0"), "--max-sessions 0: expected a number above 0"),
        (("--max-message", "-1"), "--max-message -1: expected a number above 0"),
        (("--idle", "nan"), "--idle nan: expected a number above 0"),
        (("--total", "0"), "--total 0.0: expected a number above 0"),
        (("--threads", "0"), "--threads 0: expected a number above 0"),
        (("--origin", "example.org"), "--origin example.org: expected a scheme"),
        (("--allow-host", "example.org:80"), "--allow-host example.org:80: expected a name alone"),
    ],
)
def test_what_is_wrong_is_named(arguments: tuple[str, ...], match: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "redis" in arguments[1]:
        pytest.importorskip("redis", exc_type=ImportError)
    with pytest.raises(SystemExit):
        main(["serve", f"m={folder}", *arguments, "--port", "0", "--exact"])
    said = capsys.readouterr().err
    assert match in said
    assert "send the same again" not in said
    assert "hidden" not in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("field", FLAGS)
def test_each_limit_names_its_option(field: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match=f"^{FLAGS[field]} 0: "):
        Limits(**{field: 0})  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    assert f"{FLAGS[field]} " in capsys.readouterr().out


def test_the_help_says_how_long_a_token_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    assert "16 characters or more" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "16 characters or more" in (Path(__file__).parents[1] / "docs" / "serve.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", ["wörter-von-einiger-länge", "a-token-with-a\ttabulator"])
def test_a_token_that_nobody_can_send_is_refused(line: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(line, encoding="utf-8")
    file.chmod(0o600)
    with pytest.raises(OptionError, match="printable ASCII") as caught:
        read_tokens(file)
    assert line not in str(caught.value)


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis that keeps nothing on its disk."""
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server: apt install redis-server")
    pytest.importorskip("redis", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("redis")
    place = folder / "r"
    options = ["--port", "0", "--unixsocket", str(place), "--dir", str(folder), "--appendonly", "no"]
    process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    while not place.exists():
        time.sleep(0.02)
    yield f"unix://{place}"
    process.kill()
    process.wait()


@pytest.mark.parametrize(("durability", "more"), [("step", False), ("interval=200ms", True)])
def test_a_redis_that_forgets_is_told_of(
    durability: str, more: bool, folder: Path, forgetful: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenturing.serve.run.run", lambda *_: None)
    started = ["serve", f"m={folder}", "--port", "0", "--exact", "--durability", durability, "--store"]
    main([*started, forgetful])
    said = capsys.readouterr().err
    assert "warning: this Redis may lose what it has taken" in said
    assert ("more than --durability says" in said) is more
    main([*started, "sqlite:s.db"])
    assert "warning" not in capsys.readouterr().err, "the control"
