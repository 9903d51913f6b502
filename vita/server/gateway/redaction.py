"""Redacts addresses, telephone and card numbers, and secrets: each is replaced by its kind in brackets.

redact("write to ann@example.org") -> "write to [email]"

Patterns find only data with a fixed format. They do not find names or personal stories, so consent remains necessary.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(r"\b(?:vk-[0-9a-f]{8}-[\w-]{20,}|sk-[\w-]{16,}|gh[pousr]_\w{20,}|AKIA[0-9A-Z]{16})")
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_PHONE = re.compile(r"(?<![\w.])(?:\+\d{1,3}[ ./-]?|\(\d{2,5}\)[ ./-]?|0)\d(?:[ ./()-]{0,2}\d){6,13}(?!\w)")
_PHONE_IN_GROUPS = re.compile(r"(?<![\w.])\d{3}[ .-]\d{3}[ .-]\d{4}(?!\w)")


def redact(text: str) -> str:
    """Redact a text."""
    text = _SECRET.sub("[secret]", text)
    text = _EMAIL.sub("[email]", text)
    text = _IPV6.sub(lambda match: "[ip]" if _is_address(match[0]) else match[0], text)
    text = _IPV4.sub(lambda match: "[ip]" if _is_address(match[0]) else match[0], text)
    text = _CARD.sub(lambda match: "[card]" if _luhn(match[0]) else match[0], text)
    return _PHONE_IN_GROUPS.sub("[phone]", _PHONE.sub("[phone]", text))


def redact_all(value: Any) -> Any:
    """Redact every text inside a JSON value; field names are unchanged."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: redact_all(content) for name, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_all(item) for item in value]
    return value


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return any(letter in "0123456789abcdefABCDEF" for letter in text)


def _luhn(text: str) -> bool:
    """Return True if the check digit of a card number is correct (ISO/IEC 7812-1, annex B)."""
    digits = [int(letter) for letter in reversed(text) if letter.isdigit()]
    doubled = [digit if index % 2 == 0 else sum(divmod(2 * digit, 10)) for index, digit in enumerate(digits)]
    return sum(doubled) % 10 == 0
