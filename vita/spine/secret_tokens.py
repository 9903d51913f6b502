"""The forms of tokens of known services, which distinguish them from other text without a name before them.

mask_tokens("https://api.example/ghp_0aB1...")     # "https://api.example/***"
"""

from __future__ import annotations

import re
from collections.abc import Callable

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


def _has_digit(text: str) -> bool:
    """Return True if a token contains a digit, as random tokens of 20 characters do, unlike most names."""
    return any(character.isdigit() for character in text)


def _is_random(text: str) -> bool:
    """Return True if the part of a token after its prefix contains a digit, or letters of both cases."""
    letters = text.partition("-" if text.startswith("pypi") else "_")[2]
    return _has_digit(letters) or (letters != letters.lower() and letters != letters.upper())


def _token(patterns: tuple[str, ...]) -> str:
    return rf"(?<![A-Za-z0-9_-])(?:{'|'.join(patterns)})(?![A-Za-z0-9])"


TOKENS: tuple[tuple[str, Callable[[str], bool] | None], ...] = (
    (_token(_TOKENS), None),
    (_token(_RANDOM_TOKENS), _is_random),
    (_token(_TOKENS_WITH_DIGITS), _has_digit),
    (
        r"hooks\.slack\.com/services/(?P<value>T[A-Z0-9]{6,12}/B[A-Z0-9]{6,12}/[A-Za-z0-9]{20,32})(?![A-Za-z0-9])",
        None,
    ),
)
"""(Pattern, check of the group `value` or of the whole match) of each form."""
_COMPILED = [(re.compile(pattern), check) for pattern, check in TOKENS]
_PART = re.compile(r"[A-Za-z0-9_]{16}|[A-Za-z0-9]-[A-Za-z0-9_-]*[0-9]")
"""A part of every token."""


def mask_tokens(text: str) -> str:
    """Return a text with `***` in place of the tokens of known services."""
    if not _PART.search(text):
        return text
    for pattern, check in _COMPILED:
        text = pattern.sub(lambda match, check=check: _masked(match, check), text)
    return text


def _masked(match: re.Match[str], check: Callable[[str], bool] | None) -> str:
    value = match.groupdict().get("value", match[0])
    return match[0] if check and not check(value) else match[0].removesuffix(value) + "***"
