"""The input file of a batch: one request per line.

{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "cat", "messages": [...]}}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

MAX_ERRORS = 100
"""Number of errors of an input that are reported."""
_FIELDS = {"custom_id", "method", "url", "body"}


@dataclass(frozen=True)
class BatchItem:
    """One request of a batch."""

    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True)
class InputSummary:
    """The result of the validation of an input."""

    total: int
    model: str | None
    """The model of the first request."""
    errors: list[dict[str, Any]]


class _WrongLine(Exception):
    """An error in a line, with its code and its field."""

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


def read_requests(path: Path) -> Iterator[BatchItem]:
    """Yield the requests of a valid input."""
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                values = orjson.loads(line)
                yield BatchItem(values["custom_id"], values["body"])


def check_input(path: Path, endpoint: str, *, max_requests: int) -> InputSummary:
    """Check every line of an input."""
    ids, errors, model, total = set[str](), list[dict[str, Any]](), None, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            total += 1
            try:
                request = _checked(line, endpoint)
                if request.custom_id in ids:
                    raise _WrongLine(f"A second request `{request.custom_id[:64]}`", "duplicate_custom_id", "custom_id")
                ids.add(request.custom_id)
                model = model or str(request.body["model"])
            except _WrongLine as error:
                errors.append({"code": error.code, "message": str(error), "param": error.param, "line": number})
            if total > max_requests:
                message = f"A batch may have at most {max_requests} requests"
                errors.append({"code": "too_many_requests", "message": message, "param": None, "line": number})
            if total > max_requests or len(errors) >= MAX_ERRORS:
                break
    if not total:
        errors.append({"code": "empty_file", "message": "The input has no requests", "param": None, "line": None})
    return InputSummary(total, model, errors)


def _checked(line: bytes, endpoint: str) -> BatchItem:
    """Return the request of a line; raises `_WrongLine`."""
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _WrongLine(f"The line is not JSON: {error}", "invalid_json_line") from None
    if not isinstance(values, dict):
        raise _WrongLine("The line is not a JSON object", "invalid_json_line")
    for name in sorted(_FIELDS - values.keys()):
        raise _WrongLine(f"The field `{name}` is missing", "missing_required_parameter", name)
    for name in sorted(values.keys() - _FIELDS):
        raise _WrongLine(f"The field `{name[:64]}` is unknown", "unknown_parameter", name[:64])
    id, body = values["custom_id"], values["body"]
    if not isinstance(id, str) or not 1 <= len(id) <= 512:
        raise _WrongLine("`custom_id` must be a text of 1 to 512 characters", "invalid_value", "custom_id")
    if values["method"] != "POST":
        raise _WrongLine("`method` must be `POST`", "invalid_method", "method")
    if values["url"] != endpoint:
        raise _WrongLine(f"`url` must be the endpoint of the batch, `{endpoint}`", "mismatched_endpoint", "url")
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise _WrongLine("`body` must be an object with the name of a `model`", "invalid_request", "body")
    if body.get("stream"):
        raise _WrongLine("The requests of a batch cannot be streamed", "invalid_request", "body.stream")
    return BatchItem(id, body)
