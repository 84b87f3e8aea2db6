"""Who may come in, and what those are told who may not; what the server says of itself and of wrong arguments."""

import json
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serving import Server, serving, small_machine
from starlette.datastructures import Headers
from test_serve import Raw

from tokenturing.errors import OptionError
from tokenturing.serve import messages as say
from tokenturing.serve.app import Access
from tokenturing.serve.limits import Limits
from tokenturing.serve.sqlite import SqliteStore
from tokenturing.serve.store import StoreError, open_store

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("access")
    tokens = folder / "tokens"
    tokens.write_text(TOKEN + "\n")
    tokens.chmod(0o600)
    model = small_machine(folder / "m")
    arguments = (f"m={model}", "--store", f"sqlite:{folder / 's.db'}", "--token-file", str(tokens), "--max-message", "20000")
    with serving(*arguments, log=folder / "log") as one:
        yield one


def status(url: str, method: str = "GET", data: bytes | None = None, **headers: str) -> tuple[int, dict]:
    request = urllib.request.Request(url, data, {name.replace("_", "-"): text for name, text in headers.items()}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize(
    ("sent", "said"), [("", "a token is needed"), ("Bearer no", "is none of this server's"), (TOKEN, "a token is needed")]
)
def test_a_missing_token_and_a_wrong_one(sent: str, said: str) -> None:
    refused = Access([TOKEN]).refusal(Headers({"host": "a", "authorization": sent}))
    assert refused is not None
    assert refused[0] == 401
    assert said in refused[1]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_s_case_does_not_matter(server: Server, scheme: str) -> None:
    assert status(f"{server.url}/v1/models", authorization=f"{scheme} {TOKEN}")[0] == 200
    assert status(f"{server.url}/v1/models", authorization=f"{scheme} {TOKEN.upper()}")[0] == 401, "the control"


def test_names_of_hosts_and_origins_have_no_case() -> None:
    access = Access((), ["https://Example.org"], ["Proxy.example.org"])
    assert access.refusal(Headers({"host": "proxy.EXAMPLE.org", "origin": "https://example.org"})) is None
    assert access.refusal(Headers({"host": "other.example.org"})) is not None
    assert access.refusal(Headers({"host": "proxy.example.org", "origin": "https://other.org"})) is not None


@pytest.mark.parametrize("origin", ["example.org", "https://", "https://example.org/page", ""])
def test_an_origin_that_can_never_match_is_refused(origin: str) -> None:
    with pytest.raises(OptionError, match=r"such as https://example\.org"):
        Access((), [origin])


def test_a_browser_offers_the_token_beside_the_protocol(server: Server) -> None:
    from websockets.sync.client import connect

    address = server.url.replace("http", "ws") + "/v1/connect"
    with connect(address, subprotocols=["tokenturing", f"bearer.{TOKEN}"]) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "tokenturing"


def test_refusals_are_no_faults_of_the_server(server: Server) -> None:
    from websockets.exceptions import InvalidStatus

    for _ in range(3):
        with pytest.raises(InvalidStatus, match="401"):
            Raw(server.url)
    assert status(f"{server.url}/health")[0] == 200
    assert "ERROR" not in server.text()


def test_statuses_are_as_described(server: Server) -> None:
    right = {"authorization": f"Bearer {TOKEN}"}
    raw = Raw(server.url, headers=right)
    (opened,) = raw.send(say.Open(1))
    assert isinstance(opened, say.Opened)
    x = np.zeros((3, 16), np.float32)
    assert isinstance(raw.step(opened.session, 1, x), say.Stepped)
    (exported,) = raw.send(say.Export(2, opened.session))
    assert isinstance(exported, say.Exported)
    described = status(f"{server.url}/openapi.json")[1]["paths"]["/v1/sessions"]["post"]["responses"]
    came, _ = status(f"{server.url}/v1/sessions", "POST", exported.data, **right)
    assert str(came) in described
    assert came == 201
    assert status(f"{server.url}/v1/sessions", "POST", bytes(30_000), **right)[0] == 413
    raw.socket.close()


def test_who_closes_a_session_is_told_once(server: Server) -> None:
    raw = Raw(server.url, headers={"authorization": f"Bearer {TOKEN}"})
    (opened,) = raw.send(say.Open(1))
    assert isinstance(opened, say.Opened)
    assert raw.send(say.Close(2, opened.session)) == [say.Gone(opened.session, "closed", 2)]
    (other,) = raw.send(say.Open(3))
    assert isinstance(other, say.Opened)
    raw.socket.close()


@pytest.mark.parametrize(
    ("limit", "flag"), [("sessions", "--max-sessions"), ("message_bytes", "--max-message"), ("idle_seconds", "--idle")]
)
def test_limits_name_their_options(limit: str, flag: str) -> None:
    with pytest.raises(OptionError, match=f"{flag} nan: expected a number above 0"):
        Limits(**{limit: float("nan")})  # type: ignore[arg-type]


def test_a_damaged_store_is_refused_at_the_start(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "s.db", 4).close()
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    size = (tmp_path / "s.db").stat().st_size
    with (tmp_path / "s.db").open("r+b") as file:
        file.seek(4096)
        file.write(np.random.default_rng(0).bytes(size - 4096))
    with pytest.raises(StoreError, match="it is damaged: restore a copy"):
        SqliteStore(tmp_path / "s.db", 4)


def test_a_store_that_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="name another place"):
        open_store(f"sqlite:{tmp_path}", 4)
    pytest.importorskip("redis")
    with pytest.raises(StoreError, match=r"--store: .* is it running there"):
        open_store("redis://127.0.0.1:1/0", 4)
