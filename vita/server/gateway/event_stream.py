"""An answer that comes piece by piece: sent no faster than it is taken, and given up when its client leaves."""

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
from vita.server.gateway.request_record import Exchange

T = TypeVar("T")
CUT = 502
"""The status in the accounts of an answer that did not end."""


@dataclass(frozen=True)
class Begun:
    """A stream whose first event has come."""

    first: bytes
    rest: AsyncGenerator[bytes]


class EventStream(Response):
    """Sends events as they come and no faster than they are taken; a client that leaves ends the work for it."""

    def __init__(
        self,
        exchange: Exchange,
        begun: Begun,
        headers: Mapping[str, str],
        *,
        stall_seconds: float,
        end: Callable[[Exchange, int], None],
    ) -> None:
        """`end` closes the account of the exchange; its first word counts."""
        super().__init__(None, 200)
        self._exchange, self._begun, self._stall_seconds, self._end = exchange, begun, stall_seconds, end
        told = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        self._told = {**told, "X-Accel-Buffering": "no", **headers}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._exchange
        try:
            await unless_gone(receive, self._send(send))
        except (ClientLeft, TimeoutError):
            exchange.read_stream()
            self._end(exchange, CLIENT_CLOSED_REQUEST)
        except asyncio.CancelledError:  # the service stops, and waits for this no longer
            exchange.read_stream()
            self._end(exchange, CUT)
        finally:
            self._end(exchange, 500)

    async def _send(self, send: Send) -> None:
        exchange, seconds = self._exchange, self._stall_seconds
        headers = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in self._told.items()]
        async with aclosing(self._begun.rest) as rest:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _in_time(send, self._begun.first, seconds)
            async for event in rest:
                if exchange.ask is not None and exchange.ask.complete:
                    exchange.read_stream()  # before the client knows: it may send feedback at once
                    self._end(exchange, 200)
                await _in_time(send, event, seconds)
            exchange.read_stream()
            self._end(exchange, CUT)  # unless it had ended well
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _in_time(send: Send, event: bytes, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await send({"type": "http.response.body", "body": event, "more_body": True})


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """What `work` gives, given up as soon as the client hangs up."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
