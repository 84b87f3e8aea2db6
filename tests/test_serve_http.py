"""Who may come in, what strangers are told, and that the description of the HTTP paths is what the server does."""

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Raw, Server, http, inputs, serving, small_engine, small_machine
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tokenturing.client import connect
from tokenturing.errors import OptionError
from tokenturing.serve.access import Access, wrong_protocols
from tokenturing.serve.app import app

TOKEN, OTHER = "a-token-of-some-length", "a-token-of-another-server"
LARGEST = 2**16
SESSIONS = 4
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_machine(tmp_path_factory.mktemp("http") / "machine")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    tokens = folder.parent / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tokens.chmod(0o600)
    options = ["--exact", "--store", f"sqlite:{folder.parent / 's.db'}", "--token-file", str(tokens)]
    options += ["--origin", "HTTPS://Pages.Example", "--allow-host", "Example.ORG", "--allow-host", "127.0.0.1"]
    options += ["--max-message", str(LARGEST), "--max-sessions", str(SESSIONS)]
    with serving(f"m={folder}", *options, log=folder.parent / "log") as one:
        yield one


def refused(server: Server, **options: Any) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as caught:
        Raw(server.url, **options)
    response = caught.value.response
    assert TOKEN not in str(response.headers)
    return response.status_code, json.loads(response.body)["message"]


@pytest.mark.parametrize(
    ("options", "status", "match"),
    [
        ({}, 401, "a token is needed"),
        ({"headers": {"Authorization": "Basic YTpi"}}, 401, "a token is needed"),
        ({"headers": {"Authorization": f"Bearer {OTHER}"}}, 401, "the token that came is none"),
        ({"subprotocols": ["tokenturing", f"bearer.{OTHER}"]}, 401, "the token that came is none"),
        ({"subprotocols": [f"bearer.{TOKEN}"]}, 400, 'new WebSocket(url, ["tokenturing", "bearer." + token])'),
        ({"headers": BEARER, "subprotocols": ["chat"]}, 400, 'offer "tokenturing" as well'),
        ({"headers": BEARER | {"Origin": "https://pages.example:8443"}}, 403, "see --origin"),
        ({"headers": BEARER | {"Origin": "http://["}}, 403, "see --origin"),
        ({"headers": BEARER | {"Origin": "null"}}, 403, "see --origin"),
    ],
)
def test_a_handshake_that_is_refused_says_why(server: Server, options: Any, status: int, match: str) -> None:
    """And writes nothing to the log, which any stranger could fill."""
    before = server.text()
    found, message = refused(server, **options)
    assert found == status
    assert match in message
    assert OTHER not in message
    assert server.text() == before


def test_strangers_cannot_fill_the_log(server: Server) -> None:
    before = server.text()
    for request in (
        b"noise\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port), 30) as stranger:
            stranger.sendall(request)
            assert stranger.recv(100).startswith(b"HTTP/1.1 4")
    raw = Raw(server.url, headers=BEARER)
    raw.socket.send(b"\xff", text=True)
    with pytest.raises(ConnectionClosed):
        raw.socket.recv(timeout=30)
    with pytest.raises(InvalidStatus):
        Raw(server.url + "/elsewhere", headers=BEARER)
    assert server.text() == before


def test_a_page_s_server_takes_no_sockets_elsewhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("a page")
    application = app(small_engine(folder, tmp_path / "s.db"), page=tmp_path)
    sent: list[Any] = []

    async def play() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await application({"type": "websocket", "path": "/", "headers": [], "subprotocols": []}, receive, send)

    asyncio.run(play())
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize(
    "options",
    [
        {"headers": BEARER},
        {"headers": {"Authorization": f"bearer  {TOKEN}"}},
        {"subprotocols": ["tokenturing", f"bearer.{TOKEN}"]},
        {"subprotocols": [f"bearer.{TOKEN}", "tokenturing"]},
        {"headers": BEARER | {"Origin": "https://pages.example"}},
        {"headers": BEARER | {"Origin": "HTTPS://PAGES.EXAMPLE:443"}},
    ],
)
def test_who_may_come_in(server: Server, options: Any) -> None:
    raw = Raw(server.url, **options)
    assert raw.socket.subprotocol == ("tokenturing" if "subprotocols" in options else None)
    assert TOKEN not in str(raw.socket.response.headers)
    raw.socket.close()


def test_no_page_behind_a_proxy_is_taken_for_another(server: Server) -> None:
    """The recipe in the docs hands the port on; without it the page is another's, which is the control."""
    text = (Path(__file__).parents[1] / "docs" / "serve.md").read_text(encoding="utf-8")
    assert "proxy_set_header Host $http_host;" in text
    for host, origin, status in (
        ("example.org:8443", "https://example.org:8443", 200),
        ("Example.org", "https://example.org", 200),
        ("example.org:443", "https://example.org", 200),
        ("example.org", "https://example.org:8443", 403),
        ("example.org", "http://example.org:443", 403),
        ("other.example", "https://other.example", 421),
        ("[", "http://[", 421),
    ):
        assert http(server, "GET", "/v1/models", Host=host, Origin=origin, **BEARER)[0] == status, (host, origin)


@pytest.mark.parametrize(
    "text",
    ["example.org", "localhost:3000", "*", "", "https://", "https://*.example.org", "https://example.org/page", "https://a:b"],
)
def test_an_origin_that_nobody_sends_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"--origin .* such as https://"):
        Access(origins=[text])
    Access(origins=["https://example.org", "http://[::1]:8080/", "null"])


