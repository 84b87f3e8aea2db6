"""Endless sources: pipes, standard input and a network, from real writers and a real server."""

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")

from media_files import film, piped, same

from tokenturing.errors import OptionError
from tokenturing.media import demuxing, steps
from tokenturing.media.clock import STEP_SECONDS
from tokenturing.media.steps import MediaError, open_media

Answer = tuple[bytes, bool]
"""what the server sends to a request, and whether it says how long that is"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of mpegts, which can be joined and cut anywhere."""
    return film(tmp_path_factory.mktemp("films") / "two.ts")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "WAITS", (0.0, 0.05, 0.1))


@contextmanager
def served(answer: Callable[[int, str], Answer | None]) -> Iterator[str]:
    """The address of a server that gives the answer to (number of the request, path); None: an error."""
    count = iter(range(1_000))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answer(next(count), self.path)
            if found is None:
                self.send_error(503)
                return
            content, stated = found
            self.send_response(200)
            if stated:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_named_pipe_gives_what_the_file_gives(recording: Path, tmp_path: Path) -> None:
    expected = list(open_media(recording))
    with piped(tmp_path, recording.read_bytes()) as path, open_media(path) as media:
        assert (media.has_video, media.has_sound, media.duration) == (True, True, None)
        assert same(list(media), expected)
        with pytest.raises(MediaError, match="read only once"):
            iter(media)
    assert not same(expected[1:], expected[:-1]), "the control"


READ = """
import sys
from tokenturing.media.steps import open_media
for step in open_media("-"):
    print(f"{step.time:.2f} {step.frame.sum():.3f} {abs(step.sound).sum():.3f}" if step.frame is not None else "-", flush=True)
"""


def test_standard_input_from_a_pipe_and_from_a_file(recording: Path, tmp_path: Path) -> None:
    expected = [step for step in open_media(recording) if step.frame is not None]
    noise = np.random.default_rng(0).integers(0, 256, (50, 256, 256)).astype(np.uint8)
    slow = film(tmp_path / "index_at_the_end.mp4", frame=noise.__getitem__, size=(256, 256))  # read by going back and forth
    for command, count in (
        (f"cat {recording} | {sys.executable} -c '{READ}'", len(expected)),
        (f"{sys.executable} -c '{READ}' < {slow}", 25),
    ):
        run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        lines = [line for line in run.stdout.splitlines() if line != "-"]
        assert abs(len(lines) - count) <= 1, run.stderr
    run = subprocess.run(
        ["bash", "-c", f"cat {slow} | {sys.executable} -c '{READ}'"], capture_output=True, text=True, check=False
    )
    assert "of mp4, only the fragmented kind" in run.stderr


def test_steps_come_while_the_writer_goes_on(recording: Path, tmp_path: Path) -> None:
    """Not at the end only: what is piped is read as it comes."""
    content, path, seen = recording.read_bytes(), tmp_path / "pipe", threading.Event()
    os.mkfifo(path)
    waited = []

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            pipe.write(content * 4)  # four times the same clock: it jumps back each time
            waited.append(seen.wait(20))

    writer = threading.Thread(target=write)
    writer.start()
    with open_media(path) as media:
        found = [seen.set() if number == 60 else step for number, step in enumerate(media)]
    writer.join()
    assert waited == [True]
    assert len(found) == pytest.approx(4 * len(list(open_media(recording))), abs=4)


def test_a_clock_that_is_set_anew_makes_no_gap(tmp_path: Path) -> None:
    first, second = film(tmp_path / "a.ts"), film(tmp_path / "b.ts", starts=9_000.0)
    with piped(tmp_path, first.read_bytes() + second.read_bytes() + first.read_bytes()) as path:
        found = list(open_media(path))
    assert len(found) == pytest.approx(3 * len(list(open_media(first))), abs=3)
    assert [step.time for step in found] == [index * STEP_SECONDS for index in range(len(found))]
    loud = [step.sound is not None and np.abs(step.sound).max() > 0.2 for step in found]
    assert sum(loud) >= 70, "sound goes on through both seams"
    (tmp_path / "joined.ts").write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(MediaError, match="timestamps jump"):  # the control: a file is no endless source
        list(open_media(tmp_path / "joined.ts"))


def test_a_file_behind_an_address(recording: Path, tmp_path: Path) -> None:
    mp4 = film(tmp_path / "film.mp4")
    content = {"/two.ts": recording.read_bytes(), "/film.mp4": mp4.read_bytes()}
    with served(lambda _, path: (content[path], True)) as address:
        for path, local in (("/two.ts", recording), ("/film.mp4", mp4)):
            with open_media(address + path) as media:
                assert media.duration
                assert same(list(media), list(open_media(local)))


@pytest.mark.parametrize("stated", [True, False])
def test_an_mp4_with_its_index_at_the_end_is_to_be_fetched_whole(stated: bool, tmp_path: Path) -> None:
    content = film(tmp_path / "film.mp4", 20.0).read_bytes()
    assert content.index(b"mdat") < content.index(b"moov")
    with (
        served(lambda number, path: (content, stated)) as address,
        open_media(f"{address}/film.mp4", reconnect=0) as media,
        pytest.raises(MediaError, match=r"breaks off at 0\.00 s.*fetch the whole file.*fast start"),
    ):
        list(media)
    assert len(list(open_media(tmp_path / "film.mp4"))) > 200, "the control"


