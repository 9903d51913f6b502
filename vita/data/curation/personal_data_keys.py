"""The forms of secrets: keys and tokens of known services, private keys, and passwords in URLs."""

from __future__ import annotations

import re

from vita.data.curation.personal_data_forms import PersonalDataKind, form
from vita.spine.secret_tokens import TOKENS

_PRIVATE_KEY_LABEL = r"[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?"
_PRIVATE_KEY = (
    rf"(?:-----BEGIN {_PRIVATE_KEY_LABEL}-----|---- BEGIN {_PRIVATE_KEY_LABEL} ----)"
    rf"(?:(?:[^-]|-(?!---)){{0,20000}}(?:-----END {_PRIVATE_KEY_LABEL}-----|---- END {_PRIVATE_KEY_LABEL} ----)"
    r"|(?:\s{0,4}[A-Za-z-]{1,30}: [^\n]{0,200}\n){0,10}[^-]{0,20000})"
)
"""A key in PEM, of PGP or in the format of SSH2; without its end, its header fields and the text up to a hyphen."""
_PUTTY_KEY = r"PuTTY-User-Key-File-[0-9]: (?:[^P]|P(?!uTTY-)){0,20000}?Private-(?:MAC|Hash): [0-9a-fA-F]{40,64}"
_NAMED = r"(?i:secret_?access_?key|secretkey)[\"']?[ \t]{0,3}(?:=>|=|:)[ \t]{0,3}[\"']?"
_NO_URL_PASSWORD = re.compile(
    r"[$%#@]?[{(\[].*[\])}]|\$\w+|%s|:\w+|[*.x]+|(?i:your.*|.*example.*|pass|passw|passwd|password|pwd|pw|.?_?password_?)",
    re.DOTALL,
)
KEY_PREFIXES = (
    r"(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_|github_pat_|glpat-|sk-[A-Za-z0-9_-]{20}|hf_[A-Za-z0-9]{34}"
    r"|xox[abeoprs]-|hv[sbr]\.[A-Za-z0-9_-]{24}|AIza|_(?:live|test)_|npm_|pypi-|SG\.|eyJ[A-Za-z0-9_-]{10}|ya29\.|do[opr]_v1_|SK[0-9a-f]{32}"
    r"|hooks\.slack\.com/services/|(?:Account|Access)Key=|(?i:secret_?access_?key|secretkey)"
    r"|PuTTY-User-Key-File"
)
"""A pattern in RE2 that occurs in every secret, except a private key, a token of Telegram and a password in a URL."""


def _is_url_password(text: str) -> bool:
    """Return True unless the password of a URL is a variable, such as `$PASS`, or a placeholder of a manual."""
    return not _NO_URL_PASSWORD.fullmatch(text)


KEY = PersonalDataKind(
    "key",
    "<KEY>",
    rf"{KEY_PREFIXES}|PRIVATE KEY|[0-9]{{8}}:AA|://[^\s/:@\"'`]*:[^\s/@]+@",
    (
        form(_PRIVATE_KEY),
        form(_PUTTY_KEY),
        *(form(pattern, check) for pattern, check in TOKENS),
        form(rf"{_NAMED}(?P<value>[A-Za-z0-9/+]{{40}})(?![A-Za-z0-9/+=])"),  # AWS
        form(r"(?:Account|Access)Key=(?P<value>[A-Za-z0-9+/]{86}==|[A-Za-z0-9+/]{43}=)"),  # Azure
        form(
            r"(?<=://)[^\s/:@<>\"'`]{0,64}:(?P<value>[^\s/@<>]{1,128}(?:@[^\s/@<>,;\"'`]{1,64}){0,2})(?=@)",
            _is_url_password,
        ),
    ),
)
