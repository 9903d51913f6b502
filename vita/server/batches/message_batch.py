"""Batches of the Messages API of Anthropic: their requests, their fields and the lines of their results.

A message batch is stored and computed as every other batch (`vita.server.batches.batch`); its endpoint is /v1/messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any

import orjson
from pydantic import Field

from vita.server.batches.batch import RequestBatch
from vita.server.batches.batch_input import read_requests
from vita.server.batches.batch_results import EXPIRED
from vita.server.errors import invalid
from vita.server.line_json import json_line
from vita.server.request_body import RequestBody

ENDPOINT = "/v1/messages"
INPUT_PURPOSE = "message_batch"
"""Purpose of the input file of a message batch, which `/v1/files` does not list."""
MOST_LISTED = 1000


class BatchedMessage(RequestBody):
    """One request of a message batch."""

    custom_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    """Name of the request in the results; unique in its batch."""
    params: dict[str, Any]
    """The body of a request to /v1/messages."""


class MessageBatchCreation(RequestBody):
    """POST /v1/messages/batches."""

    requests: list[BatchedMessage] = Field(min_length=1)
    """The requests of the batch."""


def write_requests(creation: MessageBatchCreation, file: IO[bytes], *, max_requests: int) -> None:
    """Write the requests as the input file of a batch; raises `ApiError` for one that no batch can contain."""
    if len(creation.requests) > max_requests:
        raise invalid(f"A batch may have at most {max_requests} requests", "requests", code="too_many_requests")
    ids = set[str]()
    for number, request in enumerate(creation.requests):
        where = f"requests[{number}]"
        if request.custom_id in ids:
            raise invalid(f"`{where}.custom_id` is not unique: {request.custom_id}", f"{where}.custom_id")
        if not isinstance(request.params.get("model"), str):
            raise invalid(f"`{where}.params.model` must be the name of a model", f"{where}.params.model")
        if request.params.get("stream"):
            raise invalid("The requests of a batch cannot be streamed", f"{where}.params.stream")
        ids.add(request.custom_id)
        line = {"custom_id": request.custom_id, "method": "POST", "url": ENDPOINT, "body": request.params}
        file.write(orjson.dumps(line) + b"\n")


def batch_body(batch: RequestBatch, *, url: str) -> dict[str, Any]:
    """Return a batch with the fields of the Messages API; `url` is its address at this service."""
    running = "canceling" if batch.status == "cancelling" else "in_progress"
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if batch.ended else running,
        "request_counts": _counts(batch),
        "created_at": _time(batch.created_at),
        "expires_at": _time(batch.expires_at),
        "cancel_initiated_at": _time(batch.times.get("cancelling")),
        "ended_at": _time(batch.times.get(batch.status)) if batch.ended else None,
        "archived_at": None,
        "results_url": f"{url}/results" if batch.ended else None,
    }


def _counts(batch: RequestBatch) -> dict[str, int]:
    """Return the numbers of requests by their results, all of which are `processing` until the batch ends."""
    names = ("processing", "succeeded", "errored", "canceled", "expired")
    if not batch.ended:
        return dict.fromkeys(names, 0) | {"processing": batch.total}
    missing = batch.total - batch.completed - batch.failed
    is_failed = batch.status == "failed"
    return {
        "processing": 0,
        "succeeded": batch.completed,
        "errored": batch.failed - batch.expired + (missing if is_failed else 0),
        "canceled": 0 if is_failed else missing,
        "expired": batch.expired,
    }


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def result_lines(batch: RequestBatch, input: Path, results: Sequence[Path]) -> Iterator[bytes]:
    """Yield one line per request of a batch that has ended; `results` are its files of outputs and of errors."""
    ids = set[str]()
    for path in results:
        with path.open("rb") as file:
            for line in file:
                row = orjson.loads(line)
                ids.add(row["custom_id"])
                yield _line(row["custom_id"], _result(row))
    failure = _errored("api_error", str(batch.errors[0]["message"])) if batch.errors else None
    for request in read_requests(input):
        if request.custom_id not in ids:
            yield _line(request.custom_id, failure or {"type": "canceled"})


def _result(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a line of the output or of the errors of a batch."""
    response, error = row["response"], row["error"]
    if response is None:
        if error["code"] == EXPIRED:
            return {"type": "expired"}
        kind = "authentication_error" if error["code"] == "invalid_api_key" else "api_error"
        return _errored(kind, error["message"])
    if response["status_code"] == 200:
        return {"type": "succeeded", "message": response["body"]}
    return {"type": "errored", "error": {**response["body"], "request_id": response["request_id"]}}


def _errored(kind: str, message: str) -> dict[str, Any]:
    return {"type": "errored", "error": {"type": "error", "error": {"type": kind, "message": message}}}


def _line(custom_id: str, result: Mapping[str, Any]) -> bytes:
    return json_line({"custom_id": custom_id, "result": result}) + b"\n"


def batch_page(batches: Sequence[RequestBatch], query: Mapping[str, str], *, address: str) -> dict[str, Any]:
    """Return a page of the list, newest first, after the batch `after_id` or before the batch `before_id`.

    `address` is that of the route of the list.
    """
    limit = query.get("limit", "20")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 8 and 1 <= int(limit) <= MOST_LISTED):
        raise invalid(f"`limit` must be a number from 1 to {MOST_LISTED}, got {limit[:20]}", "limit")
    after, before = query.get("after_id"), query.get("before_id")
    if after is not None and before is not None:
        raise invalid("`after_id` and `before_id` cannot be combined", "before_id")
    count, has_more = int(limit), False
    if before is not None:
        rest = batches[: _position(batches, before, "before_id")]
        page, has_more = rest[max(0, len(rest) - count) :], len(rest) > count
    else:
        rest = batches if after is None else batches[_position(batches, after, "after_id") + 1 :]
        page, has_more = rest[:count], len(rest) > count
    return {
        "data": [batch_body(batch, url=f"{address}/{batch.id}") for batch in page],
        "has_more": has_more,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }


def _position(batches: Sequence[RequestBatch], id: str, name: str) -> int:
    position = next((number for number, batch in enumerate(batches) if batch.id == id), None)
    if position is None:
        raise invalid(f"`{name}` is the id of no batch: {id[:64]}", name)
    return position
