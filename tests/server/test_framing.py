"""Gateway, replica and admin server refuse a body with two lengths and close its connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from tests.server.fakes import FakeReplica, Network, routes_to
from tests.server.serving import serving, tiny_app
from vita.server.gateway.app import gateway_app
from vita.server.gateway.gateway import Gateway
from vita.server.service.admin import admin_app
from vita.server.settings import ServiceSettings
from vita.spine.ledger import Ledger

BODY = b'{"model": "cat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}'
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
NEXT = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def exchange(url: str, request: bytes) -> bytes:
    """Return all bytes until the server closes the connection; fails if it does not."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request)
        chunks = []
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    return b"".join(chunks)


def request(path: str, *headers: str, body: bytes = CHUNKED, version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: 127.0.0.1", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture(params=["gateway", "replica", "admin"])
def listener(request: pytest.FixtureRequest, ledger: Ledger, tmp_path: Path) -> Iterator[str]:
    app: Starlette
    if request.param == "replica":
        app = tiny_app()
    else:
        import httpx

        from vita.server.service.supervisor import Supervisor

        client = httpx.AsyncClient(transport=Network(FakeReplica("a")))
        gateway = Gateway(routes_to(FakeReplica("a")), ledger, ServiceSettings(), client=client)
        app = gateway_app(gateway)
        if request.param == "admin":
            app = admin_app(gateway, _uninitialized(Supervisor), token="t")
    with serving(app) as url:
        yield url


def _uninitialized(kind: type) -> Any:
    """Return an uninitialized object, which no request of these tests reaches."""
    return object.__new__(kind)


def test_a_request_with_two_lengths_is_refused_and_its_connection_is_closed(listener: str) -> None:
    path = "/v1/chat/completions"
    for length in (len(CHUNKED), len(BODY), 4, 0):
        ambiguous_request = request(path, f"Content-Length: {length}", "Transfer-Encoding: chunked")
        answer = exchange(listener, ambiguous_request + NEXT)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"connection: close" in answer.lower()
        assert b"ambiguous_length" in answer and answer.count(b"HTTP/1.1 ") == 1, "the next request is not answered"
    swapped_request = request(path, "transfer-encoding: Chunked", f"CONTENT-LENGTH: {len(CHUNKED)}")
    assert exchange(listener, swapped_request).startswith(b"HTTP/1.1 400 ")


def test_other_ambiguous_framings_close_the_connection(listener: str) -> None:
    path = "/v1/chat/completions"
    for headers in (
        ("Content-Length: 3", "Content-Length: 4"),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: gzip",),
        ("Content-Length: -1",),
        ("Content-Length: 1 2",),
    ):
        answer = exchange(listener, request(path, *headers) + NEXT)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), (headers, answer)
        assert answer.count(b"HTTP/1.1 ") == 1
    assert exchange(listener, request(path, "Transfer-Encoding: chunked", version="1.0")).startswith(b"HTTP/1.1 400 ")


def test_a_request_with_one_length_keeps_the_connection(listener: str) -> None:
    path = "/nowhere"
    plain_request = request(path, f"Content-Length: {len(BODY)}", body=BODY)
    chunked_request = request(path, "Transfer-Encoding: chunked")
    last_request = request(path, f"Content-Length: {len(BODY)}", "Connection: close", body=BODY)
    assert exchange(listener, plain_request + chunked_request + last_request).count(b"HTTP/1.1 ") == 3
