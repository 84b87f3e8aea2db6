"""Servers that share a store, batches of strangers, sessions that watch, and time that runs out."""

import asyncio
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serving import Raw, Server, inputs, outputs_alone, serving, small_machine

import tokenturing as tt
from tokenturing.client import ServerError, SessionLostError, connect
from tokenturing.export import eager, export_onnx
from tokenturing.runtime import load
from tokenturing.serve import messages as say
from tokenturing.serve.arrays import array
from tokenturing.serve.engine import Engine
from tokenturing.serve.limits import Limits
from tokenturing.serve.seats import Job
from tokenturing.serve.served import Served, dump
from tokenturing.serve.store import open_store
from tokenturing.serve.watched import SAMPLES, media_of
from tokenturing.tasks.keeping import KeptSession
from tokenturing.train.recipe import task_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_machine(tmp_path_factory.mktemp("workers") / "machine")


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:{tmp_path / 's.db'}"
        return
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server: apt install redis-server")
    options = ["--port", "0", "--unixsocket", str(tmp_path / "r"), "--dir", str(tmp_path), "--appendonly", "yes"]
    process = subprocess.Popen(["redis-server", *options, "--appendfsync", "always"], stdout=subprocess.DEVNULL)
    while not (tmp_path / "r").exists():
        time.sleep(0.02)
    yield f"unix://{tmp_path / 'r'}"
    process.kill()
    process.wait()


def test_another_worker_takes_over(folder: Path, store: str, tmp_path: Path) -> None:
    """First from one that lives, which can write it no more; then from one that was killed. Nothing is lost or done twice."""
    x = inputs(9)
    arguments = (f"m={folder}", "--exact", "--store", store)
    first = Server(*arguments, log=tmp_path / "first")
    with serving(*arguments, log=tmp_path / "second") as second, connect(first.url) as here, connect(second.url) as there:
        session = here.open()
        found = [session.step(one) for one in x[:3]]
        taken = there.attach(session.id, session.secret)
        found += [taken.step(one) for one in x[3:6]]
        with pytest.raises(SessionLostError, match="another worker"):
            session.step(x[0])
        back = here.attach(session.id, session.secret)
        found += [back.step(x[6])]
        first.kill()
        began = time.monotonic()
        again = there.attach(session.id, session.secret)
        assert time.monotonic() - began < 2
        found += [again.step(one) for one in x[7:]]
    assert [one.seq for one in found] == list(range(1, len(x) + 1))
    assert all(np.array_equal(one.outputs["y"], y) for one, y in zip(found, outputs_alone(folder, x), strict=True))


def test_sessions_expire(folder: Path, tmp_path: Path) -> None:
    with serving(
        f"m={folder}", "--exact", "--store", f"sqlite:{tmp_path / 's.db'}", "--idle", "2", log=tmp_path / "log"
    ) as server:
        raw = Raw(server.url)
        (opened,) = raw.send(say.Open(1))
        assert isinstance(opened, say.Opened)
        gone = say.decode_reply(raw.socket.recv(timeout=30))
        assert isinstance(gone, say.Gone)
        assert "time" in gone.reason
        with connect(server.url) as client, pytest.raises(ServerError, match="has expired"):
            client.attach(opened.session, opened.secret)


def test_no_more_sessions_than_allowed(folder: Path, tmp_path: Path) -> None:
    arguments = ("--exact", "--store", f"sqlite:{tmp_path / 's.db'}", "--max-sessions", "2")
    with serving(f"m={folder}", *arguments, log=tmp_path / "log") as server, connect(server.url, reconnect=0) as client:
        first, _ = client.open(), client.open()
        with pytest.raises(ServerError, match="there are 2 sessions"):
            client.open()
        with pytest.raises(ServerError, match="there are 2 sessions"):
            first.fork()
        raw = Raw(server.url)
        (full,) = raw.send(say.Open(1))
        assert isinstance(full, say.Error)
        assert full.code == "full"
        first.delete()
        assert isinstance(raw.send(say.Open(2))[0], say.Opened)


