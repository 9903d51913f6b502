"""Repair of text that was decoded with the wrong encoding, such as `rÃ´le` for `rôle` (mojibake).

ftfy finds the sequence of wrong decodings and reverts it. It changes nothing else here: quotes, ligatures and widths of
characters stay.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_SUSPICIOUS = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013\u2014\u2018-\u201e"
    "\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]"  # UTF-8 read as Latin-1 or Windows-1252
    "|[\u0080-\u009f]"  # control characters, which no text contains
    "|\u0432\u0402|\u201a\u00c4|\u221a[\u00a0-\uffff]|\u251c"  # UTF-8 read as Windows-1251, Mac Roman, code page 437
)


def repair_encoding(text: str) -> str:
    """Return the text with wrong decodings reverted; the same object if there are none."""
    if text.isascii() or not _SUSPICIOUS.search(text):
        return text
    is_bad, fix, config = _ftfy()
    if not is_bad(text):
        return text
    repaired = fix(text, config)
    return text if repaired == text else repaired


@cache
def _ftfy() -> tuple[Any, Any, Any]:
    import ftfy
    from ftfy.badness import is_bad

    config = ftfy.TextFixerConfig(
        unescape_html=False, remove_terminal_escapes=False, fix_latin_ligatures=False, fix_character_width=False,
        uncurl_quotes=False, fix_line_breaks=False, fix_surrogates=False, remove_control_chars=False,
        normalization=None,
    )  # fmt: skip
    return is_bad, ftfy.fix_text, config
