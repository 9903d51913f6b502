"""Models of the bodies and the query parameters of /v1/files and /v1/batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import Field
from starlette.requests import Request

from vita.server.batches.upload import LONGEST_LIFE, SHORTEST_LIFE
from vita.server.errors import ApiError, invalid
from vita.server.request_body import RequestBody

WINDOW_HOURS = {"24h": 24.0}
MOST_LISTED = 10_000
Key = Annotated[str, Field(max_length=64)]
Value = Annotated[str, Field(max_length=512)]


class ExpiresAfter(RequestBody):
    """The time until a file expires."""

    anchor: Literal["created_at"]
    """The time from which `seconds` are counted."""
    seconds: int = Field(ge=SHORTEST_LIFE, le=LONGEST_LIFE)
    """Time until the file expires."""


class BatchCreation(RequestBody):
    """POST /v1/batches."""

    input_file_id: str = Field(min_length=1, max_length=64)
    """The id of an uploaded file of the purpose `batch`."""
    endpoint: str = Field(min_length=1, max_length=64)
    """The route of all requests, such as `/v1/chat/completions`."""
    completion_window: Literal["24h"]
    """The time after which the batch expires."""
    metadata: Annotated[dict[Key, Value], Field(max_length=16)] | None = None
    """Texts that are stored with the batch."""
    output_expires_after: ExpiresAfter | None = None
    """The time until the files of the results expire."""


class Listed(Protocol):
    """An object of a list."""

    @property
    def id(self) -> str:
        """The id of the object."""
        ...

    def body(self) -> dict[str, Any]:
        """Return the object with the fields of the API."""
        ...


L = TypeVar("L", bound=Listed)


def listed(objects: Sequence[L], query: Mapping[str, str]) -> dict[str, Any]:
    """Return a page of a list, newest first: at most `limit` objects after the object `after`."""
    limit = query.get("limit", "20")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 8 and 1 <= int(limit) <= MOST_LISTED):
        raise invalid(f"`limit` must be a number from 1 to {MOST_LISTED}, got {limit[:20]}", "limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid("`order` must be `asc` or `desc`", "order")
    objects = objects if order == "desc" else list(reversed(objects))
    if (after := query.get("after")) is not None:
        position = next((number for number, value in enumerate(objects) if value.id == after), None)
        if position is None:
            raise invalid(f"`after` is the id of no object: {after[:64]}", "after")
        objects = objects[position + 1 :]
    page = objects[: int(limit)]
    return {
        "object": "list",
        "data": [value.body() for value in page],
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": len(objects) > len(page),
    }


def query_of(request: Request, names: Sequence[str]) -> dict[str, str]:
    """Return the query parameters; refuses those with other names."""
    for name in request.query_params:
        if name not in names:
            message = f"Unrecognized query parameter: {name[:100]}"
            raise invalid(message, name[:100], code="unknown_parameter")
    return dict(request.query_params)


def not_found(kind: str, id: str) -> ApiError:
    """Create the error for an id of no object of the key."""
    return ApiError(404, f"No {kind} has the id `{id[:64]}`", param="id", code="not_found")
