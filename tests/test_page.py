"""The page of the recall task, in a real browser before a real server."""

import os
import re
import signal
import subprocess
import sys
import tomllib
import wave
from collections.abc import Iterator
from itertools import groupby
from math import cos, pi, sin
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser, chromium, until

from tokenturing.checkpoint import load
from tokenturing.cli.serve import load_served, page_of
from tokenturing.evaluate.trace import machine_of, trace_step
from tokenturing.tasks.recall.task import Recall

PAGE = Recall.page
ROOT = Path(__file__).parents[1]
CONNECTED = "document.querySelector('#status').dataset.state === 'open' && document.querySelector('.panel')?.dataset.steps > 3"
THREE = [
    [(0.46 + 0.2 * cos(a), 0.32 + 0.16 * sin(a)) for a in np.linspace(-0.78 * pi, 0.5 * pi, 12)]
    + [(0.46 + 0.22 * cos(a), 0.66 + 0.18 * sin(a)) for a in np.linspace(-0.5 * pi, 0.83 * pi, 12)]
]
ZERO = [[(0.5 + 0.2 * sin(a), 0.5 - 0.33 * cos(a)) for a in np.linspace(0, 2 * pi, 24)]]
QUERIES = ("seen 1 last", "seen 2 last", "heard 1 last", "heard 2 last", "heard before # was seen")
SURE = 0.9
"""of what must be answered again, and then with more than half"""

needs_browser = pytest.mark.skipif(chromium() is None, reason="there is no Chromium here: on Debian, apt install chromium")


class Server:
    """`tokenturing serve` as a process that can be killed and started again at the same place."""

    def __init__(self, folder: Path, *options: str):
        self.folder, self.options, self.port = folder, options, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tokenturing", "serve", "recall-ttm", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--store", f"sqlite:{self.folder / 'sessions.db'}", *self.options],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout
        said = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert found, said
        self.address, self.port = found[0], int(found[1])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(15) in (0, -signal.SIGTERM)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path)
    yield one
    one.stop()


def draw(browser: Browser, lines: list[list[tuple[float, float]]]) -> None:
    """Draw a digit, and wait until it was looked at and wiped."""
    browser.draw("#drawing", lines)
    browser.click("#show-now")
    browser.until("document.querySelector('#drawing').dataset.state === 'empty'")


def ask(browser: Browser, query: str) -> list[tuple[str, float]]:
    """The answers of the memories on the page, with their confidence."""
    browser.js("document.querySelector('#answers').replaceChildren()")
    browser.click(f"[data-query='{query}']")
    browser.until("document.querySelector('#answers li')")
    return browser.js(
        "[...document.querySelectorAll('#answers li:first-child div > div')].map((one) =>"
        " [one.querySelector('b').textContent, one.querySelector('meter').value])"
    )


def settled(browser: Browser, sense: str, what: int) -> None:
    """Wait until something is noticed, and what it does to the memory is over."""
    browser.until(f"document.querySelector('.panel.active .noticed .{sense} b').textContent.endsWith(' {what}')")
    steps = browser.js("+document.querySelector('.panel.active').dataset.steps")
    browser.until(f"document.querySelector('.panel.active').dataset.steps > {steps + 8}")


def answers(browser: Browser, sure: float = 0.5) -> list[dict[str, str]]:
    """What each memory on the page answers to which query, where it is as sure as that."""
    browser.js("document.querySelector('#before').value = 0")
    said = [ask(browser, query) for query in QUERIES]
    return [
        {query: answer for query, (answer, confidence) in zip(QUERIES, of_one, strict=True) if confidence > sure}
        for of_one in zip(*said, strict=True)
    ]


def noticed(browser: Browser) -> list[list[str]]:
    """What each memory on the page has seen and heard, the newest last; what was noticed twice at once is one."""
    found = browser.js(
        "[...document.querySelectorAll('.panel')].map((panel) =>"
        " [...panel.querySelectorAll('.noticed b')].map((one) => one.textContent).reverse())"
    )
    return [[what for what, _ in groupby(one)] for one in found]


