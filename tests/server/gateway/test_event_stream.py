"""A streamed response ends when its client is gone."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.server.fakes import FakeReplica
from tests.server.gateways import CHAT, service
from vita.spine.ledger import Ledger


class BurstReplica(FakeReplica):
    """A replica whose stream has one event, and many at once when the client is gone."""

    def __init__(self, client_closed: threading.Event) -> None:
        super().__init__("a")
        self.client_closed = client_closed
        self.num_read = 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        async def parts() -> AsyncIterator[bytes]:
            chunk = {"id": "1", "created": 1, "choices": [{"index": 0, "delta": {"content": "x" * 200}}]}
            event = b"data: " + json.dumps(chunk).encode() + b"\n\n"
            yield event
            self.client_closed.wait(10)  # blocks the event loop, so that the gateway does not notice it before
            for _ in range(20):
                self.num_read += 1
                yield event * 100

        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=parts())


@pytest.mark.parametrize("path", ["chat/completions", "messages"])
def test_no_event_is_written_after_the_client_has_closed_the_connection(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    client_closed = threading.Event()
    replica = BurstReplica(client_closed)

    def read_one_event(port: int) -> None:
        body: dict[str, Any] = {**CHAT, "stream": True, "max_tokens": 9}
        content = json.dumps(body).encode()
        head = f"POST /v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            received = b""
            while b"xxx" not in received:
                received += connection.recv(65536)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client_closed.set()

    async def run() -> None:
        async with service(ledger, replica) as (gateway, client):
            await asyncio.to_thread(read_one_event, client.base_url.port or 0)
            while gateway.in_flight:
                await asyncio.sleep(0.01)
            assert gateway.telemetry.cancelled._value.get() == 1

    asyncio.run(asyncio.wait_for(run(), 30))
    assert "socket.send() raised exception" not in caplog.text and replica.num_read < 20
