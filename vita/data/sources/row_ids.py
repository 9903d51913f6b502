"""The ids of rows: the field `id` as text, for every type that a file can have.

id_text(7.0)                                  # "7", as pandas writes an integer beside a missing value
id_text(b"\\x9c\\x0d")                          # "9c0d"; 16 bytes are a UUID
exact_id({"id": 1.2345e22, ...}, line)        # the row with the integer of the line, which orjson reads as a float
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

STATED_ID = "stated_id"
"""The field of the metadata with a value of `id` that cannot be an id."""
_EXACT_BELOW = 2.0**53
"""From this number on, a float does not represent every integer."""


def id_text(value: Any) -> str | None:
    """Return the text of an id; None for a missing value and for one that cannot be an id.

    Integers and integral floats and decimals become decimal digits, 16 bytes a UUID, and other bytes hexadecimal.
    """
    match value:
        case str():
            return value or None
        case bool():
            return None
        case int() | UUID():
            return str(value)
        case float() if value.is_integer():
            return str(int(value))
        case Decimal() if value.is_finite() and value == value.to_integral_value():
            return str(int(value))
        case bytes() if value:
            return str(UUID(bytes=value)) if len(value) == 16 else value.hex()
        case _:
            return None


def is_unusable_id(value: Any) -> bool:
    """Return True for a value that is not missing and cannot be an id, such as true, 1.5 or a list."""
    if value is None or value in ("", b"") or (isinstance(value, float | Decimal) and math.isnan(value)):
        return False
    return id_text(value) is None


def exact_id(values: Any, data: bytes) -> Any:
    """Return a row of JSON with the number that its `id` has in `data`, if a float cannot represent every such number.

    The id is the text of an integer, or a decimal; both are written with all digits.
    """
    if not has_large_id(values):
        return values
    try:
        exact = json.loads(data, parse_float=Decimal)["id"]
    except (ValueError, RecursionError):
        return values
    return {**values, "id": _exact(exact)}


def exact_ids(rows: Any, data: bytes) -> Any:
    """Return the rows of a JSON array as `exact_id` does; other values as they are."""
    if not isinstance(rows, list) or not any(map(has_large_id, rows)):
        return rows
    try:
        exact = json.loads(data, parse_float=Decimal)
    except (ValueError, RecursionError):
        return rows
    return [
        {**row, "id": _exact(other["id"])} if has_large_id(row) else row for row, other in zip(rows, exact, strict=True)
    ]


def has_large_id(values: Any) -> bool:
    """Return True for a row whose `id` is a finite float that may have lost digits."""
    if not isinstance(values, Mapping):
        return False
    id = values.get("id")
    return isinstance(id, float) and _EXACT_BELOW <= abs(id) < math.inf


def _exact(id: Any) -> Any:
    return str(id) if isinstance(id, int) else id
