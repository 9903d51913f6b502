"""Parsing of messages from the fields of a row, shared by the dialogue and preference formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita.data.records import Message, Role, ToolCall
from vita.data.sources.fields import (
    CALL_FIELDS,
    REASONING_FIELDS,
    FormatMismatch,
    check_message,
    check_part,
    is_empty,
    is_learned,
)
from vita.data.sources.readers import json_type
from vita.data.sources.tool_fields import parse_call, parse_calls

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
    calls = _parse_calls(value, name, where)
    content = value.get("value") if value.get("content") is None else value["content"]
    if name == "function_call" and calls:
        content = ""  # the value is the call itself
    elif content is None and calls:
        content = ""
    return Message(
        role,
        parse_text(content, where) if content != "" else "",
        is_learned(value, role, where),
        tool_calls=calls,
        tool_call_id=_parse_name(value, "tool_call_id", where, allowed=role == "tool"),
        name=_parse_name(value, "name", where),
        reasoning=_parse_reasoning(value, role, where),
    )


def _parse_calls(message: Mapping[str, Any], name: Any, where: str) -> tuple[ToolCall, ...]:
    """Parse the calls of a message: `tool_calls`, `function_call`, or the value of ShareGPT's role `function_call`."""
    fields = [field for field in CALL_FIELDS if not is_empty(message.get(field))]
    if name == "function_call" and not fields:
        field = "value" if is_empty(message.get("content")) else "content"
        return parse_calls(message.get(field), f"{where}.{field}")
    if not fields:
        return ()
    if len(fields) > 1:
        raise FormatMismatch(f"`{where}` has both `tool_calls` and `function_call`")
    if _ROLES.get(str(name).lower()) != "assistant":
        raise FormatMismatch(f"`{where}.{fields[0]}` belongs to a message of the role {name!r}, not of the assistant")
    value, path = message[fields[0]], f"{where}.{fields[0]}"
    return parse_calls(value, path) if fields[0] == "tool_calls" else (parse_call(value, path),)


def _parse_name(message: Mapping[str, Any], field: str, where: str, *, allowed: bool = True) -> str | None:
    value = message.get(field)
    if is_empty(value):
        return None
    if not allowed:
        raise FormatMismatch(f"`{where}.{field}` belongs to a message that is not the result of a call")
    if not isinstance(value, str):
        raise FormatMismatch(f"`{where}.{field}` holds {json_type(value)} where text was expected")
    return value


def _parse_reasoning(message: Mapping[str, Any], role: Role, where: str) -> str | None:
    """Parse the reasoning of an assistant's message."""
    values = {field: message[field] for field in REASONING_FIELDS if not is_empty(message.get(field))}
    if not values:
        return None
    field, value = next(iter(values.items()))
    if any(other != value for other in values.values()):
        raise FormatMismatch(f"`{where}` has {' and '.join(f'`{name}`' for name in values)}, which differ")
    if role != "assistant":
        raise FormatMismatch(f"`{where}.{field}` belongs to a message of the role {role}, not of the assistant")
    return parse_text(value, f"{where}.{field}")


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
