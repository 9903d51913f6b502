"""HTTP responses with a JSON body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from vita.server.errors import ApiError
from vita.server.line_json import json_line


def json_response(value: Any, status: int = 200, *, headers: Mapping[str, str] | None = None) -> Response:
    """Create a response whose body is `value` as JSON."""
    return Response(json_line(value), status, headers=headers, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """Create the response to a request that is refused or failed."""
    return json_response(error.body(), error.status, headers=error.headers)
