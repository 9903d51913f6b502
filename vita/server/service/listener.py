"""A uvicorn server with a timeout for request headers, which leaves signals to its caller.

Uvicorn limits the idle time of a connection, but not the time to receive headers. `HeaderTimeoutProtocol` does, so that
a client that sends single bytes slowly cannot hold a connection forever.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from vita.server.sites.peers import PeerProtocol, with_tls
from vita.spine.errors import ConfigError


class HeaderTimeoutProtocol(H11Protocol):
    """Closes a connection when its next request does not arrive in time."""

    header_seconds = 10.0
    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._header_timer = self.loop.call_later(self.header_seconds, self._close_if_idle)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        elif not answering and self._header_timer is None and self.timeout_keep_alive_task is None:
            # Allow more time for the rest of a refused body, so that the client can read the error.
            patience = 6 if str(self.conn.their_state) == "SEND_BODY" else 1
            self._header_timer = self.loop.call_later(patience * self.header_seconds, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
        super().connection_lost(exc)

    def _close_if_idle(self) -> None:
        self._header_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class Listener(uvicorn.Server):
    """Serves an application on a socket until `stop`."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop; requests in progress continue for `drain_seconds`, unless `at_once`."""
        self.should_exit, self.force_exit = True, at_once
        for task in list(self.server_state.tasks) if at_once else ():
            task.cancel()


def listener(
    app: ASGIApp, *, header_seconds: float, connections: int, drain_seconds: float, tls: ssl.SSLContext | None = None
) -> Listener:
    """Create a server for `app`; run it with `await server.serve(sockets=[...])`.

    With `tls`, requests contain the identity in the certificate of their client.
    """
    bases = (HeaderTimeoutProtocol,) if tls is None else (PeerProtocol, HeaderTimeoutProtocol)
    protocol = type("Protocol", bases, {"header_seconds": header_seconds})
    settings: dict[str, Any] = {"http": protocol, "ws": "none", "lifespan": "off", "log_config": None}
    settings |= {"access_log": False, "server_header": False, "date_header": True, "proxy_headers": False}
    config = uvicorn.Config(
        app,
        limit_concurrency=connections,
        timeout_keep_alive=75,  # longer than that of clients, so that the client closes an idle connection
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
        **settings,
    )
    return Listener(config if tls is None else with_tls(config, tls))


def open_socket(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 selects a free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except (OSError, OverflowError) as error:
        opened.close()
        hint = "choose another with --port, or 0 for any that is free"
        raise ConfigError(f"{host}:{port}", f"cannot be listened on: {error}", hint=hint) from None
    opened.listen(2048)
    opened.setblocking(False)
    return opened
