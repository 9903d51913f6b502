"""Pages that a command serves on this machine: security headers, accepted host names, and the socket.

app = page_application([Route("/", page)])
with local_socket(8021, where="watch.port") as listener:
    print(f"http://127.0.0.1:{listener.getsockname()[1]}")
    serve_application(app, listener)
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vita.spine.errors import ConfigError

LOCAL_HOSTS = ("127.0.0.1", "localhost", "testserver")


def page_application(
    routes: Sequence[Route],
    *,
    hosts: Sequence[str] = LOCAL_HOSTS,
    exception_handlers: Mapping[Any, Callable[..., Any]] | None = None,
) -> Starlette:
    """Create an application that accepts only these host names, so that no other site can reach it."""
    return Starlette(
        routes=list(routes),
        middleware=[Middleware(PageHeaders), Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
        exception_handlers=dict(exception_handlers or {}),
    )


class PageHeaders:
    """Adds the security headers that every response of a page has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", "default-src 'none'")
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"  # an address may hold a token
                headers["Cache-Control"] = "no-store"
            await send(message)

        await self._app(scope, receive, send_with_headers)


@contextmanager
def local_socket(port: int, *, where: str) -> Iterator[socket.socket]:
    """Yield a socket that is bound to a port of 127.0.0.1; 0 selects a free port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(where, f"{port} cannot be used: {error.strerror}", hint="give another") from None
        yield listener


def serve_application(app: Starlette, listener: socket.socket) -> None:
    """Serve an application until the process is interrupted."""
    import uvicorn

    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])
