r"""Regular expressions of JSON schemas as the grammar compiler reads them.

    compiled_pattern(r"^[^[]\D$")    # ^[^\[]\P{Nd}$

JSON Schema names the dialect ECMA-262. The compiler reads that of Rust, in which a `[` in a class begins another class.
The classes `\d` and `\w` of the compiler are those of ECMA-262 (ASCII). In Python and others they have all digits and
letters of Unicode, so that a negated class must exclude these also: every validator accepts the texts that remain.
"""

from __future__ import annotations

import re

_DIGITS, _WORDS = r"\p{Nd}", r"\p{L}\p{M}\p{N}_"
_NEGATIONS = {r"\D": f"[^{_DIGITS}]", r"\W": f"[^{_WORDS}]"}
_EXCLUDED = {r"\d": _DIGITS, r"\w": _WORDS}
"""Classes in a negated class."""
_PART = re.compile(r"\\.|\[\^?\]?|&&|~~|.", re.DOTALL)


def compiled_pattern(pattern: str) -> str:
    """Return the regular expression for the compiler whose texts match `pattern` in ECMA-262 and in Python's `re`."""
    result, is_class, is_negated = "", False, False
    parts: list[str] = _PART.findall(pattern)
    for part in parts:
        if not is_class and part.startswith("["):
            is_class, is_negated = True, part.startswith("[^")
        elif is_class and part == "]":
            is_class = False
        elif is_class and (part in ("&&", "~~") or part.startswith("[")):
            is_class = not part.endswith("]")
            part = "".join(f"\\{character}" for character in part.removesuffix("]")) + "]" * (not is_class)
        elif is_class and is_negated:
            part = _EXCLUDED.get(part, part)
        else:
            part = _NEGATIONS.get(part, part)
        result += part
    return result
