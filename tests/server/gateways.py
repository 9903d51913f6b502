"""A gateway before fake replicas, and how a test asks it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.server.fakes import FakeReplica, Network, routes_to
from vita.server.gateway.app import gateway_app
from vita.server.gateway.gateway import Gateway
from vita.server.gateway.routing import Router
from vita.server.service.listener import listener, open_socket
from vita.server.settings import ServiceSettings
from vita.spine.ledger import Ledger

CHAT = {"model": "cat", "messages": [{"role": "user", "content": "What is a cat?"}]}


@asynccontextmanager
async def service(
    ledger: Ledger, *replicas: FakeReplica, routes: Router | None = None, research: bool = False, **settings: Any
) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    """A gateway on a free port before these replicas, and a client of it."""
    client = httpx.AsyncClient(transport=Network(*replicas))
    given = ServiceSettings(**{"patience": 0.2, "patience_again": 1.0, "header_seconds": 0.5, **settings})
    gateway = Gateway(routes or routes_to(*replicas), ledger, given, client=client, research=research)
    server = listener(gateway_app(gateway), header_seconds=given.header_seconds, connections=100, drain_seconds=1)
    opened = open_socket("127.0.0.1", 0)
    port = opened.getsockname()[1]
    serving = asyncio.create_task(server.serve(sockets=[opened]))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as outside:
            yield gateway, outside
    finally:
        await server.stop()
        await serving
        await gateway.close()


def going(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    def run(ledger: Ledger) -> None:
        asyncio.run(asyncio.wait_for(test(ledger), 30))

    run.__name__ = test.__name__
    return run


def going_anywhere(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The same, on each kind of database."""

    def run(any_ledger: Ledger) -> None:
        asyncio.run(asyncio.wait_for(test(any_ledger), 30))

    run.__name__ = test.__name__
    return run


def events(text: str) -> list[dict[str, Any]]:
    data = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert data[-1] == "[DONE]", text
    return [json.loads(one) for one in data[:-1]]


def text_of(told: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for event in told for choice in event["choices"])


def lost(gateway: Gateway) -> dict[str, float]:
    """Accepted requests that were not answered, by reason."""
    samples = [sample for family in gateway.telemetry.lost.collect() for sample in family.samples]
    return {one.labels["reason"]: one.value for one in samples if one.name.endswith("_total")}
