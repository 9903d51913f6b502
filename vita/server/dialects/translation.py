"""The interface of an API that is translated to chat completions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from vita.server.errors import ApiError
from vita.server.line_json import json_event


class Translation(Protocol):
    """The translation of one request and of its answer."""

    @property
    def chat(self) -> dict[str, Any]:
        """The body of the chat request."""
        ...

    @property
    def id(self) -> str | None:
        """The id of the answer; None for an answer without one."""
        ...

    def response(self, completion: Mapping[str, Any]) -> dict[str, Any]:
        """Translate a chat completion."""
        ...

    def events(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        """Translate a chunk of a streamed chat completion."""
        ...

    def end(self) -> Iterator[bytes]:
        """Yield the events after the last chunk."""
        ...


class Dialect(Protocol):
    """An API that is translated to chat completions."""

    def translate(self, body: dict[str, Any]) -> Translation:
        """Translate a request; raises `ApiError` for a field that is wrong or not supported."""
        ...

    def error(self, body: Mapping[str, Any], status: int) -> dict[str, Any]:
        """Return the body of an error in the format of this API, from that of the OpenAI API."""
        ...


def translated_error(error: ApiError, names: Mapping[str, str]) -> ApiError:
    """Return an error about a chat request with the names of the fields of the original request."""
    param, message = error.param and _renamed(error.param, names), _with_renamed_fields(error.message, names)
    return ApiError(error.status, message, param=param, code=error.code, headers=error.headers, extra=error.extra)


def with_renamed_param(body: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the body of an error about a chat request with the names of the fields of the original request."""
    error = body.get("error")
    param = error.get("param") if isinstance(error, Mapping) else None
    if not isinstance(error, Mapping) or not isinstance(param, str):
        return dict(body)
    message = _with_renamed_fields(str(error.get("message")), names)
    return {**body, "error": {**error, "param": _renamed(param, names), "message": message}}


def _with_renamed_fields(message: str, names: Mapping[str, str]) -> str:
    """Rename the fields that a message quotes."""
    return re.sub(r"`([a-z_]+[a-z_.0-9\[\]]*)`", lambda match: f"`{_renamed(match[1], names)}`", message)


def _renamed(field: str, names: Mapping[str, str]) -> str:
    """Return the original name of a field of a chat request; `tools[].strict` in `names` is that of every entry."""
    pattern = re.sub(r"\[\d+\]", "[]", field)
    name = max((name for name in names if _is_within(pattern, name)), key=len, default="")
    if not name:
        return field
    indices = iter(re.findall(r"\[\d+\]", field))
    return re.sub(r"\[\]", lambda _: next(indices), names[name] + pattern.removeprefix(name))


def _is_within(field: str, name: str) -> bool:
    """Return True for a field and for the fields and entries in it."""
    return field == name or field.startswith((f"{name}.", f"{name}["))


def named_event(kind: str, content: Mapping[str, Any]) -> bytes:
    """Return a server-sent event with a name, which is also its `type`."""
    return json_event({"type": kind, **content}, name=kind)
