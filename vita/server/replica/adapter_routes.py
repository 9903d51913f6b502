"""The adapters of a running replica over HTTP: added by digest, removed, and selected by the `model` of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from vita.server import api, routes
from vita.server.body import read_body
from vita.server.errors import invalid, model_not_found
from vita.server.json_response import json_response
from vita.spine.errors import VitaError

if TYPE_CHECKING:
    from vita.infer.adapter_scheduler import AdapterScheduler
    from vita.infer.scheduler import Scheduler
    from vita.server.replica.adapters import Adapters
    from vita.server.replica.request_checks import ServedModel

R = TypeVar("R", bound=api.RequestBody)
DRAIN_SECONDS = 30.0
"""Maximum time for the requests of an adapter that is removed."""


class ModelRoutes(Protocol):
    """The endpoints of one model (`vita.server.replica.app.ReplicaRoutes`)."""

    scheduler: Scheduler | None
    served: ServedModel

    async def read(self, request: Request, model: type[R]) -> R: ...

    def beside(self, scheduler: Scheduler | AdapterScheduler, served: ServedModel) -> Any:
        """Return the endpoints of an adapter."""
        ...


class AdapterRequest(api.RequestBody):
    """The release of an adapter."""

    folder: str
    digest: str
    model: str | None = None


class AdapterName(api.RequestBody):
    """The name of an adapter, as `/v1/models` lists it."""

    name: str


ADD = routes.Route("POST", "/adapters", "Add an adapter of the model.", request=AdapterRequest, errors=(400,))
REMOVE = routes.Route("POST", "/adapters/remove", "Remove an adapter.", request=AdapterName, errors=(404,))


class AdapterRoutes:
    """The adapters of one replica, by name."""

    def __init__(self, replica: ModelRoutes, adapters: Adapters | None) -> None:
        self.replica, self.adapters = replica, adapters
        self.loaded: dict[str, Any] = {}
        self._changing = asyncio.Lock()

    def selected(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that calls the method `name` of the model that a request names."""

        async def answer(request: Request) -> Response:
            if not self.loaded:
                return await getattr(self.replica, name)(request)
            served = self.replica.served
            body = await read_body(request, max_bytes=served.body_bytes, max_seconds=served.body_seconds)
            request._body = body  # `stream` of Starlette yields it again
            target = self.loaded.get(_model_in(body), self.replica)
            return await getattr(target, name)(request)

        return answer

    async def add(self, request: Request) -> Response:
        """POST /adapters"""
        params = await self.replica.read(request, AdapterRequest)
        adapters = self.adapters
        if adapters is None:
            raise invalid("This replica cannot load adapters", "folder")
        async with self._changing:
            try:
                scheduler, served = await asyncio.to_thread(
                    adapters.load, Path(params.folder), digest=params.digest, model=params.model
                )
            except VitaError as error:
                raise invalid(str(error), "folder", code="adapter_refused") from None
            name = served.names[0]
            previous = self.loaded.get(name)
            self.loaded[name] = self.replica.beside(scheduler, served)
            if previous is not None and previous.scheduler is not None:
                await asyncio.to_thread(previous.scheduler.close)
        return json_response({"adapter": name, "digest": served.digest})

    async def remove(self, request: Request) -> Response:
        """POST /adapters/remove"""
        params = await self.replica.read(request, AdapterName)
        removed = self.loaded.pop(params.name, None)
        if removed is None or removed.scheduler is None:
            raise model_not_found(params.name)
        scheduler = removed.scheduler
        scheduler.drain()
        deadline = asyncio.get_running_loop().time() + DRAIN_SECONDS
        while scheduler.in_flight and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(scheduler.close)
        return json_response({"removed": params.name})

    def drain(self) -> None:
        """Refuse new requests to all adapters."""
        for adapter in self.loaded.values():
            if adapter.scheduler is not None:
                adapter.scheduler.drain()

    async def close(self) -> None:
        """Close the schedulers of all adapters."""
        for adapter in self.loaded.values():
            if adapter.scheduler is not None:
                await asyncio.to_thread(adapter.scheduler.close)


def _model_in(body: bytes) -> str:
    """Return the `model` of a request; "" if the body is not valid, which the endpoint reports."""
    try:
        value: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    name = value.get("model") if isinstance(value, dict) else None
    return name if isinstance(name, str) else ""