@pytest.mark.parametrize("exact", [True, False])
def test_strangers_in_a_batch_change_nothing(exact: bool, folder: Path, tmp_path: Path) -> None:
    """To the bit where rows are computed by themselves, and within 1e-5 on the runtime; sizes of batches differ each step."""
    model = tt.load(folder)
    served = Served("m", eager(model) if exact else load(export_onnx(model, tmp_path / "export"), threads=1))
    streams = {number: inputs(12, number) for number in range(5)}

    def play(together: bool) -> dict[int, list[np.ndarray]]:
        sessions = {number: served.begin("inputs") for number in streams}
        found: dict[int, list[np.ndarray]] = {number: [] for number in streams}
        for step in range(12):
            ready = [number for number in streams if not together or (step + number) % 3 or number == 0]
            for group in [ready] if together else [[number] for number in ready]:
                sent = [{"x": array(streams[number][len(found[number])])} for number in group]
                for number, outcome in zip(group, served.step([sessions[number] for number in group], sent), strict=True):
                    part = outcome.outputs["y"]
                    found[number].append(np.frombuffer(part.data, part.dtype).reshape(part.shape))
        return found

    alone, together = play(False), play(True)
    for number, outputs in together.items():
        for ours, theirs in zip(outputs, alone[number], strict=False):
            assert np.array_equal(ours, theirs) if exact else np.allclose(ours, theirs, atol=1e-5, rtol=0)
    assert not np.allclose(alone[0][-1], alone[1][-1], atol=1e-3)


class Listening:
    """A connection that writes down what it is told, and when."""

    def __init__(self, heard: list[tuple[str, say.Message]]):
        self.heard = heard

    def send(self, message: say.Message, encoded: bytes | None = None) -> None:
        self.heard.append((getattr(message, "session", ""), message))


def test_who_sends_much_does_not_hold_up_who_sends_little(folder: Path, tmp_path: Path) -> None:
    async def play() -> list[str]:
        limits = Limits(batch=2)
        engine = Engine(
            {"m": Served("m", eager(tt.load(folder)))}, open_store(f"sqlite:{tmp_path / 's.db'}", limits.window), limits
        )
        await engine.start()
        heard: list[tuple[str, say.Message]] = []
        listener = Listening(heard)
        names = ["greedy-session", *(f"modest-session-{number}" for number in range(5))]
        for name in names:
            await engine.open(say.Open(0, session=name), listener)
        one = {"x": array(inputs(1)[0])}
        for seq in range(1, limits.window + 1):
            engine.submit(engine.seats[names[0]], Job(say.Step(names[0], seq, one), listener))
        for name in names[1:]:
            engine.submit(engine.seats[name], Job(say.Step(name, 1, one), listener))
        while len(heard) < limits.window + 5:
            await asyncio.sleep(0.01)
        await engine.stop()
        assert all(isinstance(message, say.Stepped) for _, message in heard)
        return [name for name, _ in heard]

    order = asyncio.run(play())
    last_modest = max(place for place, name in enumerate(order) if name.startswith("modest"))
    assert order[: last_modest + 1].count("greedy-session") <= 5, f"of 16 inputs of one session too many came first: {order}"


def test_bytes_of_a_session_are_checked(folder: Path) -> None:
    served = Served("m", eager(tt.load(folder)))
    data = dump(served.begin("inputs"))
    assert dump(served.resume("inputs", data)) == data
    for bad in (b"", data[:-1], data[:9] + b"?" + data[10:]):
        with pytest.raises(tt.errors.OptionError, match="damaged"):
            served.resume("inputs", bad)


