"""Sends a streamed response, no faster than its client reads it, and cancels it when the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vita.server.application import CLIENT_CLOSED_REQUEST
from vita.server.errors import ClientLeft

T = TypeVar("T")
CUT = 502
"""The status in the log of a response that was cut off."""


@dataclass(frozen=True)
class StartedStream:
    """A stream whose first event has arrived."""

    first: bytes
    rest: AsyncGenerator[bytes]


class EventStream(Response):
    """Sends events as they arrive, each within `stall_seconds`."""

    def __init__(
        self,
        stream: StartedStream,
        headers: Mapping[str, str],
        *,
        stall_seconds: float,
        is_complete: Callable[[], bool],
        end: Callable[[int], None],
    ) -> None:
        """`is_complete` tells whether the last event has arrived; `end` records the status, its first call counts."""
        super().__init__(None, 200)
        self._stream, self._stall_seconds, self._is_complete, self._end = stream, stall_seconds, is_complete, end
        stream_headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        self._stream_headers = {**stream_headers, "X-Accel-Buffering": "no", **headers}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_disconnected(receive, self._send(send))
        except (ClientLeft, TimeoutError):
            self._end(CLIENT_CLOSED_REQUEST)
        except asyncio.CancelledError:  # the service stops
            self._end(CUT)
        finally:
            self._end(500)

    async def _send(self, send: Send) -> None:
        seconds = self._stall_seconds
        headers = [
            (name.lower().encode(), value.encode("latin-1", "replace")) for name, value in self._stream_headers.items()
        ]
        async with aclosing(self._stream.rest) as rest:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _send_event(send, self._stream.first, seconds)
            async for event in rest:
                if self._is_complete():
                    self._end(200)  # before the client has the event, since it may send feedback at once
                await _send_event(send, event, seconds)
            self._end(CUT)  # unless it had ended well
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_event(send: Send, event: bytes, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await send({"type": "http.response.body", "body": event, "more_body": True})


async def unless_disconnected(receive: Receive, work: Awaitable[T]) -> T:
    """Return the result of `work`; cancels it and raises `ClientLeft` when the client disconnects."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
