"""Validation of the fields of rows and messages: fields that a format reads, metadata, and unsupported fields.

    check_message({"role": "user", "content": "", "images": [...]}, "messages[0]")   # UnsupportedField
    check_row(row, format.reads)

A field that would change what the model reads or learns is refused by name until it is supported. In a message every
unknown field is refused. Unknown fields of a row become the record's metadata, because rewards read them as columns and
`vita` lists them. Null and empty fields are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

EMPTY_TEXTS = ("", "[]", "{}", "null")

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Names of the field for the reasoning of an assistant's message."""
CALL_FIELDS = ("tool_calls", "function_call")
"""Names of the fields for the calls of an assistant's message; `function_call` holds one call."""
MESSAGE_FIELDS = (
    "role", "from", "content", "value", "weight", "loss_weight", "train", *CALL_FIELDS, "tool_call_id", "name",
    *REASONING_FIELDS,
)  # fmt: skip
"""Fields of a message that are read."""
MESSAGE_METADATA = ("id", "timestamp", "created_at", "model", "language")
"""Fields of a message that are metadata and have no effect."""
LEARNED_MARKS = ("weight", "loss_weight", "train")
"""Fields that mark whether an assistant's message is learned: 1 or true, 0 or false."""

TEXT_FIELDS = ("text", "content", "raw_content", "body", "document", "article")
"""The fields in which the text of a row is searched, in this order, without the setting `text_field`."""

ROW_METADATA = (
    "id", "source", "license", "licence", "metadata", "url", "created", "added", "language", "lang",
    "robots", "opt_out", "consent",
)  # fmt: skip
"""Fields of a row that are known metadata; they are not listed."""

TEMPLATE_FIELDS = ("tools", "functions", "documents", "chat_template_kwargs")
"""Fields of a row that the chat template reads; every format has them. `functions` is the former name of `tools`."""

_CALLS = "write each call into `tool_calls` of its message"
_TOOL_CHOICE = "remove it; the answer shows whether a function is called"
_REASONING = "write the reasoning into `reasoning_content` of its message, or remove the field"
_MEDIA = "only text can be learned"
_MARK = "mark single messages instead, with `weight` 0 or 1"
_SYSTEM = "rename it to `system` in a format that reads it, or write it as a message with the role system"
UNSUPPORTED: Mapping[str, str] = {
    **dict.fromkeys(CALL_FIELDS, _CALLS),
    **dict.fromkeys(("tool_choice", "parallel_tool_calls"), _TOOL_CHOICE),
    "tool_call_id": "write it into its message",
    **dict.fromkeys((*REASONING_FIELDS, "thoughts"), _REASONING),
    **dict.fromkeys(("image", "images", "audio", "audios", "video", "videos"), _MEDIA),
    **dict.fromkeys(("weight", "loss_weight", "train", "loss_mask"), _MARK),
    **dict.fromkeys(("system", "system_prompt", "system_message"), _SYSTEM),
    "history": "write earlier turns as messages, or use the format alpaca",
    "chat_template": "put the template into the model's folder",
}
"""Unsupported fields that would change what is read or learned, with a hint."""
_MESSAGE_ONLY = {"reasoning", "thoughts"}
"""Names that are metadata in a row and unsupported only in a message."""


class FormatMismatch(Exception):
    """An error for a row that does not match its format; drops are counted by `reason`."""

    def __init__(self, problem: str, *, reason: str = "misfit", hint: str | None = None) -> None:
        super().__init__(problem)
        self.reason, self.hint = reason, hint


class UnsupportedField(FormatMismatch):
    """An error for an unsupported field, which it names."""

    def __init__(self, field: str, where: str, problem: str, hint: str) -> None:
        reason = "unsupported_" + re.sub(r"\W+", "_", field)
        super().__init__(problem, reason=reason, hint=f"{hint}; or set `on_bad_row: drop`")
        self.field, self.where = field, where


def is_empty(value: Any) -> bool:
    """Return True if a value is null or empty, as in the unused columns of a table."""
    if isinstance(value, str):
        return value.strip() in EMPTY_TEXTS
    return value is None or (isinstance(value, (list, tuple, dict)) and not value)


def check_message(message: Mapping[str, Any], where: str) -> None:
    """Refuse fields of a message that are neither read nor metadata."""
    for name, value in message.items():
        if name in MESSAGE_FIELDS or name in MESSAGE_METADATA or is_empty(value):
            continue
        hint = UNSUPPORTED.get(name, f"remove it; known are {', '.join((*MESSAGE_FIELDS, *MESSAGE_METADATA))}")
        raise UnsupportedField(name, where, f"`{where}.{name}`, a field that is not supported", hint)
    for name, alias in (("role", "from"), ("content", "value")):
        if not is_empty(message.get(name)) and not is_empty(message.get(alias)) and message[name] != message[alias]:
            raise FormatMismatch(f"`{where}` has both `{name}` and `{alias}`, which differ")


def check_part(part: Mapping[str, Any], where: str) -> None:
    """Refuse a part of a message that is not plain text."""
    if part.get("type") != "text":
        raise UnsupportedField("content", where, f"`{where}` holds a part of the type {part.get('type')!r}", _MEDIA)
    for name, value in part.items():
        if name not in ("type", "text", "value") and not is_empty(value):
            raise UnsupportedField(
                name, where, f"`{where}` has a part with `{name}`, which is not supported", "remove it"
            )


def is_learned(message: Mapping[str, Any], role: str, where: str) -> bool:
    """Return True if a message is learned, by its marks; messages of other roles than the assistant must have 0."""
    values = {name: _mark(message[name], f"{where}.{name}") for name in LEARNED_MARKS if message.get(name) is not None}
    if len(set(values.values())) > 1:
        raise FormatMismatch(
            f"`{where}` has {' and '.join(f'`{name}`' for name in values)}, which contradict each other"
        )
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
    """Refuse fields of a row that would change what is learned but that its format does not read.

    A format reads one field of each group in `alternatives`; two fields of a group with different values are refused.
    """
    for name, value in row.items():
        if name in reads or name in TEMPLATE_FIELDS or is_empty(value) or name in _MESSAGE_ONLY:
            continue
        if name in UNSUPPORTED and not (name in LEARNED_MARKS and value in (1, True)):
            raise UnsupportedField(name, "row", f"`{name}`, a field that is not supported here", UNSUPPORTED[name])
        matches = get_close_matches(
            name, [field for field in (*reads, "tools", "chat_template_kwargs") if field not in row], n=1, cutoff=0.85
        )
        if matches and name not in ROW_METADATA:
            raise UnsupportedField(name, "row", f"the unknown field `{name}`", f"did you mean `{matches[0]}`?")
    for names in alternatives:
        present = sorted(name for name in names if not is_empty(row.get(name)))
        if len(present) > 1 and any(row[name] != row[present[0]] for name in present):
            raise FormatMismatch(
                f"{' and '.join(f'`{name}`' for name in present)}, of which only one is read", reason="ambiguous"
            )


def metadata_fields(row: Mapping[str, Any], reads: Collection[str]) -> list[str]:
    """Return the fields of a row that are neither read nor known metadata."""
    known = {*reads, *ROW_METADATA, *TEMPLATE_FIELDS}
    return [name for name, value in row.items() if name not in known and not is_empty(value)]
