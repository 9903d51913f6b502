"""JSON in formats whose records are lines: server-sent events and JSON Lines.

    json_event({"type": "ping"}, name="ping")       # b'event: ping\ndata: {"type":"ping"}\n\n'

Some clients, such as `httpx.Response.iter_lines`, end a line at every character that `str.splitlines` takes for a line
separator. JSON escapes those below U+0020; here the others are also escaped: U+0085, U+2028 and U+2029.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"
"""The last event of a stream of the OpenAI API."""
_SEPARATORS = re.compile(rb"\xc2\x85|\xe2\x80[\xa8\xa9]")
"""The line separators above U+007F in UTF-8; no other character contains these bytes."""


def json_line(value: Any) -> bytes:
    """Return a value as JSON of one line, without the line feed at its end; raises TypeError for other values.

    Halves of surrogate pairs, which UTF-8 cannot contain, become question marks.
    """
    try:
        content = orjson.dumps(value)
    except TypeError:
        content = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    return content if content.isascii() else _SEPARATORS.sub(_escaped, content)


def json_event(value: Any, *, name: str | None = None) -> bytes:
    """Return a server-sent event whose data is a value as JSON; `name` is the type of the event."""
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + json_line(value) + b"\n\n"


def _escaped(match: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(match[0].decode())