def test_a_session_that_watches_goes_on_in_a_file(tmp_path: Path) -> None:
    """What a server exports `tokenturing stream --state` goes on with, and the other way round."""
    pytest.importorskip("pyopen_wakeword")
    runtime = eager(tt.load("recall-ttm"))
    task = task_of(runtime)
    served = Served("recall", runtime, media_of(runtime, task))
    generator = np.random.default_rng(0)
    steps = [
        {"frame": array(generator.random((32, 32), np.float32)), "sound": array(np.zeros(SAMPLES, np.float32))} for _ in range(6)
    ]
    session = served.begin("media")
    for step in steps[:3]:
        served.step([session], [step])
    from tokenturing.serve.files import from_file, to_file
    from tokenturing.serve.watched import WATCHES

    file = tmp_path / "session"
    file.write_bytes(to_file(session, served, 3))
    kept = KeptSession(file, task.session(runtime, WATCHES))
    assert kept.steps == 3
    again, kind, count = from_file(file.read_bytes(), served)
    assert (kind, count) == ("media", 3)
    for step in steps[3:]:
        (there,) = served.step([session], [step])
        (here,) = served.step([again], [step])
        assert here == there
    assert [reply.query for reply in again.ask(task.session(runtime, WATCHES).questions[:2])] == ["seen 1 last", "seen 2 last"]
    kept.save()
    assert from_file(file.read_bytes(), served)[2] == 3


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"frame": [[0.0]]}, r"shape \[1, 1\]"),
        ({"picture": [[0.0]]}, "got picture"),
        ({"frame": array(np.full((32, 32), 2, np.float32))}, "expected 0 to 1"),
        ({"sound": array(np.full(SAMPLES, -1.5, np.float32))}, "expected -1 to 1"),
    ],
)
def test_media_that_do_not_fit(bad: dict, match: str) -> None:
    pytest.importorskip("pyopen_wakeword")
    runtime = eager(tt.load("recall-ttm"))
    served = Served("recall", runtime, media_of(runtime, task_of(runtime)))
    (outcome,) = served.step([served.begin("media")], [bad])
    assert outcome.error is not None
    assert re.search(match, str(outcome.error))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("nothing-of-that-name",), "nothing-of-that-name"),
        (("a={}", "a={}"), "two models are called 'a'"),
        (("a={}", "--durability", "never"), "expected step, or interval"),
        (("a={}", "--token-file", "none"), "cannot be read"),
        (("a={}", "--store", "files:x"), "expected sqlite:PATH"),
        (("a={}", "--host", "203.0.113.1"), "cannot be used"),
        (("a={}", "--batch", "0"), "--batch 0: expected"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: tuple[str, ...],
    match: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from tokenturing.cli.main import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["serve", *(part.format(folder) for part in arguments), "--port", "0", "--exact"])
    said = capsys.readouterr().err
    assert match in said
    assert len(said.splitlines()) == 1


def test_tokens_are_kept_from_others(tmp_path: Path) -> None:
    from tokenturing.cli.serve import read_tokens

    file = tmp_path / "tokens"
    file.write_text("# of tests\n\nlong-enough-for-a-token\n")
    file.chmod(0o644)
    with pytest.raises(tt.errors.OptionError, match="chmod 600"):
        read_tokens(file)
    file.chmod(0o600)
    assert read_tokens(file) == ["long-enough-for-a-token"]
    file.write_text("short\n")
    with pytest.raises(tt.errors.OptionError, match="16 characters"):
        read_tokens(file)


def test_sessions_that_fork_onto_each_other_do_not_wait_for_ever(folder: Path, tmp_path: Path) -> None:
    async def play() -> list[say.Message]:
        limits = Limits()
        engine = Engine(
            {"m": Served("m", eager(tt.load(folder)))}, open_store(f"sqlite:{tmp_path / 's.db'}", limits.window), limits
        )
        await engine.start()
        names, secret, listeners = ("one-session", "other-session"), "a secret that both have", [Listening([]), Listening([])]
        for name, listener in zip(names, listeners, strict=True):
            await engine.open(say.Open(0, session=name, secret=secret), listener)
        seats = [engine.seats[name] for name in names]
        for here, there, listener in zip(seats, reversed(names), listeners, strict=True):
            engine.submit(here, Job(say.Fork(1, here.record.session, there, secret), listener))
        engine.submit(seats[0], Job(say.Fork(2, names[0], names[0], secret), listeners[0]))
        while any(seat.busy or seat.queue for seat in seats):
            await asyncio.sleep(0.01)
        await engine.stop()
        return [message for listener in listeners for _, message in listener.heard]

    heard = asyncio.run(asyncio.wait_for(play(), 60))
    assert any(isinstance(message, say.Opened) for message in heard)
    assert any(isinstance(message, say.Error) and message.code in ("exists", "moved") for message in heard)
