"""Creates the ASGI application of a server: exactly the given routes, their OpenAPI document, and errors as JSON.

create_application([(HEALTH, health), (MODELS, models)], description=description, middleware=standard_middleware())
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette import routing
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Lifespan

from vita.server.errors import ApiError, ClientLeft, no_such_route
from vita.server.json_response import error_response, json_response
from vita.server.openapi import ApiDescription, openapi_document
from vita.server.routes import OPENAPI, Route

log = logging.getLogger(__name__)
CLIENT_CLOSED_REQUEST = 499
"""The status of a request whose client closed the connection; nobody receives it."""
Endpoint = Callable[[Request], Awaitable[Response]]


def create_application(
    endpoints: Sequence[tuple[Route, Endpoint]],
    *,
    description: ApiDescription,
    middleware: Sequence[Middleware],
    lifespan: Lifespan[Starlette] | None = None,
) -> Starlette:
    """Create an application that serves `endpoints` and `/openapi.json`, which describes them."""
    document = openapi_document([*(route for route, _ in endpoints), OPENAPI], description)

    async def openapi(_: Request) -> Response:
        return json_response(document)

    return Starlette(
        routes=[
            routing.Route(route.path, endpoint, methods=[route.method])
            for route, endpoint in (*endpoints, (OPENAPI, openapi))
        ],
        middleware=middleware,
        exception_handlers=_EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    if error.status >= 500 and error.status != 503:
        log.error("request %s: %s", request.state.request_id, error)
    return error_response(error)


async def _http_exception(request: Request, error: Exception) -> Response:
    """Respond to a wrong path or method in the form that clients of the OpenAI API read."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(no_such_route(request.method, request.url.path[:200]))
    message = f"{request.method} is not allowed here" if error.status_code == 405 else str(error.detail)
    return error_response(ApiError(error.status_code, message, headers=dict(error.headers or {})))


async def _client_left(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


_EXCEPTION_HANDLERS: dict[Any, Any] = {
    ApiError: _api_error,
    HTTPException: _http_exception,
    ClientLeft: _client_left,
    ClientDisconnect: _client_left,
}
