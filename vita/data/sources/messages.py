"""Messages from the fields of a row: what the formats of dialogues and of preferences have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita.data.records import Message, Role
from vita.data.sources.fields import Misfit, check_message, check_part, is_learned
from vita.data.sources.readers import kind_of

Row = Mapping[str, Any]
Messages = list[Message]

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


def turns(row: Row, field: str) -> Messages:
    """The messages in a field that holds a list of them."""
    given = row[field]
    if not isinstance(given, (list, tuple)) or not given:
        raise Misfit(f"`{field}` is not a list of messages")
    return [turn(one, f"{field}[{number}]") for number, one in enumerate(given)]


def turn(given: Any, where: str) -> Message:
    """One message: `{role, content}` or `{from, value}`."""
    if not isinstance(given, Mapping):
        raise Misfit(f"`{where}` is not an object with role and content")
    check_message(given, where)
    name = given.get("role") or given.get("from")
    role = _ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise Misfit(f"`{where}` has the role {name!r}; known are {', '.join(_ROLES)}")
    content = given.get("content")
    return Message(
        role, string(given.get("value") if content is None else content, where), is_learned(given, role, where)
    )


def string(content: Any, where: str) -> str:
    """Text, which may come as a list of text parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(isinstance(part, Mapping) for part in content):
        for part in content:
            check_part(part, where)
        return "".join(string(part.get("text", part.get("value")), where) for part in content)
    raise Misfit(f"`{where}` holds {kind_of(content)} where text was expected")


def text(row: Row, field: str) -> str:
    """The text in a field."""
    if field not in row:
        raise Misfit(f"`{field}` is missing")
    return string(row[field], field)


def first(row: Row, *fields: str) -> str:
    """The first of these fields that the row has."""
    return next((field for field in fields if field in row), fields[0])


def system(row: Row) -> Messages:
    """The system message in the field `system`, where there is one."""
    return [Message("system", text(row, "system"))] if row.get("system") else []


def instruction(row: Row) -> str:
    """`instruction`, with `input` or `context` below it."""
    question = text(row, "instruction")
    more = row.get("input") or row.get("context")
    return f"{question}\n\n{string(more, 'input')}" if more else question


def side(row: Row, field: str, role: Role) -> Messages:
    """A field that holds a text, or messages."""
    if isinstance(row.get(field), (list, tuple)):
        return turns(row, field)
    return [Message(role, text(row, field))]
