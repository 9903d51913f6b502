"""Repeated attempts of HTTP requests and reads that fail for a moment.

A request that gets status 408, 425, 429 or 5xx, or no connection, is sent at most `ATTEMPTS` times. A connection that
ends inside a response continues at the same byte of a new response. This includes files inside a remote archive
(`zip://member::https://host/a.zip`), whose bytes are read by several requests.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from typing import Any, TypeVar

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


T = TypeVar("T")


def retry_reads(read: Callable[[], T]) -> T:
    """Call a function again while connections end inside a response; return its result."""
    for attempt in range(ATTEMPTS):
        try:
            return read()
        except Exception as error:
            if attempt == ATTEMPTS - 1 or not _is_broken_connection(error):
                raise
            time.sleep(FIRST_WAIT_SECONDS * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _is_broken_connection(error: Exception) -> bool:
    if type(error).__module__.partition(".")[0] != "aiohttp":  # which is an extra
        return False
    import aiohttp

    return isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError))


class RetriedFile(io.RawIOBase):
    """A binary file over HTTP that is opened again at its position when a read fails."""

    def __init__(self, open_file: Callable[[], Any]) -> None:
        self._open_file = open_file
        self._file = retry_reads(open_file)
        self._position = 0
        self._is_broken = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if self._is_broken:
            retry_reads(self._reopen)
        self._position = retry_reads(lambda: self._file.seek(offset, whence))
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        data = retry_reads(lambda: self._read(-1 if size is None else size))
        self._position += len(data)
        return data

    def _read(self, size: int) -> bytes:
        if self._is_broken:
            self._reopen()
        self._is_broken = True  # until the read succeeds
        data = self._file.read(size)
        self._is_broken = False
        return data

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
