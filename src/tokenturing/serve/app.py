"""The server as an ASGI application: the WebSocket of sessions, and HTTP for people and programs that look after it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketClose

import tokenturing
from tokenturing.errors import TokenTuringError
from tokenturing.serve import messages as say
from tokenturing.serve.access import SUBPROTOCOL, Access, Refusal, wrong_protocols
from tokenturing.serve.connection import Connection
from tokenturing.serve.engine import Engine
from tokenturing.serve.messages import ProtocolError
from tokenturing.serve.openapi import SECRET, Endpoint, Handler, describe
from tokenturing.serve.openapi import Path as At
from tokenturing.serve.replies import error_message
from tokenturing.serve.store import StoreError

STATUS = {
    "unknown_session": 404,
    "unknown_model": 404,
    "wrong_secret": 403,
    "other_model": 409,
    "exists": 409,
    "too_large": 413,
    "full": 429,
    "too_fast": 429,
    "store": 503,
    "draining": 503,
    "internal": 500,
}
PAGE_OF_SESSIONS = 100
AWAY = 503
OF_A_SESSION = (403, 404, 409, AWAY)
"""statuses: another secret, no such session, another model, no store"""


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
    routes += [Route(path, here.guarded(at), methods=list(at.methods)) for path, at in here.table().items()]
    if page is not None:
        routes.append(Mount("/", _Page(directory=page, html=True)))
    return Starlette(routes=routes, lifespan=lifespan)


class _Page(StaticFiles):
    """Files that a browser asks for anew each time: after an upgrade, old parts would meet new ones."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # at another path than the one for it
            await WebSocketClose()(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


class Http:
    """The handlers."""

    def __init__(self, engine: Engine, access: Access):
        self.engine, self.access = engine, access
        self._connected = 0

    def table(self) -> dict[str, At]:
        """What there is under each path."""
        session = "; the session's secret in X-Session-Secret"
        return {
            "/health": At({"GET": Endpoint(self.health, "whether the process lives")}, token=False),
            "/ready": At({"GET": Endpoint(self.ready, "whether it takes inputs and reaches its store", (AWAY,))}, token=False),
            "/schema.json": At({"GET": Endpoint(self.schema, "JSON schema of the messages of /v1/connect")}, token=False),
            "/openapi.json": At({"GET": Endpoint(self.openapi, "this description")}, token=False),
            "/metrics": At({"GET": Endpoint(self.metrics, "counts for Prometheus")}),
            "/v1/models": At({"GET": Endpoint(self.models, "what is served")}),
            "/v1/sessions": At(
                {
                    "GET": Endpoint(self.sessions, "sessions by id, 100 at a time: ?after=ID", (AWAY,), query="after"),
                    "POST": Endpoint(
                        self.take_in,
                        "begin a session with a file that was exported: ?model=NAME",
                        (400, 404, 413, 429, AWAY),
                        status=201,
                        query="model",
                    ),
                }
            ),
            "/v1/sessions/{session}": At(
                {
                    "GET": Endpoint(self.inspect, "age, steps and size" + session, OF_A_SESSION),
                    "DELETE": Endpoint(self.delete, "end a session for good" + session, OF_A_SESSION),
                }
            ),
            "/v1/sessions/{session}/file": At({"GET": Endpoint(self.file, "the session as a file" + session, OF_A_SESSION)}),
            "/v1/sessions/{session}/ask": At(
                {
                    "POST": Endpoint(
                        self.ask, 'answers to {"queries": [...]}, as of the last input' + session, (400, *OF_A_SESSION, 413)
                    )
                }
            ),
        }

    def guarded(self, at: At) -> Handler:
        """With the checks that come before each, and errors as their messages."""

        async def handle(request: Request) -> Response:
            if refused := self.access.refusal(request.headers, token=at.token):
                return _refused(refused)
            method = "GET" if request.method == "HEAD" else request.method
            try:
                return await at.methods[method].handler(request)
            except (TokenTuringError, StoreError) as error:
                said = error_message(error)
                self.engine.metrics.errors.labels(said.code).inc()
                return _json(said, STATUS.get(said.code, 400))

        return handle

    async def connect(self, socket: WebSocket) -> None:
        offered = socket.scope.get("subprotocols", [])
        if refused := self.access.refusal(socket.headers) or wrong_protocols(offered):
            await socket.send_denial_response(_refused(refused))
            return
        if self.engine.draining or self._connected >= self.engine.limits.connections:
            why = f"there are {self._connected} connections: try again later"
            await socket.send_denial_response(JSONResponse({"code": "full", "message": why}, AWAY))
            return
        await socket.accept(subprotocol=SUBPROTOCOL if offered else None)
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
        return JSONResponse(describe(self.table()))

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
        return JSONResponse({"session": record.session, "secret": secret, "steps": record.steps}, 201)

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


def _refused(refusal: Refusal) -> Response:
    status, why = refusal
    return JSONResponse({"code": "refused", "message": why}, status, {"WWW-Authenticate": "Bearer"} if status == 401 else None)


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _session(request: Request) -> tuple[str, str]:
    return request.path_params["session"], request.headers.get(SECRET, "")


async def _body(request: Request, largest: int) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > largest:
            raise ProtocolError("too_large", f"the body has more than {largest} bytes: send less, or see --max-message")
    return bytes(data)
