"""The interface of an API that is translated to chat completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from vita.server.dialects.field_names import FieldNames
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

    @property
    def names(self) -> FieldNames:
        """The original names of the fields of the chat request."""
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
        """Return the body of an error in the format of this API, from that of the OpenAI API.

        The names of fields are not changed: `FieldNames.original_body` gives an error about the chat request its names.
        """
        ...


def named_event(kind: str, content: Mapping[str, Any]) -> bytes:
    """Return a server-sent event with a name, which is also its `type`."""
    return json_event({"type": kind, **content}, name=kind)
