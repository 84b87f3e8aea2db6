"""What is served over HTTP, and its description."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

import tokenturing

Handler = Callable[[Request], Awaitable[Response]]
REFUSED = (403, 421)
"""statuses of pages from elsewhere, on every path"""
SECRET = "X-Session-Secret"


class Endpoint(NamedTuple):
    """What one method of one path does."""

    handler: Handler
    what: str
    errors: tuple[int, ...] = ()
    """statuses of errors, besides those that every path may have"""
    status: int = 200
    """where all is well"""
    query: str = ""
    """a parameter in the address"""


class Path(NamedTuple):
    """What there is under one path."""

    methods: Mapping[str, Endpoint]
    token: bool = True
    """whether one is needed, where there are any"""


def describe(paths: Mapping[str, Path]) -> dict[str, Any]:
    """The description in OpenAPI's form."""
    about = {
        "title": "tokenturing",
        "version": tokenturing.__version__,
        "description": "Sessions: WebSocket /v1/connect, see /schema.json",
    }
    described = {
        place: {method.lower(): _operation(place, one, path.token) for method, one in path.methods.items()}
        for place, path in paths.items()
    }
    return {"openapi": "3.1.0", "info": about, "paths": described}


def _operation(place: str, endpoint: Endpoint, token: bool) -> dict[str, Any]:
    statuses = sorted({endpoint.status, *endpoint.errors, *REFUSED, *((401,) if token else ())})
    responses = {str(status): {"description": HTTPStatus(status).phrase} for status in statuses}
    found = {"summary": endpoint.what, "responses": responses | {"default": {"description": "an error"}}}
    parameters = [_parameter("query", endpoint.query)] if endpoint.query else []
    if "{session}" in place:
        parameters += [_parameter("path", "session", required=True), _parameter("header", SECRET, required=True)]
    return found | ({"parameters": parameters} if parameters else {})


def _parameter(where: str, name: str, *, required: bool = False) -> dict[str, Any]:
    return {"in": where, "name": name, "required": required, "schema": {"type": "string"}}
