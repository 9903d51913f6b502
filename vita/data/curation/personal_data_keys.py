"""The forms of secrets: keys and tokens of known services, private keys, and passwords in URLs."""

from __future__ import annotations

import re

from vita.data.curation.personal_data_forms import PersonalDataKind, form

_TOKENS = (
    r"AKIA[0-9A-Z]{16}",  # AWS
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"ya29\.[A-Za-z0-9_-]{20,1000}",  # Google, OAuth
    r"glpat-[A-Za-z0-9_-]{20,64}",  # GitLab
    r"do[opr]_v1_[0-9a-f]{64}",  # DigitalOcean
    r"SK[0-9a-f]{32}",  # Twilio
    r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram bot
    r"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}",  # JSON web token
)
"""Tokens whose form alone distinguishes them from other text."""
_RANDOM_TOKENS = (
    r"gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}",
    r"hf_[A-Za-z0-9]{34,64}",  # Hugging Face
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-[A-Za-z0-9_-]{50,255}",
    r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{20,255}",  # Stripe
)
"""Tokens that are random letters, often without a digit; a name of that form has letters of one case only."""
_TOKENS_WITH_DIGITS = (
    r"ASIA[0-9A-Z]{16}",  # AWS
    r"sk-[A-Za-z0-9_-]{20,255}",  # OpenAI, Anthropic
    r"xox[abeoprs]-[A-Za-z0-9-]{10,255}",  # Slack
    r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}",  # SendGrid
    r"hv[sbr]\.[A-Za-z0-9_-]{24,300}",  # HashiCorp Vault
)
"""Tokens in a form that names also have, such as `sk-learn-is-a-package`; random ones contain a digit."""
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


def _has_digit(text: str) -> bool:
    """Return True if a token contains a digit, as random tokens of 20 characters do, unlike most names."""
    return any(character.isdigit() for character in text)


def _is_random(text: str) -> bool:
    """Return True if the part of a token after its prefix contains a digit, or letters of both cases."""
    letters = text.partition("-" if text.startswith("pypi") else "_")[2]
    return _has_digit(letters) or (letters != letters.lower() and letters != letters.upper())


def _is_url_password(text: str) -> bool:
    """Return True unless the password of a URL is a variable, such as `$PASS`, or a placeholder of a manual."""
    return not _NO_URL_PASSWORD.fullmatch(text)


def _token(patterns: tuple[str, ...]) -> str:
    return rf"(?<![A-Za-z0-9_-])(?:{'|'.join(patterns)})(?![A-Za-z0-9])"


KEY = PersonalDataKind(
    "key",
    "<KEY>",
    rf"{KEY_PREFIXES}|PRIVATE KEY|[0-9]{{8}}:AA|://[^\s/:@\"'`]*:[^\s/@]+@",
    (
        form(_PRIVATE_KEY),
        form(_PUTTY_KEY),
        form(_token(_TOKENS)),
        form(_token(_RANDOM_TOKENS), _is_random),
        form(_token(_TOKENS_WITH_DIGITS), _has_digit),
        form(rf"{_NAMED}(?P<value>[A-Za-z0-9/+]{{40}})(?![A-Za-z0-9/+=])"),  # AWS
        form(r"(?:Account|Access)Key=(?P<value>[A-Za-z0-9+/]{86}==|[A-Za-z0-9+/]{43}=)"),  # Azure
        form(
            r"hooks\.slack\.com/services/(?P<value>T[A-Z0-9]{6,12}/B[A-Z0-9]{6,12}/[A-Za-z0-9]{20,32})(?![A-Za-z0-9])"
        ),
        form(
            r"(?<=://)[^\s/:@<>\"'`]{0,64}:(?P<value>[^\s/@<>]{1,128}(?:@[^\s/@<>,;\"'`]{1,64}){0,2})(?=@)",
            _is_url_password,
        ),
    ),
)
