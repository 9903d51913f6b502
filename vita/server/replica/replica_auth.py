"""Restricts a replica to the service that started it.

A replica listens on loopback, where any process of the machine could drain it or bypass the API keys of the gateway.
So each replica has a secret, which its callers send in a header. A network replica has secrets that expire.
"""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from vita.server.errors import ApiError
from vita.server.json_response import error_response
from vita.server.replica.rotating_secrets import RotatingSecrets
from vita.server.routes import HEALTH

SECRET_HEADER = "X-Vita-Replica"
"""The header with the secret."""


class ReplicaAuth:
    """Requires the secret of the replica on every route but /health."""

    def __init__(self, app: ASGIApp, secret: str | RotatingSecrets) -> None:
        self.app, self._secret = app, secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != HEALTH.path:
            credential = Headers(scope=scope).get(SECRET_HEADER, "").encode("latin-1")
            if not self._accepts(credential):
                message = f"The header {SECRET_HEADER} does not hold a valid secret of this replica"
                await error_response(ApiError(401, message, code="sealed"))(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _accepts(self, credential: bytes) -> bool:
        if isinstance(self._secret, RotatingSecrets):
            return self._secret.accepts(credential)
        return hmac.compare_digest(credential, self._secret.encode())
