"""JSON whose numbers keep their text where a float or a 64-bit integer cannot represent them.

dump_exact(parse_exact('{"count": 1e999}'))         # '{"count": 1e999}'
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RawNumber:
    """A number that is only known as its JSON text."""

    text: str


def exact_decoder() -> json.JSONDecoder:
    """Return a decoder that reads numbers beyond float64, and integers of more than 20 digits, as `RawNumber`.

    It raises ValueError for NaN and infinities, which are not JSON, and RecursionError for very deep values.
    """
    return json.JSONDecoder(parse_float=_float, parse_int=_integer, parse_constant=_refuse)


def parse_exact(text: str) -> Any:
    """Parse JSON with `exact_decoder`."""
    return exact_decoder().decode(text)


def dump_exact(value: Any) -> str:
    """Return the JSON of a value, in characters that UTF-8 can encode; raises ValueError or TypeError for others."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except TypeError:
        text = _dump(value)
    try:
        text.encode()
    except UnicodeEncodeError:  # a text contains half of a surrogate pair, which only an escape can write
        text = "".join(char if char.isascii() or char.isprintable() else json.dumps(char)[1:-1] for char in text)
    return text


def _dump(value: Any) -> str:
    """Return the JSON of a value that contains raw numbers."""
    match value:
        case RawNumber(text):
            return text
        case dict():
            return "{" + ", ".join(f"{_dump(str(name))}: {_dump(part)}" for name, part in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_dump, value)) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _float(text: str) -> float | RawNumber:
    value = float(text)
    return value if math.isfinite(value) else RawNumber(text)


def _integer(text: str) -> int | RawNumber:
    return int(text) if len(text) <= 20 else RawNumber(text)


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
