"""Listeners that require a client certificate: the identity of the client, and the check of its role.

protocol = type("Protocol", (PeerProtocol, H11Protocol), {})
app = RequireRole(app, "gateway")
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from vita.server.errors import ApiError
from vita.server.json_response import error_response
from vita.server.sites.credentials import PeerIdentity, Role

PEER = "vita.peer"
"""Name in the state of a request: the `PeerIdentity` of its client."""


class PeerProtocol(H11Protocol):
    """Stores the identity of the client in the state of each request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        peer = PeerIdentity.of(tls.getpeercert()) if tls is not None else None
        self.app_state = {**self.app_state, PEER: peer}


class RequireRole:
    """Rejects clients whose certificate has another role, with 403."""

    def __init__(self, app: ASGIApp, role: Role) -> None:
        self._app, self._role = app, role

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peer = peer_of(scope)
            if peer is None or peer.role != self._role:
                problem = "has no role" if peer is None else f"has the role {peer.role}"
                message = f"A certificate with the role {self._role} is required, but this certificate {problem}"
                await error_response(ApiError(403, message, code="wrong_role"))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def peer_of(scope: Any) -> PeerIdentity | None:
    """Return the identity of the client of a request."""
    return scope.get("state", {}).get(PEER)


def with_tls(config: uvicorn.Config, context: ssl.SSLContext) -> uvicorn.Config:
    """Let a server of uvicorn use these TLS settings."""
    config.load()
    config.ssl = context
    return config
