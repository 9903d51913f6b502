"""A uvicorn server that is patient for a while only, and leaves signals to whoever runs it.

Uvicorn limits how long a connection may idle, not how long its headers may take; `PatientProtocol` does, so that
clients that send a byte now and then cannot hold connections for ever.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from vita.spine.errors import ConfigError


class PatientProtocol(H11Protocol):
    """Ends a connection whose next request does not arrive in time."""

    header_seconds = 10.0
    _impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._impatience = self.loop.call_later(self.header_seconds, self._give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
        elif not answering and self._impatience is None and self.timeout_keep_alive_task is None:
            # The rest of a body that was refused already may take longer: a client cut off would not see why.
            patience = 6 if str(self.conn.their_state) == "SEND_BODY" else 1
            self._impatience = self.loop.call_later(patience * self.header_seconds, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        self._impatience = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class Listener(uvicorn.Server):
    """Serves an application on a socket until it is told to stop."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def stop(self, *, at_once: bool = False) -> None:
        """End, and let what is being answered go on for `drain_seconds`, or not."""
        self.should_exit, self.force_exit = True, at_once
        for task in list(self.server_state.tasks) if at_once else ():
            task.cancel()


def listener(app: ASGIApp, *, header_seconds: float, connections: int, drain_seconds: float) -> Listener:
    """A server of `app`; run it with `await server.serve(sockets=[...])`."""
    protocol = type("Protocol", (PatientProtocol,), {"header_seconds": header_seconds})
    settings: dict[str, Any] = {"http": protocol, "ws": "none", "lifespan": "off", "log_config": None}
    settings |= {"access_log": False, "server_header": False, "date_header": True, "proxy_headers": False}
    return Listener(
        uvicorn.Config(
            app,
            limit_concurrency=connections,
            timeout_keep_alive=75,  # longer than clients keep theirs, so that it is they who end an idle connection
            timeout_graceful_shutdown=max(1, round(drain_seconds)),
            **settings,
        )
    )


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
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
