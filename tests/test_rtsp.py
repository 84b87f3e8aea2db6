"""A camera on the network: RTSP from a real server, which sends a recording as RTP packets within the connection."""

import re
import socket
import socketserver
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("av")

from media_files import film

from tokenturing.media import steps
from tokenturing.media.clock import STEP_SECONDS
from tokenturing.media.steps import MediaError, open_media

PACKET = 7 * 188
"""bytes of mpegts in one RTP packet"""
DESCRIPTION = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"


@contextmanager
def camera(content: bytes, knows: bool = True) -> Iterator[tuple[str, list[str]]]:
    """The address of an RTSP server that plays this mpegts to whoever asks, and what it was asked."""
    asked: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):
                while request := self.request_text():
                    self.answer(request)

        def request_text(self) -> str:
            lines = []
            while (line := self.rfile.readline().decode()).strip():
                lines.append(line)
            return "".join(lines)

        def answer(self, request: str) -> None:
            asked.append(request)
            number = re.search(r"CSeq: *(\d+)", request)
            assert number
            method, body, more = request.split()[0], "", ""
            if method == "DESCRIBE" and knows:
                body, more = DESCRIPTION, "Content-Type: application/sdp\r\n"
            elif method == "SETUP":
                more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            status = "200 OK" if knows or method == "OPTIONS" else "404 Not Found"
            head = f"RTSP/1.0 {status}\r\nCSeq: {number[1]}\r\nSession: 1\r\nPublic: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n{more}"
            self.wfile.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            if method == "PLAY":
                for index, start in enumerate(range(0, len(content), PACKET)):
                    part = struct.pack(">BBHII", 0x80, 33, index, index * 3600, 1) + content[start : start + PACKET]
                    self.wfile.write(struct.pack(">cBH", b"$", 0, len(part)) + part)
                self.connection.shutdown(socket.SHUT_RDWR)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"rtsp://127.0.0.1:{server.server_address[1]}/live", asked
        finally:
            server.shutdown()
            thread.join()


def test_what_a_camera_sends_is_what_the_recording_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "WAITS", (0.0, 0.05, 0.1))
    recording = film(tmp_path / "two.ts")
    expected = list(open_media(recording))
    with (
        camera(recording.read_bytes()) as (address, asked),
        warnings.catch_warnings(action="ignore"),
        open_media(address, reconnect=0) as media,
    ):
        assert (media.has_video, media.has_sound, media.duration) == (True, True, None)
        found = list(media)
    assert [step.time for step in found] == [index * STEP_SECONDS for index in range(len(found))]
    assert len(found) == pytest.approx(len(expected), abs=2)
    brightness = [step.frame.mean() for step in found if step.frame is not None]
    assert brightness[-1] - brightness[0] > 0.1, "the film grows brighter"
    assert any("interleaved" in request for request in asked), "within the connection: no port is opened"


def test_a_camera_that_knows_no_such_stream(tmp_path: Path) -> None:
    with camera(b"", knows=False) as (address, _), pytest.raises(MediaError, match="cannot open rtsp://127"):
        open_media(address, reconnect=0)
