"""The forms of passwords without a sign of assignment: options of commands, statements of SQL, files of programs.

A password in such a place is one word (`mysql --user bob --password swordfish`), or stands on the line after its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from vita.data.curation.personal_data_forms import Form, PersonalDataKind, form
from vita.data.curation.personal_data_secrets import PASSWORD_NAMES, PASSWORD_WORDS
from vita.data.curation.secret_checks import is_literal_password, is_password, is_password_in_command
from vita.data.curation.secret_values import QUOTE, quoted, unquoted, unquoted_end

COMMAND_KEY_CANDIDATE = (
    r"(?i:requirepass|masterauth|redis-cli|identified (?:by|with))|-(?:store|key)pass[ \t]|-pass(?:in|out)?[ \t]"
    r"|(?i:\bnet(?:\.exe)?[ \t]+user?[ \t])"
    r"|sshpass|\s-[pU][ \t\"']|\s-u ?[^\s:]+:|--(?:proxy-)?user[ =]|sudo -S"
    r"|zip [^\n]{0,200}-P|7z[arz]? |(?:mysql|mariadb)[\w-]*[ \t]"
)
"""A pattern in RE2 that occurs, or `PASSWORD_WORDS`, in every text with such a password."""
_CONTEXT = 200
_OPTION_NAMES = r"(?i:passw(?:or)?d|passphrase|passcode|pwd|pass)"
_OPTION = rf"--?(?<![\w-]-)(?<![\w-]--)[A-Za-z-]{{0,20}}{_OPTION_NAMES}[ \t]{{1,3}}"
_USER = r"(?:-[uU]|--?(?:user(?:name)?|login))[ \t=]?\S{1,40}[ \t]+(?:--?[\w-]{1,20}[ \t=]\S{1,40}[ \t]+){0,2}"
"""The option of a user, and up to two others after it."""
_NO_PASSWORD_COMMAND = (
    r"\b(?:mysql\w*|mariadb[\w-]*|psql|mkdir|ssh|scp|ps|top|journalctl|lsof|nc|nmap|(?:docker|podman)[ \t]+run)"
    r"[ \t][^\n]*$"
)
"""Commands whose option `-p` is no password when a space follows it."""


def _word_forms(
    before: str,
    check: Callable[[str], bool],
    *,
    after: str | None = None,
    not_after: str | None = None,
    not_first: str = "-",
    flags: int = 0,
) -> tuple[Form, Form]:
    """Return the forms of a password after a pattern: between quotes, also with spaces, and one word without them."""
    return (
        form(
            before + quoted(4, spaces=True),
            check,
            after=after and rf"{after}(?:{QUOTE})$",
            not_after=not_after,
            flags=flags,
            context=_CONTEXT,
        ),
        form(
            before + unquoted(4, not_first=not_first),
            check,
            after=after and f"{after}$",
            not_after=not_after,
            flags=flags,
            end=unquoted_end,
            context=_CONTEXT,
        ),
    )


_OPTIONS = (
    *_word_forms(_OPTION, is_password),
    *_word_forms(_OPTION, is_literal_password, after=rf"{_USER}--?[A-Za-z-]{{0,20}}{_OPTION_NAMES}[ \t]{{1,3}}"),
    *_word_forms(r"-(?:(?:src|dest)?store|key)pass[ \t]{1,3}", is_literal_password),
    *_word_forms(r"-pass(?:in|out|wd|word)?[ \t]{1,3}(?P<prefix>[\"']?)pass:", is_literal_password),
    *_word_forms(r"sshpass[ \t]{1,3}-p[ \t]?", is_literal_password),
    *_word_forms(
        r"htpasswd[ \t]{1,3}-[A-Za-z]{0,5}b[A-Za-z]{0,5}(?:[ \t]{1,3}[^\s-]\S{0,99}){2}[ \t]{1,3}", is_password
    ),
    *_word_forms(r"-P[ \t]?", is_literal_password, after=r"\b(?:un)?zip[ \t](?:[^\n]*[ \t])?-P[ \t]?"),
    *_word_forms(r"-p(?<=\s-p)", is_literal_password, after=r"\b7z[arz]?[ \t]+[a-z][ \t][^\n]*-p"),
    *_word_forms(r"-a[ \t]{1,3}", is_literal_password, after=r"redis-cli[ \t][^\n]*-a[ \t]{1,3}"),
    *_word_forms(r"-p(?<=\s-p)", is_password_in_command, after=r"(?:mysql|mariadb)[\w-]*[ \t][^\n]*-p"),
    *_word_forms(
        r"-p(?<=\s-p)[ \t=]{1,2}", is_password, after=rf"{_USER}-p[ \t=]{{1,2}}", not_after=_NO_PASSWORD_COMMAND
    ),
    *_word_forms(r"-p(?<=\s-p)[ \t=]{1,2}", is_password_in_command, after=rf"\blogin[ \t][^\n]*{_USER}-p[ \t=]{{1,2}}"),
    form(  # curl -u user:password
        r"-(?:[uU]|-(?:proxy-)?user)[ \t=]{0,2}(?P<quote>[\"'])[^\s:\"'$<{]{1,64}:(?P<value>[^\n\"']{4,128})(?P=quote)",
        is_literal_password,
        after=r"\b(?:curl|wget|xh)\s[\s\S]*$",
        context=_CONTEXT,
    ),
    form(
        rf"-(?:[uU]|-(?:proxy-)?user)[ \t=]{{0,2}}[^\s:\"'$<{{]{{1,64}}:{unquoted(4)}",
        is_literal_password,
        after=r"\b(?:curl|wget|xh)\s[\s\S]*$",
        end=unquoted_end,
        context=_CONTEXT,
    ),
    form(  # the standard input of a command
        r"echo[ \t]{1,3}(?:-n[ \t]{1,3})?(?P<quote>[\"']?)(?P<value>[^\s\"'`|<>\\]{4,128})(?P=quote)"
        r"[ \t]{0,3}\|[ \t]{0,3}(?:sudo[ \t]+-S|(?:sudo[ \t]+)?passwd[ \t]+--stdin|[^\n|]{1,80}--password-stdin)",
        is_literal_password,
    ),
    form(
        r"echo[ \t]{1,3}[\"']?[\w.-]{1,32}:(?P<value>[^\s\"'`|<>\\]{4,128})[\"']?"
        r"[ \t]{0,3}\|[ \t]{0,3}(?:sudo[ \t]+)?chpasswd",
        is_literal_password,
    ),
)
_NET_USE = r"(?i:\bnet(?:\.exe)?[ \t]{1,3}use[ \t])"
_NET_USER = r"(?i:\bnet(?:\.exe)?[ \t]{1,3}user)[ \t]{1,3}(?:[^\s\"'/]{1,40}|\"[^\"\n]{1,40}\")[ \t]{1,3}"
_WINDOWS_USER = r"/(?i:user|u):(?:\"[^\"\n]{1,60}\"|[^\s\"]{1,60})[ \t]{1,3}"
_SHARE = r"\\\\[^\s\\]{1,80}\\\S{1,120}[ \t]{1,3}"
_WINDOWS = (
    *_word_forms(_WINDOWS_USER, is_literal_password, after=rf"{_NET_USE}[^\n]*{_WINDOWS_USER}", not_first="-/*%&|>"),
    form(  # net use DEVICE SHARE PASSWORD /user:NAME
        rf"{_SHARE}(?P<value>[^\s/*%&|<>\"][^\s<>\"]{{3,63}})(?=[ \t]{{1,3}}/(?i:user|u):)",
        is_literal_password,
        after=rf"{_NET_USE}[^\n]*{_SHARE}$",
        context=_CONTEXT,
    ),
    form(rf"{_NET_USER}(?P<value>[^\s/*%&|<>\"][^\s<>\"]{{3,63}})(?=[ \t]{{1,3}}/(?i:add)\b)", is_literal_password),
)
_IDENTIFIED = r"(?i:\s+by|\s+with\s+\S{1,40}\s+(?:by|as))(?i:\s+values)?(?i:\s+password)?\s+"
_STATEMENTS = (
    form(
        rf"(?i:identified){_IDENTIFIED}{quoted(4, spaces=True)}",
        is_literal_password,
        after=rf"(?:IDENTIFIED|(?i:(?:user|to)\s+\S{{1,80}}\s+identified)){_IDENTIFIED}[\"']$",
        context=_CONTEXT,
    ),
    form(
        r"(?i:user\s+\S{1,60}\s+identified\s+by)\s+(?P<value>[^\s\"'`<>\\;,]{4,64})(?=\s{0,3};)",
        is_literal_password,
    ),
    form(r"USER\s+\S{1,60}\s+IDENTIFIED\s+BY\s+(?P<value>[^\s\"'`<>\\;,]{4,64})(?![^\s;])", is_literal_password),
    form(
        rf"(?i:password)\s{{1,3}}{quoted(4, spaces=True)}",
        is_literal_password,
        after=rf"(?i:\b(?:with|encrypted|login|superuser|createdb|createrole)\s+password\s{{1,3}})(?:{QUOTE})$",
    ),
    form(rf"(?i:password)\(\s?{quoted(4)}\s?\)", is_password),
    form(
        rf"(?i:password)\(\s?{quoted(4)}\s?\)",
        is_literal_password,
        after=rf"(?i:\bset\s+password\s[^\n]*=\s*password\(\s?)(?:{QUOTE})$",
        context=_CONTEXT,
    ),
)
_FILES = (
    *_word_forms(  # .netrc
        r"password\s{1,9}",
        is_literal_password,
        after=r"\bmachine\s+(?:localhost|[^\s.:]*[.:]\S+)\s+(?:(?:login|account)\s+\S+\s+){0,2}password\s{1,9}",
    ),
    *_word_forms(
        r"password\s{1,9}",
        is_password,
        after=r"(?:^|\n)[ \t]*(?:machine\s+\S+|default)\s+(?:(?:login|account)\s+\S+\s+){0,2}password\s{1,9}",
    ),
    *_word_forms(r"^(?:requirepass|masterauth)[ \t]{1,3}", is_literal_password, flags=re.MULTILINE),  # Redis
    form(  # routers
        r"^[ \t]{0,8}(?:username[ \t]+\S{1,40}[ \t]+(?:privilege[ \t]+[0-9]+[ \t]+)?|enable[ \t]+)"
        rf"(?:password|secret)[ \t]+[0-9][ \t]+{unquoted(4)}",
        is_literal_password,
        flags=re.MULTILINE,
        end=unquoted_end,
    ),
    form(  # the default of a variable
        r"(?i:passw(?:or)?d|passphrase|pass|pwd):-?(?P<value>[^\s\"'`<>{}\\]{5,128})\}",
        is_password,
        after=r"\$\{[\w.-]{0,60}:-?$",
        context=_CONTEXT,
    ),
)
_TEXTS = (
    form(  # the line after a name, or the second one
        rf"[=:：][ \t]{{0,9}}(?:[|>][+-]?[ \t]{{0,9}})?\r?\n(?:[ \t]{{0,20}}\r?\n)?[ \t]{{0,20}}(?P<quote>{QUOTE})?"
        r"(?P<value>(?![\w-]+[:=])[^\s\"'`<>\\]{5,256}(?<![.:?,;]))(?(quote)(?P=quote))[,;]?[ \t]*(?=\r?\n|\Z)",
        is_password,
        after=rf"(?i:{PASSWORD_NAMES})(?:{QUOTE})?\]?[ \t]{{0,3}}(?:=>|:=|[=:：])[ \t]{{0,9}}"
        rf"(?:[|>][+-]?[ \t]{{0,9}})?\r?\n(?:[ \t]{{0,20}}\r?\n)?[ \t]{{0,20}}(?:{QUOTE})?$",
        context=_CONTEXT,
    ),
    form(
        rf"[^\W0-9b-cf-lnopqu-z][ \t]{{1,2}}{quoted(6)}",  # the last letter of a name
        is_password,
        after=rf"(?i:{PASSWORD_NAMES})[ \t]{{1,2}}(?:{QUOTE})$",
    ),
    form(  # cells of a table
        r"\|[ \t]{0,20}[\"'`]?(?P<value>[^\s|\"'`<>\\]{6,128})(?=[\"'`]?[ \t]{0,99}\|)",
        is_password,
        after=rf"(?i:\|[ \t]{{0,20}}(?:{PASSWORD_NAMES})[ \t]{{0,99}}\|[ \t]{{0,20}})[\"'`]?$",
        context=_CONTEXT,
    ),
)
COMMAND_KEY = PersonalDataKind(
    "key", "<KEY>", f"{PASSWORD_WORDS}|{COMMAND_KEY_CANDIDATE}", (*_OPTIONS, *_WINDOWS, *_STATEMENTS, *_FILES, *_TEXTS)
)
