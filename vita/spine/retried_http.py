"""Repeated attempts of HTTP requests and reads that fail for a moment.

A request that gets status 408, 425, 429 or 5xx, or no connection, is sent at most `ATTEMPTS` times. A connection that
ends inside a response continues at the same byte of a new response.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from typing import Any

ATTEMPTS = 4
"""Largest number of attempts."""
FIRST_WAIT_SECONDS = 0.25
"""Seconds before the second attempt; each further wait is twice as long."""
MAX_WAIT_SECONDS = 10.0
"""Longest wait that a server can ask for with `Retry-After`."""
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


async def retry_requests(request: Any, handler: Callable[[Any], Any]) -> Any:
    """Send a request again while it fails for a moment: a client middleware of aiohttp."""
    import aiohttp

    for attempt in range(ATTEMPTS):
        is_last = attempt == ATTEMPTS - 1
        wait = FIRST_WAIT_SECONDS * 2**attempt
        try:
            response = await handler(request)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if is_last:
                raise
        else:
            if is_last or response.status not in TRANSIENT_STATUSES:
                return response
            wait = _retry_after(response.headers.get("Retry-After"), wait)
            response.release()
        await asyncio.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _retry_after(value: str | None, default: float) -> float:
    try:
        return min(max(0.0, float(value or default)), MAX_WAIT_SECONDS)
    except ValueError:
        return default


class RetriedFile(io.RawIOBase):
    """A binary file over HTTP that is opened again at its position when a read fails."""

    def __init__(self, open_file: Callable[[], Any]) -> None:
        self._open_file = open_file
        self._file = open_file()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._position = self._file.seek(offset, whence)
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        import aiohttp

        for attempt in range(ATTEMPTS):
            try:
                if attempt:
                    self._reopen()
                data = self._file.read(-1 if size is None else size)
            except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(FIRST_WAIT_SECONDS * 2**attempt)
            else:
                self._position += len(data)
                return data
        raise AssertionError("the last attempt returns or raises")

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _reopen(self) -> None:
        """Open the file again and move to the position."""
        self._file.close()
        self._file = self._open_file()
        if self._file.seekable():
            self._file.seek(self._position)
            return
        remaining = self._position
        while remaining and (part := self._file.read(min(remaining, 2**20))):
            remaining -= len(part)
