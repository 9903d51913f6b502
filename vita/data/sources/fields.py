"""The fields of rows and of their messages: those that a format reads, those that only describe, and all others.

    check_message({"role": "assistant", "content": "", "tool_calls": [...]}, "messages[1]")   # UnsupportedField
    check_row(row, format.reads)

A field that would change what the model reads or learns is refused by its name until it is supported. In a message
every unknown field is refused. Of a row, fields that no table names are kept as the record's metadata, because rewards
read them as columns and `vita` lists them. A field that is null or empty says nothing and is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

EMPTY_TEXTS = ("", "[]", "{}", "null")

MESSAGE_FIELDS = ("role", "from", "content", "value", "weight", "loss_weight", "train")
"""What is read of a message."""
MESSAGE_METADATA = ("id", "timestamp", "created_at", "model", "language")
"""What describes a message and changes nothing."""
LEARNED_MARKS = ("weight", "loss_weight", "train")
"""Fields that say whether an assistant's message is learned: 1 or true, 0 or false."""

ROW_METADATA = ("id", "source", "license", "licence", "metadata", "url", "created", "added", "language", "lang")
"""Fields of a row that are known to describe it; they are not listed."""

_TOOLS = "write the tools into the system message and each call as the text of its message"
_REASONING = "write the reasoning into the message's text, as the chat template does, or remove the field"
_MEDIA = "only text can be learned"
_MARK = "mark single messages instead, with `weight` 0 or 1"
_SYSTEM = "rename it to `system` in a format that reads it, or write it as a message with the role system"
UNSUPPORTED: Mapping[str, str] = {
    **dict.fromkeys(
        ("tools", "functions", "tool_calls", "function_call", "tool_choice", "parallel_tool_calls"), _TOOLS
    ),
    "tool_call_id": "remove it; a result follows its call",
    "name": "write the name into the message's text, or remove the field",
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking", "thoughts"), _REASONING),
    **dict.fromkeys(("image", "images", "audio", "audios", "video", "videos"), _MEDIA),
    **dict.fromkeys(("weight", "loss_weight", "train", "loss_mask"), _MARK),
    **dict.fromkeys(("system", "system_prompt", "system_message"), _SYSTEM),
    "history": "write earlier turns as messages, or use the format alpaca",
    "documents": "write the documents into the text of a message",
    **dict.fromkeys(("chat_template", "chat_template_kwargs"), "put the template into the model's folder"),
}
"""Fields that change what is read or learned and are not supported, with what to do instead."""
_MESSAGE_ONLY = {"name", "reasoning", "thoughts"}
"""Names that describe where they stand in a row."""


class Misfit(Exception):
    """A row that is not as its format wants it; `reason` is what drops are counted by."""

    def __init__(self, problem: str, *, reason: str = "misfit", hint: str | None = None) -> None:
        super().__init__(problem)
        self.reason, self.hint = reason, hint


class UnsupportedField(Misfit):
    """A field that is not supported, by its name."""

    def __init__(self, field: str, where: str, problem: str, hint: str) -> None:
        reason = "unsupported_" + re.sub(r"\W+", "_", field)
        super().__init__(problem, reason=reason, hint=f"{hint}; or set `on_bad_row: drop`")
        self.field, self.where = field, where


def is_empty(value: Any) -> bool:
    """Whether a value says nothing, as the fields do that a table of another row filled."""
    if isinstance(value, str):
        return value.strip() in EMPTY_TEXTS
    return value is None or (isinstance(value, (list, tuple, dict)) and not value)


def check_message(message: Mapping[str, Any], where: str) -> None:
    """Refuse fields of a message that are neither read nor a description."""
    for name, value in message.items():
        if name in MESSAGE_FIELDS or name in MESSAGE_METADATA or is_empty(value):
            continue
        hint = UNSUPPORTED.get(name, f"remove it; known are {', '.join((*MESSAGE_FIELDS, *MESSAGE_METADATA))}")
        raise UnsupportedField(name, where, f"`{where}.{name}`, a field that is not supported", hint)
    for one, other in (("role", "from"), ("content", "value")):
        if not is_empty(message.get(one)) and not is_empty(message.get(other)) and message[one] != message[other]:
            raise Misfit(f"`{where}` has both `{one}` and `{other}`, which differ")


def check_part(part: Mapping[str, Any], where: str) -> None:
    """Refuse a part of a message that is not text alone."""
    if part.get("type") != "text":
        raise UnsupportedField("content", where, f"`{where}` holds a part of the type {part.get('type')!r}", _MEDIA)
    for name, value in part.items():
        if name not in ("type", "text", "value") and not is_empty(value):
            raise UnsupportedField(
                name, where, f"`{where}` has a part with `{name}`, which is not supported", "remove it"
            )


def is_learned(message: Mapping[str, Any], role: str, where: str) -> bool:
    """Whether a message is learned, by its marks; those of other roles than the assistant can only be 0."""
    values = {name: _mark(message[name], f"{where}.{name}") for name in LEARNED_MARKS if message.get(name) is not None}
    if len(set(values.values())) > 1:
        raise Misfit(f"`{where}` has {' and '.join(f'`{name}`' for name in values)}, which contradict each other")
    if role != "assistant" and True in values.values():
        name = next(iter(values))
        hint = f"only the assistant's messages are learned; remove `{name}` or set it to 0"
        raise UnsupportedField(name, where, f"`{where}.{name}` marks a message of the role {role} as learned", hint)
    return role != "assistant" or False not in values.values()


def _mark(value: Any, where: str) -> bool:
    if value in (0, 1):  # also 0.0, 1.0, false and true
        return bool(value)
    name = where.rpartition(".")[2]
    raise UnsupportedField(
        name, where, f"`{where}` is {value!r}", "give 0 or 1; weights between them are not supported"
    )


def check_row(
    row: Mapping[str, Any], reads: Collection[str], *, alternatives: Collection[Collection[str]] = ()
) -> None:
    """Refuse fields of a row that would change what is learned, and that its format does not read.

    Of each of the `alternatives` a format reads one field; two that differ are refused.
    """
    for name, value in row.items():
        if name in reads or is_empty(value) or name in _MESSAGE_ONLY:
            continue
        if name in UNSUPPORTED and not (name in LEARNED_MARKS and value in (1, True)):
            raise UnsupportedField(name, "row", f"`{name}`, a field that is not supported here", UNSUPPORTED[name])
        meant = get_close_matches(name, [field for field in reads if field not in row], n=1, cutoff=0.85)
        if meant and name not in ROW_METADATA:
            raise UnsupportedField(name, "row", f"the unknown field `{name}`", f"did you mean `{meant[0]}`?")
    for names in alternatives:
        given = sorted(name for name in names if not is_empty(row.get(name)))
        if len(given) > 1 and any(row[name] != row[given[0]] for name in given):
            raise Misfit(
                f"{' and '.join(f'`{name}`' for name in given)}, of which only one is read", reason="ambiguous"
            )


def metadata_fields(row: Mapping[str, Any], reads: Collection[str]) -> list[str]:
    """The fields of a row that are neither read nor known to describe it."""
    return [name for name, value in row.items() if name not in {*reads, *ROW_METADATA} and not is_empty(value)]
