"""What a client is told when it is refused: an HTTP status and the body that OpenAI's clients read.

    {"error": {"message": "...", "type": "invalid_request_error", "param": "temperature", "code": null}}

A client repeats 408, 409, 429 and 5xx by itself, so only what may go well the next time has such a status.
"""

from __future__ import annotations

from typing import Any

TYPES = {401: "authentication_error", 403: "permission_error", 408: "timeout_error", 429: "rate_limit_error"}
CODES = {401: "invalid_api_key", 405: "method_not_allowed", 413: "request_too_large", 429: "rate_limit_exceeded"}


class ApiError(Exception):
    """A refusal on its way to the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        headers: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        """`kind` is the body's `type`, by default the usual one of the status; `more` are further facts in the body."""
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code = code or CODES.get(status)
        self.kind = kind or TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.headers, self.more = headers or {}, more or {}

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": {**error, **self.more}}


class ClientLeft(Exception):
    """The client closed the connection before it received its response."""


def invalid(message: str, param: str | None = None, *, code: str | None = None) -> ApiError:
    """The request itself is wrong; repeating it is useless."""
    return ApiError(400, message, param=param, code=code)


def model_not_found(name: str) -> ApiError:
    """No such model is served here."""
    message = f"The model `{name}` does not exist; GET /v1/models lists those that do"
    return ApiError(404, message, param="model", code="model_not_found")


def no_such_route(method: str, path: str) -> ApiError:
    """Nothing stands at this URL."""
    return ApiError(404, f"Unknown request URL: {method} {path}", code="unknown_url")


def too_long(context: int, tokens: int, *, param: str, exact: bool = True) -> ApiError:
    """The prompt leaves no room in the model's context."""
    length = f"{tokens} tokens" if exact else f"at least {tokens} tokens"
    message = f"This model's maximum context length is {context} tokens, the answer included; your prompt has {length}"
    return invalid(message, param, code="context_length_exceeded")


def too_large(limit: int) -> ApiError:
    """The body is longer than the server reads."""
    return ApiError(413, f"The request's body is longer than {limit} bytes")


def body_timeout() -> ApiError:
    """The body did not arrive in time; the connection ends, since the rest of the body may still arrive."""
    return ApiError(408, "The body did not arrive in time", code="timeout", headers={"Connection": "close"})


def too_busy(message: str, *, retry_after: int = 1) -> ApiError:
    """The queue is full; the request was refused before any work."""
    return ApiError(429, message, headers=_retry(retry_after))


def unavailable(message: str, *, code: str, retry_after: int = 1) -> ApiError:
    """Not ready yet, or draining: another replica, or this one later, may answer."""
    return ApiError(503, message, code=code, headers=_retry(retry_after))


def internal(message: str = "The server had an error while answering; the request's id is in its log") -> ApiError:
    """A fault of ours."""
    return ApiError(500, message, code="internal_error")


def _retry(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}
