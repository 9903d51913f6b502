"""The names that the fields of a chat request have in the request from which it was translated.

    names = FieldNames({"stop": "stop_sequences", "tools[].function": "tools[]"}, ["system", "messages[0]"])
    names.original("tools[2].function.name")                # tools[2].name
    names.original("messages[1].content")                   # messages[0]

In the message of an error, only the fields that the error is about are renamed: its `param`, and the further `fields`
that it states. Other texts in backticks, such as names of functions, can be equal to names of fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vita.server.errors import ApiError


@dataclass(frozen=True)
class FieldNames:
    """The original names of fields and messages."""

    names: Mapping[str, str]
    """Field of the chat request -> its original name; `tools[].function` is that of every tool."""
    messages: Sequence[str] = ()
    """For each message of the chat request, the original place of which it was made."""
    calls: Mapping[str, str] = field(default_factory=dict)
    """Field of a call in a message of the chat request, such as `messages[1].tool_calls[0]` -> its original name."""

    def original(self, field: str) -> str:
        """Return the original name of a field; the place of a message for the fields in it, except for its calls."""
        call = max((name for name in self.calls if _is_within(field, name)), key=len, default="")
        if call:
            return self.calls[call] + field.removeprefix(call)
        match = re.match(r"messages\[(\d+)\]", field)
        if match and int(match[1]) < len(self.messages):
            return self.messages[int(match[1])]
        pattern = re.sub(r"\[\d+\]", "[]", field)
        name = max((name for name in self.names if _is_within(pattern, name)), key=len, default="")
        if not name:
            return field
        indices = iter(re.findall(r"\[\d+\]", field))
        return re.sub(r"\[\]", lambda _: next(indices), self.names[name] + pattern.removeprefix(name))

    def original_error(self, error: ApiError) -> ApiError:
        """Return an error about the chat request with the original names."""
        body = self.original_body(error.body(), fields=error.fields)["error"]
        return ApiError(
            error.status, body["message"], param=body["param"], code=error.code, headers=error.headers,
            extra=error.extra,
        )  # fmt: skip

    def original_body(self, body: Mapping[str, Any], *, fields: Sequence[str] = ()) -> dict[str, Any]:
        """Return the body of an error about the chat request with the original names.

        `fields` are the fields in its message beside `param`.
        """
        error = body.get("error")
        param = error.get("param") if isinstance(error, Mapping) else None
        if not isinstance(error, Mapping) or not isinstance(param, str):
            return dict(body)
        renamed = {f"`{field}`": f"`{self.original(field)}`" for field in (param, *fields)}
        pattern = "|".join(map(re.escape, renamed))
        message = re.sub(pattern, lambda match: renamed[match[0]], str(error.get("message")))
        return {**body, "error": {**error, "param": self.original(param), "message": message}}


def _is_within(field: str, name: str) -> bool:
    """Return True for a field and for the fields and entries in it."""
    return field == name or field.startswith((f"{name}.", f"{name}["))
