"""A body with two lengths is refused, and its connection ends, wherever it is sent."""

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
    """All that comes back until the server closes the connection; fails when it does not."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


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
            app = admin_app(gateway, _of(Supervisor), token="t")
    with serving(app) as url:
        yield url


def _of(kind: type) -> Any:
    """An object that no request here gets as far as."""
    return object.__new__(kind)


def test_a_request_with_both_lengths_is_refused_and_nothing_after_it_is_read(listener: str) -> None:
    path = "/v1/chat/completions"
    for length in (len(CHUNKED), len(BODY), 4, 0):
        both = request(path, f"Content-Length: {length}", "Transfer-Encoding: chunked")
        answer = exchange(listener, both + NEXT)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"connection: close" in answer.lower()
        assert b"ambiguous_length" in answer and answer.count(b"HTTP/1.1 ") == 1, "the next request is not answered"
    swapped = request(path, "transfer-encoding: Chunked", f"CONTENT-LENGTH: {len(CHUNKED)}")
    assert exchange(listener, swapped).startswith(b"HTTP/1.1 400 ")


def test_other_ambiguous_framings_end_the_connection_too(listener: str) -> None:
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


def test_one_length_of_either_kind_keeps_the_connection(listener: str) -> None:
    path = "/nowhere"
    plain = request(path, f"Content-Length: {len(BODY)}", body=BODY)
    chunked = request(path, "Transfer-Encoding: chunked")
    last = request(path, f"Content-Length: {len(BODY)}", "Connection: close", body=BODY)
    assert exchange(listener, plain + chunked + last).count(b"HTTP/1.1 ") == 3
