"""Detection of JSON Lines and JSON from content, under every name of a text format.

    named_rows_format(b'{"text": "a"}\\n{"text": "b"}\\n', "json", text_fields=("text",))    # "jsonl"
    named_rows_format(b'{\\n "text": "a"\\n}\\n', "jsonl", text_fields=("text",))           # "json"

The names `.json` and `.jsonl` state that the content is JSON, so its first two lines decide between the two formats.
Under another name, such as `.txt`, text can begin like JSON by chance. It is read as rows only if all of its first
lines are objects, or the first element of its array is one, that hold text in a text field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import orjson

FIRST_LINES = 8
"""Lines that must be objects in a file whose name states another format."""
_ARRAY = re.compile(rb"\[\s*(?=\{)")
_ARRAY_END = re.compile(r"\s*[,\]]")


def named_rows_format(text: bytes, named: str, *, text_fields: Sequence[str]) -> str:
    """Return the format of content that begins with `text` in a file whose name states the format `named`.

    `text_fields` are the names of the field with the text of a row; the first one that a row has is its text.
    """
    text = text.lstrip()
    if named in ("json", "jsonl"):
        return _json_format(text, named)
    if text.startswith(b"{") and _are_texts(text, text_fields):
        return "jsonl"
    if _ARRAY.match(text) and _has_text(_first_element(text), text_fields):
        return "json"
    return named


def rows_format(text: bytes) -> str | None:
    """Return `jsonl` if the first line is a JSON object, and `json` if the content begins as an array of objects."""
    text = text.lstrip()
    if _ARRAY.match(text[:64]):
        return "json"
    return "jsonl" if _parse_object(text.split(b"\n", 1)[0]) is not None else None


def _json_format(text: bytes, named: str) -> str:
    """Return `json` for an array of objects and for an object of several lines, else `jsonl`.

    A single line with one object is JSON Lines with one row, which is the same document as in JSON. The second line
    shows JSON Lines whose first line is damaged. If both are damaged, the name decides.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if not text.startswith(b"{"):
        rows = [line for line in lines[:2] if line.startswith(b"[") and _parse(line) is not None]
        return "json" if _ARRAY.match(text) and len(rows) < 2 else named
    if len(lines) < 2 or any(_parse_object(line) is not None for line in lines[:2]):
        return "jsonl"
    return "json" if _is_beginning(lines[0]) else named


def _is_beginning(line: bytes) -> bool:
    """Return True if a line can be the beginning of an object of several lines: only its end is missing."""
    text = line.decode("utf-8", "ignore").rstrip()
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text)
    except RecursionError:
        return True
    return False


def _are_texts(text: bytes, text_fields: Sequence[str]) -> bool:
    """Return True if the first complete lines are objects with text, and another line begins as an object."""
    lines = [line for line in text[: text.rfind(b"\n") + 1].splitlines() if line.strip()][:FIRST_LINES]
    if not lines or not all(_has_text(_parse_object(line), text_fields) for line in lines):
        return False
    return len(lines) > 1 or text[text.rfind(b"\n") + 1 :].startswith(b"{")


def _has_text(row: Any, text_fields: Sequence[str]) -> bool:
    """Return True if the field that is the text of a row holds text."""
    if not isinstance(row, dict):
        return False
    name = next((name for name in text_fields if name in row), None)
    return name is not None and isinstance(row[name], str)


def _first_element(text: bytes) -> Any:
    """Return the first element of an array that is complete in `text`, else None."""
    array = _ARRAY.match(text)
    start = text[array.end() if array else 0 :].decode("utf-8", "ignore")
    try:
        element, end = json.JSONDecoder().raw_decode(start)
    except (ValueError, RecursionError):
        return None
    return element if _ARRAY_END.match(start, end) else None


def _parse(line: bytes) -> Any:
    """Return a JSON value as Python's `json` writes it, else None."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            return None


def _parse_object(line: bytes) -> dict[str, Any] | None:
    value = _parse(line) if line.lstrip().startswith(b"{") else None
    return value if isinstance(value, dict) else None
