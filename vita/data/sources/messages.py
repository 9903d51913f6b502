"""Parsing of messages from the fields of a row, shared by the dialogue and preference formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita.data.records import Message, Role
from vita.data.sources.fields import FormatMismatch, check_message, check_part, is_learned
from vita.data.sources.readers import json_type

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


def parse_messages(row: Row, field: str) -> Messages:
    """Parse a field that contains a list of messages."""
    items = row[field]
    if not isinstance(items, (list, tuple)) or not items:
        raise FormatMismatch(f"`{field}` is not a list of messages")
    return [parse_message(item, f"{field}[{number}]") for number, item in enumerate(items)]


def parse_message(value: Any, where: str) -> Message:
    """Parse one message: `{role, content}` or `{from, value}`."""
    if not isinstance(value, Mapping):
        raise FormatMismatch(f"`{where}` is not an object with role and content")
    check_message(value, where)
    name = value.get("role") or value.get("from")
    role = _ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise FormatMismatch(f"`{where}` has the role {name!r}; known are {', '.join(_ROLES)}")
    content = value.get("content")
    return Message(
        role, parse_text(value.get("value") if content is None else content, where), is_learned(value, role, where)
    )


def parse_text(content: Any, where: str) -> str:
    """Parse text, which may be a list of text parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(isinstance(part, Mapping) for part in content):
        for part in content:
            check_part(part, where)
        return "".join(parse_text(part.get("text", part.get("value")), where) for part in content)
    raise FormatMismatch(f"`{where}` holds {json_type(content)} where text was expected")


def parse_field(row: Row, field: str) -> str:
    """Parse the text in a field."""
    if field not in row:
        raise FormatMismatch(f"`{field}` is missing")
    return parse_text(row[field], field)


def first_field(row: Row, *fields: str) -> str:
    """Return the first of these fields that the row has."""
    return next((field for field in fields if field in row), fields[0])


def system_messages(row: Row) -> Messages:
    """Return the system message in the field `system`, if there is one."""
    return [Message("system", parse_field(row, "system"))] if row.get("system") else []


def instruction_text(row: Row) -> str:
    """Return the text of `instruction`, followed by `input` or `context`."""
    question = parse_field(row, "instruction")
    context = row.get("input") or row.get("context")
    return f"{question}\n\n{parse_text(context, 'input')}" if context else question


def parse_text_or_messages(row: Row, field: str, role: Role) -> Messages:
    """Parse a field that contains a text or a list of messages."""
    if isinstance(row.get(field), (list, tuple)):
        return parse_messages(row, field)
    return [Message(role, parse_field(row, field))]
