"""The gateway as an ASGI application: its routes, its OpenAPI document, and the chat page.

Only what is listed here exists. The page is one file whose script and style are allowed by their hashes and nothing
else is: whatever a model writes, the browser runs none of it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from vita import __version__
from vita.server.errors import ApiError, no_such_route
from vita.server.framing import Framing
from vita.server.gateway.feedback import FeedbackRequest
from vita.server.gateway.gateway import Gateway
from vita.server.gateway.routes import DOORS

PAGE = Path(__file__).parent / "static" / "chat.html"


def gateway_app(gateway: Gateway) -> Starlette:
    """The public application of a service."""
    page, policy = _page(PAGE.read_text(encoding="utf-8"))

    async def home(_: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, **_PAGE_HEADERS})

    async def health(_: Request) -> Response:
        return JSONResponse({"alive": True})

    async def ready(_: Request) -> Response:
        return gateway.ready()

    async def document(_: Request) -> Response:
        return JSONResponse(openapi(gateway.routes.service))

    async def model(request: Request) -> Response:
        return await gateway.model(request, request.path_params["name"])

    routes = [
        *(Route(door.path, _passing(gateway, index), methods=[door.method]) for index, door in enumerate(DOORS)),
        Route("/v1/models", gateway.models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/feedback", gateway.feedback, methods=["POST"]),
        Route("/metrics", gateway.metrics),
        Route("/health", health),
        Route("/ready", ready),
        Route("/openapi.json", document),
        Route("/", home),
    ]
    handlers = {HTTPException: _as_openai_does, Exception: _fault}
    return Starlette(routes=routes, exception_handlers=handlers, middleware=[Middleware(Framing)])


def _passing(gateway: Gateway, index: int) -> Any:
    async def pass_on(request: Request) -> Response:
        return await gateway.pass_on(request, DOORS[index])

    return pass_on


async def _as_openai_does(request: Request, error: Exception) -> Response:
    """A wrong path or method, in the body that clients of OpenAI's API read."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        told = ApiError(405, f"{request.method} is not allowed here", headers=dict(error.headers or {}))
    else:
        told = no_such_route(request.method, request.url.path[:200])
    return JSONResponse(told.body(), told.status, headers=told.headers)


async def _fault(_request: Request, _error: Exception) -> Response:
    """A fault of ours; its trace goes to the service's own log."""
    told = ApiError(500, "The gateway had an error of its own", code="internal_error")
    return JSONResponse(told.body(), 500)


_PAGE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def _page(text: str) -> tuple[str, str]:
    """The page, and the policy that allows just its own script and style."""
    script = " ".join(_hash(one) for one in re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL))
    style = " ".join(_hash(one) for one in re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL))
    policy = f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:"
    return text, f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# -- the OpenAPI document


def openapi(service: str) -> dict[str, Any]:
    """The document of all routes, made from the models that read the requests."""
    parts: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, Any] = {}
    for door in DOORS:
        body = _body(door.request, parts) if door.request else {}
        answer = {"200": {"description": "The answer", "content": _ANYTHING if door.request is None else _STREAMABLE}}
        told = {"summary": _SUMMARIES[door.path], "security": _KEY, **body, "responses": {**answer, **_refusals(body)}}
        paths.setdefault(door.path, {})[door.method.lower()] = told
    name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    paths["/v1/models"] = {"get": _get("List the models that can be asked for.")}
    gone = {"410": _refusal("The model was retired; the body is its tombstone."), "404": _refusal("No such model.")}
    described = _get("Describe a model.", more=gone)
    paths["/v1/models/{id}"] = {"get": {**described, "parameters": [name]}}
    body = _body(FeedbackRequest, parts)
    stored = {"201": {"description": "Stored", "content": _ANYTHING}, **_refusals(body)}
    said = {"summary": "Say what is good or bad about an answer.", "security": _KEY, **body, "responses": stored}
    paths["/v1/feedback"] = {"post": said}
    paths["/metrics"] = {"get": _get("The figures, as Prometheus reads them.", media="text/plain")}
    paths["/health"] = {"get": _open("Whether the gateway is alive.")}
    paths["/ready"] = {"get": _open("Whether requests are answered now.", more={"503": {"description": "Not now"}})}
    paths["/openapi.json"] = {"get": _open("This document.")}
    paths["/"] = {"get": _open("The chat page.", media="text/html")}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Vita: {service}", "version": __version__},
        "paths": paths,
        "components": {"schemas": parts, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


_ANYTHING: Mapping[str, Any] = {"application/json": {"schema": {"type": "object"}}}
_STREAMABLE: Mapping[str, Any] = {**_ANYTHING, "text/event-stream": {"schema": {"type": "string"}}}
_KEY: list[dict[str, list[str]]] = [{"key": []}, {}]
_ERROR: Mapping[str, Any] = {
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
_REFUSALS = {
    "400": "The request is malformed, or holds a field that is unknown or not supported.",
    "401": "The key is missing, unknown, revoked or has run out.",
    "403": "The key may not do that.",
    "404": "There is no such model or request; or the model was retired (`model_retired`, with its replacement).",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not declared as JSON.",
    "429": "The service is full, or the key asks too fast; see Retry-After.",
    "503": "The service is not ready, or about to stop; see Retry-After.",
}
_SUMMARIES = {
    "/v1/chat/completions": "Answer a dialogue.",
    "/v1/completions": "Go on from a text or from token ids.",
    "/v1/embeddings": "Turn texts into vectors.",
    "/tokenize": "Turn a text or a dialogue into token ids.",
    "/detokenize": "Turn token ids into text.",
    "/tokenizer_info": "Describe the tokenizer.",
}


def _body(model: type[BaseModel], parts: dict[str, Any]) -> dict[str, Any]:
    """The request's body as a reference to its schema, which is put among `parts`."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    parts.update(schema.pop("$defs", {}))
    parts[model.__name__] = schema
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


def _refusal(description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": description, "content": content}


def _refusals(body: Mapping[str, Any]) -> dict[str, Any]:
    with_body = ("400", "408", "413", "415")
    return {status: _refusal(text) for status, text in _REFUSALS.items() if body or status not in with_body}


def _get(summary: str, *, media: str = "application/json", more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    refused = {status: _refusal(_REFUSALS[status]) for status in ("401", "403", "503")}
    return {**_open(summary, media=media, more={**refused, **(more or {})}), "security": _KEY}


def _open(summary: str, *, media: str = "application/json", more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": "OK", "content": {media: {}}}, **(more or {})}}
