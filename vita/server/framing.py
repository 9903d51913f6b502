"""Refuses requests whose body has two lengths, and ends their connection (RFC 9112, section 6.3).

A request with both `Content-Length` and `Transfer-Encoding` may be read differently by a proxy in front, so that what
follows on the same connection could be taken for a request of somebody else (request smuggling).
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from vita.server.errors import ApiError
from vita.server.json_response import error_response


class Framing:
    """Middleware that answers 400 and closes where the length of a body is ambiguous."""

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
    """What is wrong with the headers that say how long the body is."""
    names = [name.lower() for name, _ in scope["headers"]]
    if b"transfer-encoding" not in names:
        return None
    if b"content-length" in names:
        return "The request has both Content-Length and Transfer-Encoding; send one of them"
    if scope.get("http_version") == "1.0":
        return "Transfer-Encoding is not part of HTTP/1.0; send Content-Length"
    return None
