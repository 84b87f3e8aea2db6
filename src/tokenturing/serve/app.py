"""The server as an ASGI application: the WebSocket of sessions, and HTTP for people and programs that look after it."""

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

import tokenturing
from tokenturing.errors import OptionError, TokenTuringError
from tokenturing.serve import messages as say
from tokenturing.serve.connection import Connection
from tokenturing.serve.engine import Engine
from tokenturing.serve.messages import ProtocolError
from tokenturing.serve.replies import error_message
from tokenturing.serve.store import StoreError

BEARER = "bearer."
"""begins the subprotocol in which a browser, which can set no headers, sends its token"""
SUBPROTOCOL = "tokenturing"
STATUS = {
    "unknown_session": 404,
    "unknown_model": 404,
    "wrong_secret": 403,
    "too_big": 413,
    "other_model": 409,
    "exists": 409,
    "full": 429,
    "too_fast": 429,
    "store": 503,
    "draining": 503,
    "internal": 500,
}
CREATED = 201
PAGE_OF_SESSIONS = 100
POLICY, TRY_LATER = 1008, 1013


class Access:
    """Who may come in.

    Args:
        tokens: one of them has to be sent; none: everyone who can reach the server is let in.
        origins: of pages that may connect, besides those that the server itself serves.
        hosts: names under which the server is called; None: any. On a computer of one's own that keeps pages elsewhere, whose
            name was made to point here, from reading what it says.
    """

    def __init__(self, tokens: Sequence[str] = (), origins: Sequence[str] = (), hosts: Sequence[str] | None = None):
        for origin in origins:
            parts = urlsplit(origin)
            if not parts.scheme or not parts.netloc or parts.path.strip("/") or parts.query:
                raise OptionError(f"--origin {origin}: expected scheme and host of a page's address, such as https://example.org")
        self.tokens = [token.encode() for token in tokens]
        self.origins = {origin.rstrip("/").lower() for origin in origins}
        self.hosts = None if hosts is None else [host.lower() for host in hosts]

    def refusal(self, headers: Headers, *, token: bool = True) -> tuple[int, str] | None:
        """Why a request is refused, with an HTTP status; None: it is not."""
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if self.hosts is not None and name not in self.hosts:
            return 421, f"this server is not called {name[:100]!r}: expected {', '.join(self.hosts)}; see --allow-host"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in self.origins and urlsplit(origin).netloc.lower() != host.lower():
            return 403, f"pages of {origin[:100]} may not connect: see --origin"
        sent = _token(headers)
        if token and self.tokens and not any([hmac.compare_digest(sent, one) for one in self.tokens]):
            what = "the token that was sent is none of this server's" if sent else "a token is needed"
            return 401, f"{what}: send it as 'Authorization: Bearer TOKEN'"
        return None


def _token(headers: Headers) -> bytes:
    """What a request was sent with; empty: nothing."""
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        sent = ""
    for part in headers.get("sec-websocket-protocol", "").split(","):
        if part.strip().startswith(BEARER):
            sent = part.strip().removeprefix(BEARER)
    return sent.strip().encode()


def app(engine: Engine, access: Access | None = None, page: Path | None = None) -> Starlette:
    """The application.

    Args:
        engine: begins to work when the application does, and ends with it.
        access: who may come in.
        page: a folder with index.html that is served at /.
    """
    here = Http(engine, access or Access())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await engine.start()
        try:
            yield
        finally:
            await engine.stop()

    routes: list[BaseRoute] = [WebSocketRoute("/v1/connect", here.connect)]
    routes += [Route(path, here.guarded(*handlers), methods=list(handlers[0])) for path, handlers in here.table().items()]
    if page is not None:
        routes.append(Mount("/", _Page(directory=page, html=True)))
    return Starlette(routes=routes, lifespan=lifespan)


