"""The interface on which network replicas join a gateway: a separate port with mutual TLS."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vita.server.body import read_body
from vita.server.errors import ApiError, invalid
from vita.server.json_response import error_response, json_response
from vita.server.middleware import standard_middleware
from vita.server.service.network_replicas import NetworkReplicas
from vita.server.sites.credentials import PeerIdentity
from vita.server.sites.join_messages import JOIN_PATH, LEAVE_PATH, JoinRequest, LeaveRequest
from vita.server.sites.peers import RequireRole, peer_of
from vita.spine.config import Settings

MAX_BYTES, MAX_SECONDS = 10_000, 10.0
"""Limits of the body of a message."""
M = TypeVar("M", bound=Settings)


def join_app(network: NetworkReplicas) -> Starlette:
    """Create the application; only clients with the certificate of a replica have access."""

    async def join(request: Request, peer: PeerIdentity) -> dict[str, Any]:
        return await network.join(peer, await _read(request, JoinRequest))

    async def leave(request: Request, _: PeerIdentity) -> dict[str, Any]:
        await network.leave((await _read(request, LeaveRequest)).instance)
        return {}

    routes = [Route(path, _endpoint(work), methods=["POST"]) for path, work in ((JOIN_PATH, join), (LEAVE_PATH, leave))]
    return Starlette(routes=routes, middleware=[*standard_middleware(), Middleware(RequireRole, role="replica")])


def _endpoint(
    work: Callable[[Request, PeerIdentity], Awaitable[dict[str, Any]]],
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        peer = peer_of(request.scope)
        assert peer is not None, "RequireRole refuses clients without an identity"
        try:
            return json_response(await work(request, peer))
        except ApiError as error:
            return error_response(error)

    return answer


async def _read(request: Request, model: type[M]) -> M:
    """Read a message; raises `ApiError` 400 that names the invalid fields without their values, such as the token."""
    data = await read_body(request, max_bytes=MAX_BYTES, max_seconds=MAX_SECONDS)
    try:
        return model.model_validate(json.loads(data))
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, entry["loc"])) for entry in error.errors()}))
        raise invalid(f"Invalid fields: {fields}") from None
    except ValueError:
        raise invalid("The body must be JSON") from None
