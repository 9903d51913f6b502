"""The forms of secrets after a name: passwords, keys and tokens that are assigned, and credentials in HTTP headers.

Such a value has no distinctive form. It is a secret because of the name before it and because it is not a word: names
of variables, placeholders in manuals (`your_api_key`) and labels (`"password": "Password"`) are not masked.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from vita.data.curation.passphrases import is_hyphenated_passphrase, is_passphrase
from vita.data.curation.personal_data_forms import Form, PersonalDataKind, form
from vita.data.curation.secret_checks import (
    is_basic_credentials,
    is_bracketed_password,
    is_literal_password,
    is_password,
    is_private_number,
    is_quoted_password,
    is_random_token,
)
from vita.data.curation.secret_values import QUOTE, quoted, unquoted, unquoted_end

# -- names

PASSWORD_NAMES = (
    r"passw(?:or)?d|passwort|passphrase|passcode|kennwort|mot de passe|contraseña|contrasena|wachtwoord|пароль"
    r"|密码|密碼|パスワード|비밀번호|(?<![a-z])pwd|(?<![a-z])psk|(?:(?<![a-z])|[_-]|db|user)pass"
)
KEY_NAMES = (
    r"(?:api|access|auth|secret|private|encryption|signing|master|account|subscription|license|session|shared)[_-]?key"
    r"|secret|token|credentials?"
)
_ASSIGNMENT = rf"(?:{QUOTE})?\]?[ \t]{{0,3}}(?:=>|:=|[=:：])[ \t]{{0,3}}"
"""The characters between a name and its value: `password=`, `"password": `, `config["password"] = `."""
_LAST_WORDS = (
    r"(?i:passw(?:or)?[dt]|passphrase|passcode|kennwort|pwd|psk|pass|key|secret|token|credentials?|authorization"
    r"|mot de passe|contrase[ñn]a|wachtwoord|пароль|密码|密碼|パスワード|비밀번호)"
)
_SENTENCE = r"[Pp]ass(?:word|code|phrase|wort) (?:is|ist)(?: now)?|密码是|密碼是|パスワードは"
PASSWORD_WORDS = (
    "(?i:passw|passphrase|passcode|pwd|\\bpsk|kennwort|mot de passe|contrase[ñn]a|wachtwoord|пароль)"
    "|密码|密碼|パスワード|비밀번호"
)
"""A part of every name of a password, except `pass`."""
NAMED_KEY_CANDIDATE = (
    rf"{PASSWORD_WORDS}|(?i:pass|key|secret|token|credentials?|authorization)[\"'`\\\]]{{0,3}}[ \t]{{0,3}}[=:>：]"
    r"|(?i:bearer)[ \t]"
)
"""A pattern in RE2 that occurs wherever the hint does, and for which RE2 needs few states."""
_HINT = (
    rf"{_LAST_WORDS}(?:{_ASSIGNMENT}\S{{2}}|>[^\s<]{{4}})|{_SENTENCE}"
    rf"|(?i:bearer)[ \t]{{1,3}}(?:{QUOTE})?[A-Za-z0-9_.~%+/-]{{16}}"
    rf"|{_LAST_WORDS}[\"'][\s,][^<>]{{0,90}}(?i:value)|{_LAST_WORDS}[\"'][^<>]{{0,90}}>\s{{0,40}}<value>"
)

# -- forms

_TOKEN = r"(?P<value>[A-Za-z0-9_.~%+/-]{16,1000}={0,2})(?![A-Za-z0-9_~%+/(\[-])"
_PLAIN = unquoted(5, not_first="=>:/.,;|-")
_LITERAL = unquoted(4)
_VARIABLE = r"(?:export |set |ENV )?[A-Z0-9_]{0,40}(?:PASSW(?:OR)?D|_PASS)"
"""A variable of the environment."""
_PROPERTY = r"(?!self\.|this\.)[a-z][a-z0-9-]{0,30}(?:\.[a-z0-9-]{1,30}){1,6}\.password"
"""A property with two or more dots: `spring.datasource.password`."""
_NAME_ATTRIBUTE = rf"(?i:(?:key|name|id)[\"']?[ \t]?[=:][ \t]?[\"'][\w.:-]{{0,30}}(?:{PASSWORD_NAMES}))[\"']"
_VALUE_ATTRIBUTE = r"[\"']?(?i:value)[\"']?[ \t]?[=:][ \t]?"
"""A name and a value in two attributes or fields: `<add key="AdminPassword" value="..."/>`."""
_PASSPHRASE_NAMES = r"passw(?:or)?d|passwort|passphrase|passcode|(?<![a-z])pwd"
_PHRASE = rf"(?P<quote>{QUOTE})(?P<value>[^\s\"'`\\]{{1,30}}(?: [^\s\"'`\\]{{1,30}}){{2,9}})(?P=quote)"
_HYPHENATED = (
    rf"(?P<quote>{QUOTE})?(?P<value>[A-Za-z]{{3,20}}(?:-[A-Za-z0-9]{{1,20}}){{3,9}})(?(quote)(?P=quote)|(?![\w.(-]))"
)
_CALL = r"[(\[{]"
"""The start of the arguments or of the index of a name."""


def _assigned_form(
    names: str, value: str, check: Callable[[str], bool], *, not_after: str | None = None, not_before: str | None = None
) -> Form:
    """Return the form of a value that is assigned to a name. The pattern begins with the rare sign of assignment."""
    return form(
        rf"[=:：]>?[ \t]{{0,3}}{value}",
        check,
        after=rf"(?i:{names}){_ASSIGNMENT}(?:{QUOTE})?$",
        not_after=not_after,
        not_before=not_before,
        end=unquoted_end if value == _PLAIN else None,
    )


def _bracketed_form(brackets: str) -> Form:
    """Return the form of a password that fills brackets: `password: (hunter2)`; no link, call or pattern follows."""
    opening, closing = map(re.escape, brackets)
    value = r"[^\s\"'`<>(){}\[\]\\,;|$%]{5,64}"
    return form(
        rf"[=:：]>?[ \t]{{0,3}}{opening}(?P<quote>{QUOTE})?(?P<value>{value})(?(quote)(?P=quote)){closing}",
        is_bracketed_password,
        after=rf"(?i:{PASSWORD_NAMES}){_ASSIGNMENT}{opening}(?:{QUOTE})?$",
        not_before=rf"(?:{QUOTE})?{closing}[({{\[*+?.$\w]",
    )


_CONNECTION_NAMES = "uid|user|user ?id|username|server|host|port|data source|database|initial catalog"
_OPTION_NAME = rf"--[a-z-]{{0,20}}(?:{PASSWORD_NAMES})"
_HEADER = rf"authorization(?:{QUOTE})?[ \t]{{0,3}}[:=][ \t]{{0,3}}(?:{QUOTE})?"
NAMED_KEY = PersonalDataKind(
    "key",
    "<KEY>",
    _HINT,
    (
        form(
            rf"[:=](?:{QUOTE}|[ \t]){{0,4}}[Bb][Aa][Ss][Ii][Cc][ \t]{{1,3}}(?P<value>[A-Za-z0-9+/]{{6,500}}={{0,2}})",
            is_basic_credentials,
            after=rf"(?i:{_HEADER}basic[ \t]{{1,3}})$",
        ),
        form(
            rf"[:=](?:{QUOTE}|[ \t]){{0,4}}(?:[A-Za-z-]{{1,20}}[ \t]{{1,3}})?{_TOKEN}",
            is_random_token,
            after=rf"(?i:{_HEADER}(?:[a-z-]{{1,20}}[ \t]{{1,3}})?)$",
        ),
        form(rf"[Bb](?i:earer)[ \t]{{1,3}}(?:{QUOTE})?{_TOKEN}", is_random_token),
        _assigned_form(
            "(?:private|secret)[_-]?key", rf"(?:{QUOTE})?(?P<value>0x[0-9a-fA-F]{{64}})(?!\w)", is_private_number
        ),
        _assigned_form(
            KEY_NAMES,
            rf"(?:{QUOTE})?{_TOKEN}",
            is_random_token,
            not_after=rf"(?i:public[a-z_-]{{0,12}}){_ASSIGNMENT}(?:{QUOTE})?$",
            not_before=_CALL,
        ),
        # Values that are no names of variables: in addresses, options, connection strings, elements, environments.
        form(
            rf"={_LITERAL}",
            is_literal_password,
            after=rf"(?i:[?&](?:{PASSWORD_NAMES})|{_OPTION_NAME}"
            rf"|(?:{_CONNECTION_NAMES})=[^;\s\"'<>]{{1,30}}; ?(?:{PASSWORD_NAMES}))=$",
            end=unquoted_end,
        ),
        form(rf"={quoted(4, spaces=True)}", is_literal_password, after=rf"(?i:{_OPTION_NAME})=(?:{QUOTE})$"),
        form(
            r">(?P<value>[^\s<>]{4,256})</",
            is_literal_password,
            after=rf"(?i:<[\w:.-]{{0,20}}(?:{PASSWORD_NAMES}))>$",
        ),
        form(
            rf"^[ \t]{{0,8}}{_VARIABLE}=(?:{quoted(4, spaces=True)})(?=[ \t\r;]|$)",
            is_literal_password,
            flags=re.MULTILINE,
        ),
        form(
            rf"^[ \t]{{0,8}}{_VARIABLE}=(?P<value>[^\s\"'`<>\\]{{3,255}}[^\s\"'`<>\\;&])(?=[;&]{{0,2}}(?:[ \t\r]|$))",
            is_literal_password,
            flags=re.MULTILINE,
        ),
        form(
            rf"^{_PROPERTY}[ \t]?=[ \t]?(?P<value>[^\s\"'`<>\\]{{4,256}})(?=\r|$)",
            is_literal_password,
            flags=re.MULTILINE,
        ),
        _assigned_form(PASSWORD_NAMES, quoted(6), is_quoted_password, not_before=_CALL),
        _assigned_form(_PASSPHRASE_NAMES, _PHRASE, is_passphrase, not_before=_CALL),
        _assigned_form(_PASSPHRASE_NAMES, _HYPHENATED, is_hyphenated_passphrase, not_before=r"[\w(.\[]"),
        form(
            _VALUE_ATTRIBUTE + quoted(5),
            is_quoted_password,
            after=rf"{_NAME_ATTRIBUTE}[\s,][^<>{{}}]{{0,90}}{_VALUE_ATTRIBUTE}[\"']$",
            context=200,
        ),
        form(
            r"(?i:<value>)(?P<value>[^\s<>]{5,256})(?=</)",
            is_quoted_password,
            after=rf"{_NAME_ATTRIBUTE}[^<>]{{0,90}}>\s{{0,40}}(?i:<value>)$",
            context=200,
        ),
        *(_bracketed_form(brackets) for brackets in ("()", "[]")),
        _assigned_form(PASSWORD_NAMES, _PLAIN, is_password),
        form(rf"(?:{_SENTENCE})[:：]? ?[\"'`“‘]?{_PLAIN}", is_password, end=unquoted_end),
    ),
)