@needs_browser
def test_a_memory_outlives_the_page_and_the_server(server: Server, tmp_path: Path) -> None:
    """What it answered it answers again, the same to everyone; whether that is right depends on how long each thing lasted,
    which is up to the clock of a browser here."""
    with Browser(tmp_path / "profile") as browser:
        browser.look(1280, 1000)
        browser.open(server.address)
        browser.until(CONNECTED)
        draw(browser, THREE)
        settled(browser, "sees", 3)
        browser.click("#words button:nth-child(6)")
        settled(browser, "hears", 5)
        draw(browser, ZERO)
        settled(browser, "sees", 0)
        (happened,) = noticed(browser)
        assert happened == ["saw 3", "heard 5", "saw 0"]
        held = browser.js("[...document.querySelectorAll('.slots li')].map((one) => one.title)")
        assert {"saw 3", "heard 5", "saw 0"} & {title.split(": ")[1].split(",")[0] for title in held}

        (known,) = answers(browser, SURE)
        digits = {query: answer for query, answer in known.items() if answer.isdigit()}
        assert digits, "it is sure of something that it did not know from the beginning"

        def remembers() -> None:
            assert noticed(browser) == [happened]
            (found,) = answers(browser)
            assert known.items() <= found.items()

        browser.reload()
        browser.until(CONNECTED)
        remembers()

        server.kill()
        browser.until("document.querySelector('#status').textContent.startsWith('Connection lost, trying again')")
        steps = browser.js("+document.querySelector('.panel').dataset.steps")
        server.start()
        if browser.js("document.querySelector('#retry').checkVisibility()"):
            browser.click("#retry")  # it comes back without that too, some seconds later
        browser.until(CONNECTED)
        remembers()
        browser.until(f"document.querySelector('.panel').dataset.steps > {steps + 5}")

        browser.click("[data-part=fork]")
        browser.until("document.querySelectorAll('.panel').length === 2")
        browser.js("document.querySelector('#samples button:nth-child(2)').focus()")
        browser.press("Enter")  # the keyboard's way to show a digit
        settled(browser, "sees", 1)
        assert noticed(browser) == [[*happened, "saw 1"], happened]
        (went_on, _), (_, fork) = answers(browser, SURE), answers(browser)
        assert known.items() <= fork.items(), "the copy knows what it knew"
        browser.reload()
        browser.until(f"{CONNECTED} && document.querySelectorAll('.panel').length === 2")
        for before, after in zip((went_on, known), answers(browser), strict=True):
            assert before.items() <= after.items()

        browser.js("confirm = () => true; null")
        browser.click("#forget")
        browser.until(f"document.querySelectorAll('.panel').length === 1 && {CONNECTED}")
        (empty,) = answers(browser)
        assert not digits.items() & empty.items(), "the control: a memory that has seen nothing"
        assert browser.errors == []


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """A seven with silence around it, for a microphone that is none."""
    path = tmp_path / "spoken.wav"
    with wave.open(str(PAGE / "sounds" / "7.wav")) as file:
        word = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.pad(word, (8000, 24000)).tobytes())
    return path