def test_an_endless_stream_is_reached_again(recording: Path) -> None:
    content = recording.read_bytes()
    with (
        served(lambda number, _: None if number in (1, 3) else (content, False) if number < 5 else None) as address,
        warnings.catch_warnings(record=True) as said,
        open_media(f"{address}/live", reconnect=0.8) as media,
    ):
        warnings.simplefilter("always")
        assert media.duration is None
        found = list(media)
    assert [step.time for step in found] == [index * STEP_SECONDS for index in range(len(found))]
    watched = [step for step in found if step.frame is not None]
    assert len(watched) == pytest.approx(3 * len(list(open_media(recording))), abs=3)
    messages = [str(warning.message) for warning in said]
    assert sum("trying again" in message for message in messages) == 3
    assert "is over at" in messages[-1]
    assert "not reached again within 0.8 s" in messages[-1]


def test_what_was_missed_passes_without_pictures_and_sound(recording: Path) -> None:
    content = recording.read_bytes()
    with (
        served(lambda number, _: None if 0 < number < 8 else (content, False) if number < 9 else None) as address,
        warnings.catch_warnings(action="ignore"),
    ):
        found = list(open_media(f"{address}/live", reconnect=1.5))
    away = [index for index, step in enumerate(found) if step.frame is None and step.sound is None]
    assert len(away) >= 5, "0.4 s and more were spent on trying"
    assert away == list(range(away[0], away[-1] + 1))
    assert 20 < away[0] < 30


def test_it_is_not_tried_again_where_that_is_not_wanted(recording: Path) -> None:
    asked = []

    def answer(number: int, _: str) -> Answer:
        asked.append(number)
        return recording.read_bytes(), False

    with served(answer) as address, pytest.warns(UserWarning, match="is over at"):
        found = list(open_media(f"{address}/live", reconnect=0))
    assert len(found) == len(list(open_media(recording)))
    assert asked == [0]
    for wrong in (-1, 1e9, float("nan")):
        with pytest.raises(OptionError, match="reconnect"):
            open_media("-", reconnect=wrong)


def test_addresses_that_are_refused(recording: Path, tmp_path: Path) -> None:
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{recording}\n".encode()
    with served(lambda _, path: (playlist, True)) as address:
        with pytest.raises(MediaError, match="is a playlist"):
            open_media(f"{address}/live.m3u8")
        with pytest.raises(MediaError, match="cannot open"):
            open_media(f"{address}/in-disguise")
    with pytest.raises(MediaError, match=r"cannot open http://127\.0\.0\.1:9/"):
        open_media("http://127.0.0.1:9/nobody-listens")
    for wrong in ("ftp://host/a.mp4", "file:///etc/passwd", "http://", "concat://a", "udp://0.0.0.0:1", "rtsp://"):
        with pytest.raises(MediaError, match=r"expected a media file.*http://"):
            open_media(wrong)
    with pytest.raises(MediaError, match="no address"):
        open_media("http://host:port/")
    with pytest.raises(MediaError) as refused:
        open_media("ftp://user:secret@host/a")
    assert "secret" not in str(refused.value)


def test_a_track_that_falls_silent_does_not_hold_up_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path / "a.ts", 4.0, sound_seconds=1.0)
    monkeypatch.setattr(demuxing, "STALLED_SECONDS", -1.0)  # as if each packet had been waited for
    with piped(tmp_path, path.read_bytes()) as pipe, warnings.catch_warnings(action="ignore"):
        found = list(open_media(pipe))
    assert len(found) == pytest.approx(50, abs=2)
    assert all(step.frame is not None for step in found[1:49])
    assert found[30].sound is not None
    assert not found[30].sound.any()


def test_what_waits_for_a_track_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, most = film(tmp_path / "a.ts", 4.0, sound_seconds=0.4), 20
    monkeypatch.setattr(demuxing, "MOST_PACKETS", most)
    waiting = []
    append = demuxing.Shared._read

    def watched(self: Any) -> None:
        append(self)
        waiting.append(max(len(queue) for queue in self._waiting.values()))

    monkeypatch.setattr(demuxing.Shared, "_read", watched)
    with piped(tmp_path, path.read_bytes()) as pipe, pytest.warns(UserWarning, match="behind the other track"):
        found = list(open_media(pipe))
    assert len(found) == pytest.approx(50, abs=2)
    assert max(waiting) == most
    monkeypatch.undo()
    monkeypatch.setattr(demuxing.Shared, "_read", watched)
    waiting.clear()
    os.remove(tmp_path / "pipe")
    with piped(tmp_path, path.read_bytes()) as pipe:
        list(open_media(pipe))
    assert max(waiting) > most, "the control: the rest of the pictures waits for sound that never comes"
