"""The units of a text that are compared for repetition: paragraphs, lines and words, with their positions.

A unit ends where the next one begins, so that a text without some of its units keeps the separators of the others.
Words are compared as they are written, with any white space between them; in scripts without spaces between words, each
character is a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from vita.data.curation.scripts import UNSPACED_CHARACTERS, has_unspaced, separate_unspaced, with_ascii_blanks

UnitKind = Literal["paragraphs", "lines"]
_ENDS = {"paragraphs": re.compile(r"\n\s*\n"), "lines": re.compile(r"\n")}
_WORD = re.compile(f"[{UNSPACED_CHARACTERS}]|[^\\s{UNSPACED_CHARACTERS}]+")


class TextUnit(NamedTuple):
    """A paragraph or line: its text without surrounding white space, and its range of characters with the separator."""

    text: str
    start: int
    stop: int


def text_units(text: str, kind: UnitKind) -> Iterator[TextUnit]:
    """Yield the units of a text that are not blank; paragraphs are separated by blank lines."""
    start = 0
    for end in _ENDS[kind].finditer(text):
        if piece := text[start : end.start()].strip():
            yield TextUnit(piece, start, end.end())
        start = end.end()
    if piece := text[start:].strip():
        yield TextUnit(piece, start, len(text))


def plain_words(text: str, data: bytes) -> bytes:
    """Return the words of a text, separated by one space; `data` is the UTF-8 of the text."""
    if not data.isascii():
        if has_unspaced(data):
            data = separate_unspaced(text).encode("utf-8")
        data = with_ascii_blanks(data)
    return b" ".join(data.split())


def word_starts(text: str) -> list[int]:
    """Return the position of the first character of each word of `plain_words`."""
    return [match.start() for match in _WORD.finditer(text)]
