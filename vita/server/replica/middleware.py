"""What surrounds the routes: an id on every answer, errors in OpenAI's form, and the OpenAPI document."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage

from vita.server import api
from vita.server.errors import ApiError, internal, no_such_route
from vita.server.replica.metrics import Metrics
from vita.server.replica.request_events import ClientLeft

log = logging.getLogger(__name__)
_PLAIN_ID = re.compile(r"[\x21-\x7e]{1,128}")

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
"""The schema of every refusal."""


class RequestIds:
    """Gives every answer an `x-request-id`: the one that was sent along, or a new one; and counts the answers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if _PLAIN_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = name

        async def named(message: AsgiMessage) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = name
                self.metrics.add("http_requests", label=str(message["status"]))
            await send(message)

        await self.app(scope, receive, named)


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A body of JSON."""
    return Response(orjson.dumps(value), status, headers=headers, media_type="application/json")


def answer_errors(app: FastAPI) -> None:
    """Every fault and refusal in OpenAI's form."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        if error.status >= 500 and error.status != 503:
            log.error("request %s: %s", getattr(request.state, "request_id", "-"), error)
        return json_response(error.body(), status=error.status, headers=error.headers)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return await refused(request, no_such_route(request.method, request.url.path))
        headers = dict(error.headers or {})
        return await refused(request, ApiError(error.status_code, str(error.detail), headers=headers))

    async def left(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def fault(request: Request, error: Exception) -> Response:
        log.error("request %s failed", getattr(request.state, "request_id", "-"), exc_info=error)
        return json_response(internal().body(), status=500)

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientLeft, left)
    app.add_exception_handler(ClientDisconnect, left)
    app.add_exception_handler(Exception, fault)


def describe(app: FastAPI, bodies: dict[str, type[api.Request]]) -> Callable[[], dict[str, Any]]:
    """The OpenAPI document, with the bodies that the routes read by themselves, by path."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            told = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schemas = told.setdefault("components", {}).setdefault("schemas", {})
            schemas["Error"] = ERROR
            for path, model in bodies.items():
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas |= schema.pop("$defs", {})
                schemas[model.__name__] = schema
                content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
                told["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
            error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
            for route in (way for path in told["paths"].values() for way in path.values()):
                route["responses"].pop("422", None)
                route["responses"] |= {"4XX": {"description": "Refused", "content": error}}
                route["responses"] |= {"5XX": {"description": "Failed or not ready", "content": error}}
            app.openapi_schema = told
        return app.openapi_schema

    return document
