"""Refuses requests whose body length is ambiguous, and closes their connection (RFC 9112, section 6.3).

A request with both `Content-Length` and `Transfer-Encoding` may be read differently by a proxy in front, so that the
rest of the connection could be read as a request of another client (request smuggling).
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from vita.server.errors import ApiError
from vita.server.json_response import error_response


class Framing:
    """Middleware that responds with 400 and closes the connection when the body length is ambiguous."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = _problem(scope) if scope["type"] == "http" else None
        if problem is None:
            await self.app(scope, receive, send)
            return
        error = ApiError(400, problem, code="ambiguous_length", headers={"Connection": "close"})
        await error_response(error)(scope, receive, send)


def _problem(scope: Scope) -> str | None:
    """Return the problem with the headers that define the length of the body, or None."""
    names = [name.lower() for name, _ in scope["headers"]]
    if b"transfer-encoding" not in names:
        return None
    if b"content-length" in names:
        return "The request has both Content-Length and Transfer-Encoding; send one of them"
    if scope.get("http_version") == "1.0":
        return "Transfer-Encoding is not part of HTTP/1.0; send Content-Length"
    return None
