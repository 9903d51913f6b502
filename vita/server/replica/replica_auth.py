"""What closes a replica to everybody but the service that started it.

Replicas listen on loopback, where any process of the machine could drain them, or ask them past the API keys. So each
has a secret, which its callers show in a header.
"""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from vita.server.errors import ApiError

SEAL = "x-vita-replica"
"""The header with the secret."""


class Sealed:
    """Lets in whoever shows the replica's secret; whether it is alive anybody may ask."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self.app, self._secret = app, secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = Headers(scope=scope).get(SEAL, "").encode("latin-1")
            if not hmac.compare_digest(given, self._secret):
                refused = ApiError(401, "This replica answers its own service only", code="sealed")
                await JSONResponse(refused.body(), 401)(scope, receive, send)
                return
        await self.app(scope, receive, send)