@pytest.mark.parametrize("text", ["example.org:80", "https://example.org", "*.example.org", "", "a b"])
def test_a_name_that_nobody_sends_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"--allow-host .* such as example.org"):
        Access(hosts=[text])
    assert Access(hosts=["Example.org", "[::1]", "10.0.0.1"]).hosts == ["example.org", "::1", "10.0.0.1"]


def test_no_subprotocol_is_no_fault() -> None:
    assert wrong_protocols([]) is wrong_protocols(["other", "tokenturing"]) is None


def test_a_token_that_is_none_of_these_is_not_called_missing(server: Server) -> None:
    status, body, headers = http(server, "GET", "/v1/models", Authorization=f"Bearer {OTHER}")
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert b"the token that came is none" in body
    assert http(server, "GET", "/v1/models", Authorization=f"BEARER {TOKEN}")[0] == 200
    assert http(server, "GET", "/v1/models", Authorization=TOKEN)[0] == 401


Seen = set[tuple[str, str, int]]


def not_as_described(document: dict[str, Any], seen: Seen) -> list[str]:
    """What was seen and is not described, and what is described as done and was never seen."""
    described = {
        (path, method.upper(), int(status))
        for path, methods in document["paths"].items()
        for method, about in methods.items()
        for status in about["responses"]
        if status != "default"
    }
    never = {one for one in described if one[2] < 300} - seen
    return sorted(f"{method} {path} {status}" for path, method, status in (seen - described) | never)


def test_the_description_is_what_the_server_does(server: Server) -> None:
    with connect(server.url, token=TOKEN) as client:
        session = client.open()
        session.step(inputs(1)[0])
        kept = session.id, {"X_Session_Secret": session.secret}
    one, file, ask = (f"/v1/sessions/{{session}}{end}" for end in ("", "/file", "/ask"))
    secret, wrong = kept[1], {"X_Session_Secret": "another"}
    data = http(server, "GET", file.replace("{session}", kept[0]), **BEARER, **secret)[1]
    seen: Seen = set()

    def call(path: str, method: str, status: int, body: bytes | None = None, name: str = kept[0], **headers: str) -> bytes:
        """With a token, unless the headers are of another kind."""
        found, content, _ = http(server, method, path.replace("{session}", name), body, **(BEARER | headers))
        assert found == status, (path, method, content)
        seen.add((path.partition("?")[0], method, status))
        return content

    document = json.loads(call("/openapi.json", "GET", 200))
    for path in ("/health", "/ready", "/schema.json", "/metrics", "/v1/models", "/v1/sessions"):
        call(path, "GET", 200)
        call(path, "GET", 403, Origin="https://evil.example")
        call(path, "GET", 421, Host="evil.example")
    for path, method in (("/metrics", "GET"), ("/v1/sessions", "GET"), ("/v1/sessions", "POST"), (one, "DELETE"), (ask, "POST")):
        call(path, method, 401, Authorization="")
    call("/v1/sessions", "POST", 201, data)
    call("/v1/sessions", "POST", 400, b"noise")
    call("/v1/sessions?model=none", "POST", 404, data)
    call("/v1/sessions", "POST", 413, bytes(LARGEST + 1))
    for _ in range(SESSIONS - 2):
        call("/v1/sessions", "POST", 201, data)
    call("/v1/sessions", "POST", 429, data)
    for path, method in ((one, "GET"), (file, "GET"), (ask, "POST"), (one, "DELETE")):
        call(path, method, 403, b'{"queries": []}', **wrong)
        call(path, method, 404, b'{"queries": []}', name="none", **secret)
    for path in (one, file):
        call(path, "GET", 200, **secret)
    call(ask, "POST", 200, b'{"queries": []}', **secret)
    call(ask, "POST", 400, b'{"queries": [0]}', **secret)
    call(ask, "POST", 400, b"noise", **secret)
    call(ask, "POST", 413, bytes(LARGEST + 1), **secret)
    call(one, "DELETE", 200, **secret)
    assert not_as_described(document, seen) == []
    responses = document["paths"]["/v1/sessions"]["post"]["responses"]
    responses["200"] = responses.pop("201")
    assert not_as_described(document, seen) == ["POST /v1/sessions 200", "POST /v1/sessions 201"], "the control"
    for path, methods in document["paths"].items():
        for about in methods.values():
            named = [part["name"] for part in about.get("parameters", ()) if part["in"] == "path"]
            assert named == (["session"] if "{session}" in path else [])
