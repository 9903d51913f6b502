"""Errors of the HTTP API: a status and a body in the format of the OpenAI API.

    {"error": {"message": "...", "type": "invalid_request_error", "param": "temperature", "code": null}}

The OpenAI clients retry 408, 409, 429 and 5xx, so only an error that a retry can resolve has such a status.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

TYPES = {401: "authentication_error", 403: "permission_error", 408: "timeout_error", 429: "rate_limit_error"}
CODES = {401: "invalid_api_key", 405: "method_not_allowed", 413: "request_too_large", 429: "rate_limit_exceeded"}


class ApiError(Exception):
    """An error that is returned to the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        headers: dict[str, str] | None = None,
        extra: dict[str, Any] | None = None,
        fields: Sequence[str] = (),
    ) -> None:
        """`kind` is the `type` in the body, by default that of the status; `extra` are more fields of the body.

        `fields` are the fields of the request that the message contains in backticks beside `param`.
        """
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code = code or CODES.get(status)
        self.kind = kind or TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.headers, self.extra, self.fields = headers or {}, extra or {}, tuple(fields)

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the response."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": {**error, **self.extra}}


class ClientLeft(Exception):
    """The client closed the connection before it received its response."""


def invalid(message: str, param: str | None = None, *, code: str | None = None, fields: Sequence[str] = ()) -> ApiError:
    """The request is invalid; a retry does not help."""
    return ApiError(400, message, param=param, code=code, fields=fields)


def model_not_found(name: str) -> ApiError:
    """The server does not have this model."""
    message = f"The model `{name}` does not exist; GET /v1/models lists those that do"
    return ApiError(404, message, param="model", code="model_not_found")


def no_such_route(method: str, path: str) -> ApiError:
    """There is no route for this URL."""
    return ApiError(404, f"Unknown request URL: {method} {path}", code="unknown_url")


def too_long(context: int, tokens: int, *, param: str, exact: bool = True) -> ApiError:
    """The prompt and its completion do not fit in the context of the model."""
    length = f"{tokens} tokens" if exact else f"at least {tokens} tokens"
    message = (
        f"This model's maximum context length is {context} tokens, including the completion; your prompt has {length}"
    )
    return invalid(message, param, code="context_length_exceeded")


def too_large(limit: int) -> ApiError:
    """The body exceeds the size limit."""
    return ApiError(413, f"The request body is larger than {limit} bytes")


def body_timeout() -> ApiError:
    """The body did not arrive in time; the connection ends, since the rest of the body may still arrive."""
    return ApiError(408, "The body did not arrive in time", code="timeout", headers={"Connection": "close"})


def too_busy(message: str, *, retry_after: int = 1) -> ApiError:
    """The server is at its capacity; the request was refused before any computation."""
    return ApiError(429, message, headers=_retry(retry_after))


def unavailable(message: str, *, code: str, retry_after: int = 1) -> ApiError:
    """The server is not ready or is draining; a retry can succeed."""
    return ApiError(503, message, code=code, headers=_retry(retry_after))


BACKEND_UNAVAILABLE = "backend_unavailable"
"""The code of an error whose cause is the same on all replicas of a version, so that no other replica is asked."""


def backend_unavailable(problem: str, *, retry_after: float | None = None) -> ApiError:
    """The program or endpoint that computes the answers of a model is not available; a later request can succeed."""
    message = f"The backend of the model is not available: {problem}"
    return unavailable(message, code=BACKEND_UNAVAILABLE, retry_after=max(1, math.ceil(retry_after or 2)))


def internal(message: str = "Internal server error; the log of the server names the request id") -> ApiError:
    """An error of the server."""
    return ApiError(500, message, code="internal_error")


def _retry(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}