class _Page(StaticFiles):
    """Files that a browser asks for anew each time: after an upgrade, old parts would meet new ones."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


Handler = Callable[[Request], Awaitable[Response]]


class Http:
    """The handlers."""

    def __init__(self, engine: Engine, access: Access):
        self.engine, self.access = engine, access
        self._connected = 0

    def table(self) -> dict[str, tuple[Mapping[str, tuple[Handler, str]], bool]]:
        """For each path its handlers by method, with what they do, and whether a token is needed."""
        return {
            "/health": ({"GET": (self.health, "whether the process lives")}, False),
            "/ready": ({"GET": (self.ready, "whether it takes inputs and reaches its store")}, False),
            "/schema.json": ({"GET": (self.schema, "JSON schema of the messages of /v1/connect")}, False),
            "/openapi.json": ({"GET": (self.openapi, "this description")}, False),
            "/metrics": ({"GET": (self.metrics, "counts for Prometheus")}, True),
            "/v1/models": ({"GET": (self.models, "what is served")}, True),
            "/v1/sessions": (
                {
                    "GET": (self.sessions, "sessions by id, 100 at a time: ?after=ID; needs a token where there are tokens"),
                    "POST": (self.take_in, "begin a session with a file that was exported: ?model=NAME"),
                },
                True,
            ),
            "/v1/sessions/{session}": (
                {
                    "GET": (self.inspect, "age, steps and size; the session's secret in X-Session-Secret"),
                    "DELETE": (self.delete, "end a session for good; its secret in X-Session-Secret"),
                },
                True,
            ),
            "/v1/sessions/{session}/file": ({"GET": (self.file, "the session as a file; its secret in X-Session-Secret")}, True),
            "/v1/sessions/{session}/ask": (
                {"POST": (self.ask, 'answers to {"queries": [...]}, as of the last input; its secret in X-Session-Secret')},
                True,
            ),
        }

    def guarded(self, handlers: Mapping[str, tuple[Handler, str]], token: bool) -> Handler:
        """With the checks that come before each, and errors as their messages."""

        async def handle(request: Request) -> Response:
            if refused := self.access.refusal(request.headers, token=token):
                return JSONResponse({"code": "refused", "message": refused[1]}, refused[0])
            handler = handlers["GET" if request.method == "HEAD" else request.method][0]
            try:
                return await handler(request)
            except (TokenTuringError, StoreError) as error:
                said = error_message(error)
                self.engine.metrics.errors.labels(said.code).inc()
                return _json(said, STATUS.get(said.code, 400))

        return handle

    async def connect(self, socket: WebSocket) -> None:
        if refused := self.access.refusal(socket.headers):
            await socket.send_denial_response(JSONResponse({"code": "refused", "message": refused[1]}, refused[0]))
            return
        if self.engine.draining or self._connected >= self.engine.limits.connections:
            why = f"there are {self._connected} connections: try again later"
            await socket.send_denial_response(JSONResponse({"code": "full", "message": why}, 503))
            return
        offered = socket.scope.get("subprotocols", [])
        await socket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
        self._connected += 1
        self.engine.metrics.connections.set(self._connected)
        try:
            await Connection(self.engine, socket).run()
        finally:
            self._connected -= 1
            self.engine.metrics.connections.set(self._connected)

    async def health(self, _: Request) -> Response:
        return JSONResponse({"alive": True, "version": tokenturing.__version__, "worker": self.engine.worker})

    async def ready(self, _: Request) -> Response:
        if self.engine.draining:
            raise ProtocolError("draining", "the server is about to end", retry=True)
        return JSONResponse({"ready": True, "sessions": await self.engine.stored()})

    async def schema(self, _: Request) -> Response:
        return JSONResponse(say.schema())

    async def openapi(self, _: Request) -> Response:
        paths = {
            path: {
                method.lower(): {
                    "summary": what,
                    "responses": {
                        str(CREATED if handler == self.take_in else 200): {"description": "done"},
                        "default": {"description": "an error"},
                    },
                }
                for method, (handler, what) in handlers.items()
            }
            for path, (handlers, _) in self.table().items()
        }
        about = {
            "title": "tokenturing",
            "version": tokenturing.__version__,
            "description": "Sessions: WebSocket /v1/connect, see /schema.json",
        }
        return JSONResponse({"openapi": "3.1.0", "info": about, "paths": paths})

    async def metrics(self, _: Request) -> Response:
        return Response(self.engine.metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self, _: Request) -> Response:
        return _json([served.about() for served in self.engine.models.values()])

    async def sessions(self, request: Request) -> Response:
        records = await self.engine.listed(request.query_params.get("after", ""), PAGE_OF_SESSIONS)
        return JSONResponse({"sessions": records})

    async def take_in(self, request: Request) -> Response:
        data = await _body(request, self.engine.limits.message_bytes)
        message = say.Import(0, data, request.query_params.get("model", ""))
        record, secret = await self.engine.take_in(message, None)
        return JSONResponse({"session": record.session, "secret": secret, "steps": record.steps}, CREATED)

    async def inspect(self, request: Request) -> Response:
        return JSONResponse(await self.engine.inspect(*_session(request)))

    async def delete(self, request: Request) -> Response:
        session, secret = _session(request)
        await self.engine.lookup(session, secret)
        await self.engine.delete(session)
        return JSONResponse({"session": session, "closed": True})

    async def file(self, request: Request) -> Response:
        session, secret = _session(request)
        data = await self.engine.file(session, secret)
        name = {"Content-Disposition": f'attachment; filename="{session}.safetensors"'}
        return Response(data, media_type="application/octet-stream", headers=name)

    async def ask(self, request: Request) -> Response:
        session, secret = _session(request)
        try:
            queries = msgspec.json.decode(await _body(request, self.engine.limits.message_bytes), type=_Queries).queries
        except msgspec.DecodeError as error:
            raise ProtocolError("bad_message", f'expected {{"queries": [...]}} ({error})') from None
        seq, answers = await self.engine.ask(session, secret, queries)
        return _json({"seq": seq, "answers": answers})


class _Queries(msgspec.Struct):
    queries: list[str | int]


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _session(request: Request) -> tuple[str, str]:
    return request.path_params["session"], request.headers.get("x-session-secret", "")


async def _body(request: Request, largest: int) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > largest:
            raise ProtocolError("too_big", f"the body has more than {largest} bytes: see --max-message")
    return bytes(data)
