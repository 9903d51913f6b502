"""The rights that a web page states about itself, in its head and in its HTTP headers.

    page_rights(html, {"x-robots-tag": "noai"})      # {"licence": "https://...", "robots": "noai", "opt_out": True}

Read are `<link rel="license">`, `<meta name="robots">`, `<meta name="tdm-reservation">` (W3C TDM Reservation Protocol)
and the headers `X-Robots-Tag` and `tdm-reservation`. Directives for a single crawler (`googlebot: noindex`) are not
read, and neither are links in the body, which often state the licence of a picture only.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

_HEAD_BYTES = 2**16
_HIDDEN = ((b"<!--", b"-->"), (b"<script", b"</script"))
"""Beginnings and ends of parts of the head that state nothing."""
_TAG = re.compile(rb"<(?:meta|link)\s[^<>]{0,2000}>")
_MARKS = (b"license", b"robots", b"tdm-reservation")


def page_rights(html: bytes, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the fields `licence`, `robots` and `opt_out` that a page states; `headers` have lower-case names."""
    headers = headers or {}
    head = html[:_HEAD_BYTES]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        head = head.decode("utf-16", "replace").encode()
    parser = _TagParser()
    lowered = head.lower()  # of the same length
    if any(mark in lowered for mark in _MARKS):
        for start, stop in _parts_of_head(lowered):
            for tag in _TAG.finditer(lowered, start, stop):
                if any(mark in tag[0] for mark in _MARKS):
                    parser.feed(head[tag.start() : tag.end()].decode("utf-8", "replace"))
    directives = [*parser.robots, *_general_directives(headers.get("x-robots-tag", ""))]
    reserved = parser.reserved or headers.get("tdm-reservation", "").strip() == "1"
    fields = {
        "licence": parser.licence,
        "robots": ", ".join(dict.fromkeys(directives)),
        "opt_out": True if reserved else None,
    }
    return {name: value for name, value in fields.items() if value}


def _parts_of_head(html: bytes) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the parts of the head outside of comments and scripts, of a page in lower case."""
    ends = [position for mark in (b"</head", b"<body") if (position := html.find(mark)) >= 0]
    stop, position = min(ends, default=len(html)), 0
    begins = [-1] * len(_HIDDEN)
    while position < stop:
        for kind, (mark, _) in enumerate(_HIDDEN):
            if begins[kind] < position:
                next_begin = html.find(mark, position, stop)
                begins[kind] = next_begin if next_begin >= 0 else stop
        begin = min(begins)
        yield position, begin
        closing = _HIDDEN[begins.index(begin)][1]
        end = html.find(closing, begin, stop) if begin < stop else -1
        if end < 0:
            return
        position = end + len(closing)


class _TagParser(HTMLParser):
    """Collects the statements of `meta` and `link` elements."""

    def __init__(self) -> None:
        super().__init__()
        self.licence: str | None = None
        self.robots: list[str] = []
        self.reserved = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: (value or "").strip() for name, value in attrs}
        name = values.get("name", "").lower()
        if tag == "link" and "license" in values.get("rel", "").lower().split():
            self.licence = self.licence or values.get("href")
        elif tag == "meta" and name == "robots":
            self.robots += _directives(values.get("content", ""))
        elif tag == "meta" and name == "tdm-reservation":
            self.reserved = self.reserved or values.get("content") == "1"


def _directives(content: str) -> list[str]:
    return [directive for part in content.split(",") if (directive := " ".join(part.lower().split()))]


def _general_directives(header: str) -> list[str]:
    """Return the directives of an `X-Robots-Tag` that address every crawler."""
    return [directive for directive in _directives(header) if ":" not in directive]
