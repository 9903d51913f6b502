r"""Escaping of untrusted text (models, users, files) for the terminal, HTML and Markdown.

    printable("a\x1b[2Jb")           # 'a\\x1b[2Jb'
    html_text("<b>\u202e")            # '&lt;b&gt;\\u202e'
    markdown_text("[a](b) *c*")      # '\\[a](b) \\*c\\*'

Control characters could move the cursor or end a document; directional overrides (Unicode TR 36) change the displayed
order of text. Both are escaped.
"""

from __future__ import annotations

import html
import re

_CONTROL = re.compile(
    "\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""C0 and C1 controls except tab and line ends, Unicode line separators and directional controls, and surrogates."""
_MARKDOWN = re.compile(r"[\\`*\[|~]|(?<![^\W_])_|_(?![^\W_])")
"""Characters that begin markup in a line of Markdown; an underscore inside a word does not."""
_MARKDOWN_START = re.compile(r"^(?:[#+\->=]|\d+(?=[.)](?: |$)))")
"""Characters that begin a heading, list, quotation or rule at the start of a line."""


def is_printable(text: str) -> bool:
    """Return True if a terminal displays the text unchanged."""
    return not _CONTROL.search(text)


def printable(text: str) -> str:
    r"""Escape control characters, as `\x1b`; a byte of a file name that is not UTF-8 becomes `\xff`."""
    return _CONTROL.sub(_escaped, text) if _CONTROL.search(text) else text


def html_text(text: str) -> str:
    """Escape text for the content or a quoted attribute of an HTML or SVG element."""
    return html.escape(printable(text))


def markdown_text(text: str) -> str:
    """Escape text for one line of Markdown: a paragraph, a heading, a list item or a table cell."""
    words = printable(" ".join(text.split()))
    escaped = _MARKDOWN.sub(lambda match: "\\" + match.group(), words)
    escaped = re.sub(r"&(?=#?\w+;)", "&amp;", escaped).replace("<", "&lt;")
    return _MARKDOWN_START.sub(_escaped_start, escaped)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Format a number with its noun: `1 document`, `1,200 documents`, `2 dialogues`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def with_article(noun: str) -> str:
    """Return a noun with its indefinite article: `a model`, `an archive`, `tokens`."""
    if noun == "feedback" or (noun.endswith("s") and noun != "corpus"):
        return noun
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _escaped_start(match: re.Match[str]) -> str:
    return match.group() + "\\" if match.group().isdigit() else "\\" + match.group()


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:  # how Python shows a byte that is not UTF-8 ("surrogateescape")
        code -= 0xDC00
    names = {0x0D: r"\r", 0x08: r"\b", 0x00: r"\0"}
    return names.get(code, f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
