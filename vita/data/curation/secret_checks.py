"""Checks of secrets: a value is a secret if it is no word, name of a variable, call, template or placeholder."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter
from itertools import pairwise

_NO_SECRET = re.compile(
    r"example|sample|dummy|placeholder|your|change_?me|replace|redacted|hidden|undefined|xxxx|\*\*\*|\.\.\.|[_-]here"
    r"|important|://",
    re.IGNORECASE,
)
"""Placeholders in manuals, and values that are not secrets."""
_PASSWORD_WORD = re.compile(
    r"^(?=.*(?:passw|pwd|passphrase|secret|token|user|login|string))[^\W\d]+(?:[.-][^\W\d]+)*[!*]?$"
    r"|^(?:true|false|none|null|pass)$"
    r"|(?:sha|md|utf|base|pbkdf|aes|rsa|argon|varchar)[_-]?\d|^\d+-?(?:digit|char|bit|letter|byte)",
    re.IGNORECASE,
)
"""Values after the name of a password that are labels, types and other words of letters, algorithms or requirements."""
_IDENTIFIER = re.compile(
    r"[$%@:#]{1,2}\{?[A-Za-z_]\w*%?\}?|[a-z]+(?:_[a-z0-9]+)+|[A-Za-z_]\w*(?:(?:[./]|->|::|\?\.)[A-Za-z_]\w*)+!?|[/~].*"
    r"|[*&][A-Za-z_][\w-]*|%[0-9]*\$?[sdvq]|[A-Z_]*(?:PASS|PWD)[A-Z_]*[0-9]{0,2}"
)
"""The form of variables, attributes, paths, aliases in YAML and conversions of `printf`."""
_TEMPLATE = re.compile(
    r"\$[({]|[%#@]\{|%\(\w+\)|\{\{|\}\}|<[%?]|[%?]>|^[\[{(<].*[\]})>]$|^\+|\+$|^(?:vault|env|file|ref\+\w+|secretsmanager|ENC)[:(]"
)
"""Expressions that a program replaces with a value, and references to a secret that is stored elsewhere."""
_CALL = re.compile(
    r"[$@&*!]?[A-Za-z_][\w.:>-]*(?:\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\})(?:[.;,()\[\]].*)?"
    r"|[$@&*!]?[A-Za-z_][\w.:>-]*[(\[{][^)\]}]*"
)
"""A call or an index, also without its end: `hash(x1)`, `argv[2]`, `z.string().min(8)`."""
_RULES = re.compile(r"(?:^|[|,])(?:required|nullable|string|confirmed|(?:min|max|between|size):[0-9])(?=[|,]|$)")
"""Rules of a validator: `required|min:8`."""
_BRACKETED_WORD = re.compile(
    r"^\w+(?:[+*/]\w+)+$|pass|pwd|user|login|secret|token|word|string|char|option|default|min|max|arg|param|var|value|env|a-z|0-9|sha|md5",
    re.IGNORECASE,
)
"""Expressions, and parts of placeholders, patterns and descriptions, between brackets."""
_SEPARATORS = re.compile(r"[,;&|(){}\[\]]+")
_CODE_PART = re.compile(r"[!#.$@&*-]?[A-Za-z_][\w.$:>-]*|[0-9.]+")
_WORDS = re.compile(r"(?:[A-Za-z]+[0-9]{0,3}|[0-9]{1,4})(?:[_./~+-]+(?:[A-Za-z]+[0-9]{0,3}|[0-9]{1,4}))*[=_./-]*")
"""Words with separators, with short numbers at their ends."""


def is_password(value: str) -> bool:
    """Return True for a value with letters and digits or symbols, or 6 to 12 digits, that is not part of a program.

    A value in which all parts between separators and brackets are identifiers (`options.pw1||config`) is a password
    only if its first part is one (`tr0ub4dor&3`), or if it has 8 characters and `&`.
    """
    if not is_quoted_password(value):
        return False
    first, *others = _SEPARATORS.split(value)
    if not others or not all(_CODE_PART.fullmatch(part) for part in (first, *others) if part):
        return True
    return ("&" in value and len(value) >= 8) or is_password(first)


def is_quoted_password(value: str) -> bool:
    """Return True for a value between quotes, as `is_password` does: parts of it are not parts of a program."""
    if value.isdigit():
        return 6 <= len(value) <= 12
    if len(value) < 5 or not any(character.isalpha() for character in value):
        return False
    if not any(character.isdigit() or character in "!@#$%^*~" for character in value):
        return False
    return is_literal_password(value) and not _RULES.search(value)


def is_literal_password(value: str) -> bool:
    """Return True for a value, also of letters only, that is no placeholder, identifier or name in capital letters.

    It has at least 4 characters.
    """
    if len(value) < 4:
        return False
    if _NO_SECRET.search(value) or _PASSWORD_WORD.search(value) or _IDENTIFIER.fullmatch(value):
        return False
    if _TEMPLATE.search(value) or _CALL.fullmatch(value):
        return False
    return not (value.replace("_", "").isalpha() and value.isupper())


def is_password_in_command(value: str) -> bool:
    """Return True for a literal password that is not a number with fewer than 6 digits, such as a port."""
    return is_literal_password(value) and not (value.isdigit() and len(value) < 6)


def is_bracketed_password(value: str) -> bool:
    """Return True for a password that fills brackets, which also surround placeholders, patterns and requirements."""
    return not _BRACKETED_WORD.search(value) and is_password(value)


def is_random_token(value: str) -> bool:
    """Return True if a string of 16 or more characters is random, rather than words.

    A random string has letters, an entropy of 2.8 bits per character, and either two digits among its letters or a
    change between lower case, upper case and digits at 55% of its positions; `camelCaseNames` have fewer changes.
    """
    if _NO_SECRET.search(value) or value.startswith(("0x", "/")):
        return False
    if not any(character.isalpha() for character in value) or _entropy(value) < 2.8:
        return False
    kinds = [(character.islower(), character.isdigit()) for character in value if character.isalnum()]
    if sum(first != second for first, second in pairwise(kinds)) >= 0.55 * len(kinds):
        return True
    return sum(character.isdigit() for character in value) >= 2 and not _WORDS.fullmatch(value)


def is_private_number(value: str) -> bool:
    """Return True for a hexadecimal number with the entropy of a random one, unlike `0x4646...` in manuals."""
    return _entropy(value[2:].lower()) >= 2.8


def _entropy(value: str) -> float:
    """Return the Shannon entropy of the characters of a string, in bits per character."""
    shares = [count / len(value) for count in Counter(value).values()]
    return -sum(share * math.log2(share) for share in shares)


def is_basic_credentials(value: str) -> bool:
    """Return True if the base64 of a value is `user:password` (RFC 7617)."""
    try:
        return ":" in base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
