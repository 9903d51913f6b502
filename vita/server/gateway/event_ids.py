"""Ids of the events of a stream, with which a client can continue it at another gateway.

    id = event_id(model, continuation)                                   # the SSE field `id` of the last event
    continuation = continued_stream(id, model, wants_usage=False)        # skips the part that the client has

An id contains the digest of the model and the position in the stream (lengths and hashes of texts, no text), so that a
gateway needs no record to continue. The position does not depend on how a replica divides the text into events.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import orjson

from vita.server.errors import ApiError, invalid
from vita.server.gateway.continuation import StreamContinuation
from vita.server.line_json import DONE

LAST_EVENT_ID = "Last-Event-ID"
MAX_CHARACTERS = 16_384
"""Maximum length of an id."""


def event_id(model: str, continuation: StreamContinuation) -> str:
    """Return the id of the event that was sent last."""
    content = orjson.dumps([model[:16], continuation.position])
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def continued_stream(text: str, model: str, *, wants_usage: bool) -> StreamContinuation:
    """Return the state of a stream after the event with this id.

    Raises `ApiError` 400 for an id that no gateway created, and 410 for the id of another model.
    """
    try:
        if len(text) > MAX_CHARACTERS:
            raise ValueError("the id is too long")
        padded = text + "=" * (-len(text) % 4)
        start_of_model, position = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        continuation = StreamContinuation.after(position, wants_usage=wants_usage)
    except (ValueError, TypeError, AttributeError, binascii.Error):
        message = f"`{LAST_EVENT_ID}` must be the `id` of an event of the stream that the request continues"
        raise invalid(message, LAST_EVENT_ID) from None
    if start_of_model != model[:16]:
        raise model_gone(str(start_of_model)[:16])
    return continuation


def model_gone(model: str, version: str | None = None) -> ApiError:
    """Create the error for a repeated request whose first response came from a model that this site does not serve."""
    name = f"the model {model[:16]}" if version is None else f"`{version}` (model {model[:16]})"
    message = (
        f"The first response to this Idempotency-Key came from {name}, which this site does not serve. "
        f"Send the request with a new Idempotency-Key to receive the response of another version."
    )
    return ApiError(410, message, code="version_gone")


async def with_ids(
    stream: AsyncGenerator[bytes], continuation: StreamContinuation, model: Callable[[], str]
) -> AsyncGenerator[bytes]:
    """Add an id to each event of a stream; `model` returns the digest of the model that responds."""
    async with aclosing(stream):
        async for event in stream:
            is_content = event != DONE and continuation.response_id is not None
            yield f"id: {event_id(model(), continuation)}\n".encode() + event if is_content else event
