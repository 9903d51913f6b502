"""The written forms of a kind of personal data, and their replacement by a placeholder.

Repetitions in patterns are bounded and not ambiguous, so that the time is linear in the text. Patterns for frequent
kinds begin with a class of characters and look back afterwards, because `re` skips quickly to a class, and not to a
look-behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

SPACES = " \u00a0\u202f"
"""The space, and the no-break spaces with which numbers are written."""
DASHES = "\u2010-\u2013"
"""A range for classes of characters: the hyphens and dashes with which numbers are written, besides `-`."""
_FULL_WIDTH = re.compile("[\uff0b\uff0d\uff0e\uff10-\uff19\uff20]")
_ASCII = {char: chr(ord(char) - 0xFEE0) for char in map(chr, range(0xFF01, 0xFF5F))}
_CONTEXT = 40
"""Characters after a value in which `not_before` is searched, and before a value for `after` and `not_after`."""


def ascii_digits(text: str) -> str:
    """Return a text of equal length in which digits, `+`, `-`, `.` and `@` of full width are those of ASCII."""
    return _FULL_WIDTH.sub(lambda match: _ASCII[match[0]], text)


@dataclass(frozen=True)
class Form:
    """One written form of a kind; the group `value`, or the whole match, is masked if it passes the check."""

    pattern: re.Pattern[str]
    check: Callable[[str], bool] | None = None
    after: re.Pattern[str] | None = None
    """A pattern, ending in `$`, that occurs directly before a value."""
    not_after: re.Pattern[str] | None = None
    """A pattern, ending in `$`, that does not occur directly before a value."""
    not_before: re.Pattern[str] | None = None
    """A pattern that does not match directly after a value."""
    end: Callable[[str, int], int] | None = None
    """Returns the end of the value that begins at a position; the pattern then needs to match its beginning only."""
    context: int = _CONTEXT

    def mask(self, text: str, placeholder: str, *, full_width: bool = False) -> tuple[str, int]:
        """Return the text with placeholders, and their number; `full_width` also finds digits of full width."""
        searched = ascii_digits(text) if full_width else text
        group = "value" if "value" in self.pattern.groupindex else 0
        pieces: list[str] = []
        position = count = 0
        for match in self.pattern.finditer(searched):
            start, end = match.span(group)
            if start < position or not self._is_after(searched, start):
                continue
            if self.end:
                end = self.end(searched, start)
            if self._accepts(searched, start, end):
                pieces += text[position:start], placeholder
                position, count = end, count + 1
        return "".join([*pieces, text[position:]]) if count else text, count

    def _is_after(self, text: str, start: int) -> bool:
        before = text[max(0, start - self.context) : start]
        if self.after and not self.after.search(before):
            return False
        return not (self.not_after and self.not_after.search(before))

    def _accepts(self, text: str, start: int, end: int) -> bool:
        if self.check and not self.check(text[start:end]):
            return False
        return not (self.not_before and self.not_before.match(text[end : end + _CONTEXT]))


@dataclass(frozen=True)
class PersonalDataKind:
    """A kind of personal data with its written forms."""

    name: str
    placeholder: str
    hint: str
    """A pattern in RE2, shorter than those of the forms, that occurs in every text in which a form matches."""
    forms: tuple[Form, ...]

    def mask(self, text: str, *, full_width: bool = False) -> tuple[str, int]:
        """Return the text with the values of this kind replaced by the placeholder, and their number.

        With `full_width`, digits of full width and their signs are read as those of ASCII.
        """
        total = 0
        for form in self.forms:
            text, count = form.mask(text, self.placeholder, full_width=full_width)
            total += count
        return text, total


def form(
    pattern: str,
    check: Callable[[str], bool] | None = None,
    *,
    flags: int = 0,
    after: str | None = None,
    not_after: str | None = None,
    not_before: str | None = None,
    end: Callable[[str, int], int] | None = None,
    context: int = _CONTEXT,
) -> Form:
    """Return the form with the given patterns; `context` is the number of characters before a value that are read."""
    compiled = (re.compile(part) if part else None for part in (after, not_after, not_before))
    return Form(re.compile(pattern, flags), check, *compiled, end=end, context=context)
