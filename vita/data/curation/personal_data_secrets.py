"""The forms of secrets after a name: passwords, keys and tokens that are assigned, and credentials in HTTP headers.

Such a value has no distinctive form. It is a secret because of the name before it and because it is not a word: names
of variables, placeholders in manuals (`your_api_key`) and labels (`"password": "Password"`) are not masked.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from vita.data.curation.personal_data_forms import Form, PersonalDataKind, form

# -- names

_PASSWORD_NAMES = (
    r"passw(?:or)?d|passwort|passphrase|passcode|kennwort|mot de passe|contraseña|contrasena|wachtwoord|пароль"
    r"|密码|密碼|パスワード|비밀번호|(?<![a-z])pwd|(?:(?<![a-z])|[_-]|db|user)pass"
)
KEY_NAMES = (
    r"(?:api|access|auth|secret|private|encryption|signing|master|account|subscription|license|session)[_-]?key"
    r"|secret|token|credentials?"
)
_QUOTE = r"\\?[\"'`]"
_ASSIGNMENT = rf"(?:{_QUOTE})?\]?[ \t]{{0,3}}(?:=>|:=|[=:：])[ \t]{{0,3}}"
"""The characters between a name and its value: `password=`, `"password": `, `config["password"] = `."""
_LAST_WORDS = (
    r"(?i:passw(?:or)?[dt]|passphrase|passcode|kennwort|pwd|pass|key|secret|token|credentials?|authorization"
    r"|mot de passe|contrase[ñn]a|wachtwoord|пароль|密码|密碼|パスワード|비밀번호)"
)
_SENTENCE = r"[Pp]ass(?:word|code|phrase|wort) (?:is|ist)(?: now)?|密码是|密碼是|パスワードは"
NAMED_KEY_CANDIDATE = (
    rf"{_LAST_WORDS}[\"'`\\\]]{{0,3}}[ \t]{{0,3}}[=:>：]|[Pp]ass(?:word|code|phrase|wort) ist?[ :：]"
    r"|密码是|密碼是|パスワードは|(?i:bearer)[ \t]"
)
"""A pattern in RE2 that occurs wherever the hint does, and for which RE2 needs few states."""
_HINT = (
    rf"{_LAST_WORDS}(?:{_ASSIGNMENT}[^\s<>,;]{{4}}|>[^\s<]{{4}})|{_SENTENCE}"
    rf"|(?i:bearer)[ \t]{{1,3}}(?:{_QUOTE})?[A-Za-z0-9_.~%+/-]{{16}}"
)

# -- checks

_NO_SECRET = re.compile(
    r"example|sample|dummy|placeholder|your|change_?me|replace|redacted|hidden|undefined|xxxx|\*\*\*|\.\.\.|[_-]here"
    r"|important|://",
    re.IGNORECASE,
)
"""Placeholders in manuals, and values that are not secrets."""
_PASSWORD_WORD = re.compile(
    r"^(?=.*(?:passw|pwd|passphrase|secret|token|user|login|string))[^\W\d]+(?:[.-][^\W\d]+)*[!*]?$"
    r"|^(?:true|false|none|null)$"
    r"|(?:sha|md|utf|base|pbkdf|aes|rsa|argon|varchar)[_-]?\d|^\d+-?(?:digit|char|bit|letter|byte)",
    re.IGNORECASE,
)
"""Values after the name of a password that are labels, types and other words of letters, algorithms or requirements."""
_IDENTIFIER = re.compile(
    r"[$%@:#]{1,2}\{?[A-Za-z_]\w*%?\}?|[a-z]+(?:_[a-z0-9]+)+|[A-Za-z_]\w*(?:[./][A-Za-z_]\w*)+|[/~].*"
)
"""The form of variables, attributes and paths."""
_WORDS = re.compile(r"(?:[A-Za-z]+[0-9]{0,3}|[0-9]{1,4})(?:[_./~+-]+(?:[A-Za-z]+[0-9]{0,3}|[0-9]{1,4}))*[=_./-]*")
"""Words with separators, with short numbers at their ends."""


def _is_password(value: str) -> bool:
    """Return True for a value with letters and digits or symbols, or 6 to 12 digits, that is not an identifier."""
    if value.isdigit():
        return 6 <= len(value) <= 12
    if not any(character.isalpha() for character in value):
        return False
    return _is_literal_password(value) and any(character.isdigit() or character in "!@#$%^*~" for character in value)


def _is_literal_password(value: str) -> bool:
    """Return True for a value, also of letters only, that is no placeholder, identifier or name in capital letters."""
    if _NO_SECRET.search(value) or _PASSWORD_WORD.search(value) or _IDENTIFIER.fullmatch(value):
        return False
    return not (value.replace("_", "").isalpha() and value.isupper())


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


def _is_private_number(value: str) -> bool:
    """Return True for a hexadecimal number with the entropy of a random one, unlike `0x4646...` in manuals."""
    return _entropy(value[2:].lower()) >= 2.8


def _entropy(value: str) -> float:
    """Return the Shannon entropy of the characters of a string, in bits per character."""
    shares = [count / len(value) for count in Counter(value).values()]
    return -sum(share * math.log2(share) for share in shares)


def _is_basic_credentials(value: str) -> bool:
    """Return True if the base64 of a value is `user:password` (RFC 7617)."""
    try:
        return ":" in base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False


# -- forms

_TOKEN = r"(?P<value>[A-Za-z0-9_.~%+/-]{16,1000}={0,2})(?![A-Za-z0-9_~%+/(\[-])"
_CHARACTER = r"[^\s\"'`<>,;&()\[\]{}|\\]"
"""A character of a value without quotes."""
_PLAIN = rf"(?P<value>(?![=>:/.-]){_CHARACTER}{{5,127}}(?<![.:?]))"
_LITERAL = rf"(?P<value>{_CHARACTER}{{4,128}})"
_VARIABLE = r"(?:export |set |ENV )?[A-Z0-9_]{0,40}(?:PASSW(?:OR)?D|_PASS)"
"""A variable of the environment."""
_PROPERTY = r"(?!self\.|this\.)[a-z][a-z0-9-]{0,30}(?:\.[a-z0-9-]{1,30}){1,6}\.password"
"""A property with two or more dots: `spring.datasource.password`."""
_CALL = r"[(\[{]"
"""The start of the arguments or of the index of a name."""


def _assigned_form(names: str, value: str, check: Callable[[str], bool], *, not_after: str | None = None) -> Form:
    """Return the form of a value that is assigned to a name. The pattern begins with the rare sign of assignment."""
    return form(
        rf"[=:：]>?[ \t]{{0,3}}{value}",
        check,
        after=rf"(?i:{names}){_ASSIGNMENT}(?:{_QUOTE})?$",
        not_after=not_after,
        not_before=_CALL,
    )


_HEADER = rf"authorization(?:{_QUOTE})?[ \t]{{0,3}}[:=][ \t]{{0,3}}(?:{_QUOTE})?"
NAMED_KEY = PersonalDataKind(
    "key",
    "<KEY>",
    _HINT,
    (
        form(
            rf"[:=](?:{_QUOTE}|[ \t]){{0,4}}[Bb][Aa][Ss][Ii][Cc][ \t]{{1,3}}(?P<value>[A-Za-z0-9+/]{{6,500}}={{0,2}})",
            _is_basic_credentials,
            after=rf"(?i:{_HEADER}basic[ \t]{{1,3}})$",
        ),
        form(
            rf"[:=](?:{_QUOTE}|[ \t]){{0,4}}(?:[A-Za-z-]{{1,20}}[ \t]{{1,3}})?{_TOKEN}",
            is_random_token,
            after=rf"(?i:{_HEADER}(?:[a-z-]{{1,20}}[ \t]{{1,3}})?)$",
        ),
        form(rf"[Bb](?i:earer)[ \t]{{1,3}}(?:{_QUOTE})?{_TOKEN}", is_random_token),
        _assigned_form(
            "(?:private|secret)[_-]?key", rf"(?:{_QUOTE})?(?P<value>0x[0-9a-fA-F]{{64}})(?!\w)", _is_private_number
        ),
        _assigned_form(
            KEY_NAMES,
            rf"(?:{_QUOTE})?{_TOKEN}",
            is_random_token,
            not_after=rf"(?i:public[a-z_-]{{0,12}}){_ASSIGNMENT}(?:{_QUOTE})?$",
        ),
        _assigned_form(
            _PASSWORD_NAMES, rf"(?P<quote>{_QUOTE})(?P<value>[^\s\"'`<>\\]{{6,128}})(?P=quote)", _is_password
        ),
        _assigned_form(_PASSWORD_NAMES, _PLAIN, _is_password),
        form(
            rf"(?:{_SENTENCE})[:：]? ?{_PLAIN}",
            _is_password,
            not_before=_CALL,
        ),
        # Values that are no names of variables: in addresses, options, connection strings, elements, environments.
        form(
            rf"={_LITERAL}",
            _is_literal_password,
            after=rf"(?i:[?&](?:{_PASSWORD_NAMES})|--[a-z-]{{0,20}}(?:{_PASSWORD_NAMES})"
            rf"|(?:uid|user|user ?id|username)=[^;\s\"'<>]{{1,20}}; ?(?:{_PASSWORD_NAMES}))=$",
            not_before=_CALL,
        ),
        form(rf">{_LITERAL}</", _is_literal_password, after=rf"(?i:<[\w:.-]{{0,20}}(?:{_PASSWORD_NAMES}))>$"),
        form(rf"^[ \t]{{0,8}}{_VARIABLE}={_LITERAL}(?=[ \t\r]|$)", _is_literal_password, flags=re.MULTILINE),
        form(rf"^{_PROPERTY}[ \t]?=[ \t]?{_LITERAL}(?=\r|$)", _is_literal_password, flags=re.MULTILINE),
    ),
)
