"""A middleware of a replica: a span for each request, in the trace of the gateway."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vita.server.tracing import Attribute, Tracing

UNTRACED = ("/health", "/ready", "/metrics")
"""Probes, which would fill the traces."""


class TracedRequests:
    """Records a span for each request, from its arrival to the last byte of its response."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app, self._tracing = app, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACED or not self._tracing.is_on:
            await self._app(scope, receive, send)
            return
        span = self._tracing.span(f"{scope['method']} {scope['path']}", kind="server", parent=Headers(scope=scope))
        span.set(Attribute.METHOD, scope["method"])
        span.set(Attribute.ROUTE, scope["path"])
        has_body = False

        async def send_traced(message: Message) -> None:
            nonlocal has_body
            if message["type"] == "http.response.start":
                span.set(Attribute.STATUS, message["status"])
                if message["status"] >= 500:
                    span.fail(str(message["status"]))
            elif not has_body and message.get("body"):
                has_body = True
                span.event("first byte")
            await send(message)

        try:
            await self._app(scope, receive, send_traced)
        except BaseException as error:
            span.fail(type(error).__name__)
            raise
        finally:
            span.end()
