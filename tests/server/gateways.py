"""A gateway in front of fake replicas, and helpers for its requests and responses."""

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
from vita.server.sites.site import Site
from vita.spine.ledger import Ledger

CHAT = {"model": "cat", "messages": [{"role": "user", "content": "What is a cat?"}]}


@asynccontextmanager
async def service(
    ledger: Ledger,
    *replicas: FakeReplica,
    routes: Router | None = None,
    research: bool = False,
    site: Site | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    """Start a gateway on a free port in front of these replicas, and a client of it."""
    client = httpx.AsyncClient(transport=Network(*replicas))
    service_settings = ServiceSettings(**{"patience": 0.2, "patience_again": 1.0, "header_seconds": 0.5, **settings})
    gateway = Gateway(
        routes or routes_to(*replicas), ledger, service_settings, client=client, research=research, site=site
    )
    server = listener(
        gateway_app(gateway), header_seconds=service_settings.header_seconds, connections=100, drain_seconds=1
    )
    listening_socket = open_socket("127.0.0.1", 0)
    port = listening_socket.getsockname()[1]
    server_task = asyncio.create_task(server.serve(sockets=[listening_socket]))
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False
        ) as gateway_client:
            yield gateway, gateway_client
    finally:
        await server.stop()
        await server_task
        await gateway.close()


def async_test(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test that is a coroutine."""

    def run(ledger: Ledger) -> None:
        asyncio.run(asyncio.wait_for(test(ledger), 30))

    run.__name__ = test.__name__
    return run


def async_test_on_each_database(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test that is a coroutine on each kind of database."""

    def run(any_ledger: Ledger) -> None:
        asyncio.run(asyncio.wait_for(test(any_ledger), 30))

    run.__name__ = test.__name__
    return run


def events(text: str) -> list[dict[str, Any]]:
    data = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert data[-1] == "[DONE]", text
    return [json.loads(event) for event in data[:-1]]


def text_of(stream_events: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for event in stream_events for choice in event["choices"])


def lost_requests(gateway: Gateway) -> dict[str, float]:
    """Return the number of accepted requests without an answer, by reason."""
    samples = [sample for family in gateway.telemetry.lost.collect() for sample in family.samples]
    return {sample.labels["reason"]: sample.value for sample in samples if sample.name.endswith("_total")}
