"""ASGI middleware that every server has: request ids, a response to internal errors, and checks of the framing.

`standard_middleware` gives them in their order, the outermost first.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vita.server.errors import internal
from vita.server.framing import Framing
from vita.server.json_response import error_response

log = logging.getLogger(__name__)
REQUEST_ID = "X-Request-Id"
_VALID_ID = re.compile(r"[\x21-\x7e]{1,128}")


def standard_middleware(
    *,
    accept_client_ids: bool = False,
    on_status: Callable[[int], None] | None = None,
    cors_origins: Sequence[str] = (),
) -> list[Middleware]:
    """Middleware of every server; web pages of `cors_origins` may use it in a browser."""
    request_ids = Middleware(RequestIds, accept_client_ids=accept_client_ids, on_status=on_status)
    cors = _cors(cors_origins)
    return [request_ids, *cors, Middleware(InternalErrors), Middleware(Framing), Middleware(YieldingStreams)]


def _cors(origins: Sequence[str]) -> list[Middleware]:
    """Allow the pages of these origins to send requests without cookies, and to read the headers of the responses."""
    if not origins:
        return []
    cors = Middleware(
        CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST", "DELETE"], allow_headers=["*"],
        expose_headers=[
            REQUEST_ID, "X-Vita-Version", "X-Vita-Digest", "X-Vita-Site", "X-Vita-Idempotency", "X-Vita-Repeat-Of",
            "X-Vita-Model-State", "Retry-After", "Deprecation", "Sunset",
        ],
        max_age=600,
    )  # fmt: skip
    return [cors]


def new_request_id() -> str:
    """Return a new id of a request."""
    return f"req-{uuid.uuid4().hex}"


class RequestIds:
    """Sets the header `X-Request-Id` of every response and `request.state.request_id` of every request."""

    def __init__(
        self, app: ASGIApp, *, accept_client_ids: bool = False, on_status: Callable[[int], None] | None = None
    ) -> None:
        """With `accept_client_ids` a valid id in the request is used; `on_status` receives each response status."""
        self._app, self._accept_client_ids, self._on_status = app, accept_client_ids, on_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_id = Headers(scope=scope).get(REQUEST_ID, "") if self._accept_client_ids else ""
        request_id = client_id if _VALID_ID.fullmatch(client_id) else new_request_id()
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
                if self._on_status is not None:
                    self._on_status(message["status"])
            await send(message)

        await self._app(scope, receive, send_with_id)


class InternalErrors:
    """Logs an unexpected exception with its traceback and responds with status 500 where no response has begun."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except Exception as error:
            if scope["type"] != "http" or started:
                raise
            log.error("request %s failed", scope.get("state", {}).get("request_id", "-"), exc_info=error)
            await error_response(internal())(scope, receive, send)


class YieldingStreams:
    """Yields to the event loop after each part of a streamed response.

    The parts of a stream can be available at once. The server learns in the event loop that a client has closed its
    connection: without a yield, all of these parts would be written to the closed connection. Other requests continue
    in the meantime.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_yield(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body" and message.get("more_body"):
                await asyncio.sleep(0)

        await self._app(scope, receive, send_and_yield)