@needs_browser
def test_token_camera_and_microphone(tmp_path: Path, spoken: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-the-test\n")
    tokens.chmod(0o600)
    server = Server(tmp_path, "--token-file", str(tokens))
    fake = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={spoken}")
    try:
        with Browser(tmp_path / "profile", *fake) as browser:
            browser.open(server.address)
            give_token(browser)
            use_microphone(browser)
            use_camera(browser)
            for error, what, text in (
                ("NotFoundError", "camera", "There is no camera."),
                ("NotAllowedError", "microphone", "The microphone is not allowed here"),
            ):
                browser.js(f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', '{error}') }}; null")
                browser.click(f"#{what}")
                browser.until(f"document.querySelector('#{what}-problem').textContent.startsWith('{text}')")
            assert browser.errors == []
    finally:
        server.stop()


def give_token(browser: Browser) -> None:
    for token, then in (("another-token-of-it", "#token-note:not(:empty)"), ("a-token-of-the-test", ".panel")):
        browser.until("document.querySelector('#status').dataset.state === 'token'")
        browser.js(f"document.querySelector('#token-text').value = '{token}'")
        browser.click("#token button")
        browser.until(f"document.querySelector('{then}')")
    browser.until(CONNECTED)
    assert not browser.js("document.querySelector('#token').checkVisibility()")


def use_microphone(browser: Browser) -> None:
    browser.click("#microphone")
    settled(browser, "hears", 7)
    browser.click("#microphone")
    browser.until("document.querySelector('#microphone').textContent.startsWith('Use')")


def use_camera(browser: Browser) -> None:
    """The one that is none shows something bright on a dark ground."""
    brightest = (
        "Math.max(...document.querySelector('[data-part=frame]').getContext('2d').getImageData(0, 0, 32, 32).data"
        ".filter((_, at) => at % 4 === 0))"
    )
    assert browser.js(brightest) < 100
    browser.click("#camera")
    browser.until("document.querySelector('#camera').getAttribute('aria-pressed') === 'true'")
    browser.click("#dark")
    browser.until(f"{brightest} > 200")
    browser.click("#camera")
    browser.until(f"document.querySelector('#camera').getAttribute('aria-pressed') === 'false' && {brightest} < 100")


def test_steps_tell_what_they_did_to_the_memory() -> None:
    served = load_served("recall", "recall-ttm")
    stream = served.begin("media")
    frame = np.zeros((32, 32), np.float32)
    ages = []
    for _ in range(12):
        (outcome,) = served.step([stream], [{"frame": frame.tolist()}])
        parts = (outcome.outputs[name] for name in ("written", "read", "age"))
        written, read, age = (np.frombuffer(part.data, part.dtype) for part in parts)
        assert len(written) == len(read) == len(age) == 20
        assert ((written >= 0) & (written <= 1) & (read >= 0) & (read <= 1)).all()
        assert ((written >= 0.5) == (age == 0)).all()
        ages.append(age)
    assert (ages[-1] == ages[-2] + 1).all(), "nothing is written while nothing happens"
    assert page_of({"recall": served}) == PAGE


def test_what_is_watched_is_what_a_step_does() -> None:
    torch.manual_seed(0)
    memory = machine_of(load("recall-ttm").eval().memory)
    x, mask, state = torch.randn(1, 3, memory.width), torch.ones(1, 3, dtype=torch.bool), memory.initial_state(1)
    with torch.no_grad():
        for _ in range(4):
            y, after, watched = memory.step_and_watch(x, state, mask)
            plain, following = memory.step(x, state, token_mask=mask)
            assert all(torch.equal(one, other) for one, other in zip((y, *after), (plain, *following), strict=True))
            trace = trace_step(memory, x, state, mask)[2]
            np.testing.assert_allclose(watched["written"][0], trace.gate, atol=1e-6)
            np.testing.assert_allclose(watched["read"][0], trace.read[:, : memory.memory_tokens].max(0), atol=1e-6)
            state = after


def test_the_page_is_whole_and_needs_nothing_from_elsewhere() -> None:
    files = [path for path in PAGE.rglob("*") if path.is_file()]
    assert {f"sounds/{digit}.wav" for digit in range(10)} <= {path.relative_to(PAGE).as_posix() for path in files}
    assert sum(path.stat().st_size for path in files) < 400_000
    for path in files:
        if path.suffix in (".js", ".css", ".html"):
            addresses = re.findall(r"https?://[^'\"\s)]+", path.read_text(encoding="utf-8"))
            assert set(addresses) <= {"http://www.w3.org/2000/svg"}, path
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["tokenturing"]
    packed = {path for pattern in patterns for path in PAGE.parents[2].glob(pattern)}
    assert set(files) <= packed


def test_until_gives_up() -> None:
    with pytest.raises(AssertionError, match="for what never comes"):
        until(lambda: False, "what never comes", 0.1)
