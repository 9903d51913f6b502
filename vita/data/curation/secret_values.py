"""The extent of a password in a text: between quotes, or without quotes up to a space or the next field.

Passwords contain any characters. `&`, `;`, `,`, `|` and brackets are part of one, unless another field, the end of the
sentence or the end of the surrounding brackets follows.
"""

from __future__ import annotations

import re

QUOTE = r"\\?[\"'`]"
_CHARACTER = r"(?:[^\s\"'`<>\\“”，。；、）】」』！？]|(?<=\w-)>(?=\w))"
"""A character of a value without quotes, or the end of an arrow (`$settings->password`)."""
_MAXIMUM = 256
_UNQUOTED = re.compile(rf"{_CHARACTER}{{1,{_MAXIMUM}}}")
_NEXT_FIELD = re.compile(
    r"&&|\|\||&(?:quot|apos|lt|gt|nbsp|#x?[0-9A-Fa-f]{1,6});"
    r"|[,;&|](?=\Z|[\s\"'`<>\\]|(?:amp;)?[.#\[]?\w[\w.\[\]$-]{0,39}[ \t]?[=:]|[A-Za-z][\w .-]{0,30}=)"
)
"""A separator before another field, an operator of a shell, or an entity of HTML."""
_CLOSING = {")": "(", "]": "[", "}": "{"}


def unquoted(length: int, *, not_first: str = "") -> str:
    """Return the pattern of the beginning of a value of `length` or more characters, which `unquoted_end` ends.

    Tags of YAML (`!vault |`, `!Ref name`) are no values.
    """
    first = f"(?![{not_first}])" if not_first else ""
    return rf"(?P<value>{first}(?!![A-Za-z:/.]+[ \t]+\S)(?={_CHARACTER}{{{length}}}))"


def quoted(length: int, *, spaces: bool = False) -> str:
    """Return the pattern of a value of `length` or more characters between equal quotes; others can be inside it."""
    character = r"[^\n]" if spaces else r"\S"
    return rf"(?P<quote>{QUOTE})(?P<value>(?:\\(?P=quote)|(?!(?P=quote)){character}){{{length},{_MAXIMUM}}})(?P=quote)"


def unquoted_end(text: str, start: int) -> int:
    """Return the end of the value without quotes that begins at a position."""
    part = text[start : start + _MAXIMUM + 60]
    match = _UNQUOTED.match(part)
    end = match.end() if match else 0
    separator = _NEXT_FIELD.search(part)
    if separator and separator.start() < end:
        end = separator.start()
    value = part[: _end_of_brackets(part[:end])].rstrip(".:?,;&|")
    return start + len(value)


def _end_of_brackets(value: str) -> int:
    """Return the position of the bracket that closes one before the value, or the length.

    A bracket before a letter or digit is part of the value: `a1b2c3)d4`.
    """
    opened: list[str] = []
    for position, character in enumerate(value):
        if character in "([{":
            opened.append(character)
        elif character in _CLOSING:
            following = value[position + 1 : position + 2]
            if opened and opened[-1] == _CLOSING[character]:
                opened.pop()
            elif not (following.isascii() and following.isalnum()):
                return position
    return len(value)
