"""Translates the answers of replicas to the API of their client (`vita.server.dialects`)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response

from vita.server.dialects.translation import Dialect, Translation
from vita.server.errors import ApiError
from vita.server.gateway.event_stream import StartedStream
from vita.server.json_response import json_response
from vita.server.line_json import DONE, json_line


def translated_content(content: bytes, status: int, dialect: Dialect, translation: Translation) -> bytes:
    """Return the body of a response, or of an error, in the API of the client."""
    body: dict[str, Any] = json.loads(content)
    if status == 200:
        return json_line(translation.response(body))
    return json_line(dialect.error(translation.names.original_body(body), status))


def translated_error_response(error: ApiError, dialect: Dialect) -> Response:
    """Create the response to a request that is refused or failed."""
    return json_response(dialect.error(error.body(), error.status), error.status, headers=error.headers)


async def translated_stream(stream: StartedStream, translation: Translation) -> StartedStream:
    """Return the stream with its events in the API of the client."""
    events = _events(stream, translation)
    return StartedStream(await anext(events), events)


async def _events(stream: StartedStream, translation: Translation) -> AsyncGenerator[bytes]:
    for event in _translated(stream.first, translation):
        yield event
    async with aclosing(stream.rest) as rest:
        async for chunk in rest:
            for event in _translated(chunk, translation):
                yield event


def _translated(chunk: bytes, translation: Translation) -> list[bytes]:
    if chunk == DONE:
        return list(translation.end())
    return list(translation.events(json.loads(chunk.removeprefix(b"data: "))))
