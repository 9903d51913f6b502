"""Reads request bodies within a limit of bytes and of seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request

from vita.server.errors import body_timeout, too_large


def declared_length(request: Request) -> int:
    """Return the value of Content-Length, or 0 if it is absent or not a number."""
    text = request.headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0


async def read_body(
    request: Request, *, max_bytes: int, max_seconds: float, on_part: Callable[[int], None] | None = None
) -> bytes:
    """Read the body of a request; raises `ApiError` 413 or 408 when it is too large or too slow.

    `on_part` is called with the size of each part before the next one is read, and may raise.
    """
    if declared_length(request) > max_bytes:
        raise too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(max_seconds):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    raise too_large(max_bytes)
                if on_part is not None:
                    on_part(len(part))
    except TimeoutError:
        raise body_timeout() from None
    return bytes(body)
