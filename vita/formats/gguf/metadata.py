"""Values in the header of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def add_values(writer: Any, prefix: str, values: Mapping[str, Any]) -> None:
    """Add values with the types that llama.cpp expects: whole numbers are unsigned, decimals have 32 bits."""
    for name, value in values.items():
        key = f"{prefix}.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, list(value))
