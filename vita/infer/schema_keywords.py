"""The keywords of JSON Schema and the values that they can have.

`check_keywords` refuses an unknown keyword with the one that was meant, and a value of another type with its keyword.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from vita.spine.errors import DataError

MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
"""Keywords whose value has a schema for each name."""
LISTS = {"allOf", "anyOf", "oneOf", "prefixItems", "items"}
"""Keywords whose value is a list of schemas."""
SCHEMAS = {
    "additionalProperties", "items", "additionalItems", "contains", "not", "if", "then", "else", "propertyNames",
    "unevaluatedItems", "unevaluatedProperties", "contentSchema",
}  # fmt: skip
"""Keywords whose value is a schema."""
_ASSERTIONS = {
    "$ref", "$dynamicRef", "$recursiveRef", "type", "enum", "const", "minLength", "maxLength", "pattern", "format",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems",
    "minContains", "maxContains", "required", "minProperties", "maxProperties", "dependentRequired", "dependencies",
}  # fmt: skip
_ANNOTATIONS = {
    "$id", "id", "$schema", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary", "$comment", "title",
    "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "contentMediaType",
    "contentEncoding",
    "discriminator", "example", "externalDocs", "xml",  # of OpenAPI
}  # fmt: skip
KEYWORDS = MAPS | LISTS | SCHEMAS | _ASSERTIONS | _ANNOTATIONS
_TYPES = ("string", "number", "integer", "boolean", "null", "array", "object")
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_MOST_COUNT = 2**53
_WRITTEN_CONTROLS = "\b\f\n\r\t"
"""Control characters that an answer can contain; the grammar excludes the escapes by number."""


class GrammarError(DataError):
    """An error in a grammar or a JSON schema."""


def keyword_error(place: str, problem: str) -> GrammarError:
    """Return the error of the part of a schema at `place`, such as `#/properties/a`."""
    return GrammarError("schema", f"{problem} (at `{place}`)")


def check_keywords(schema: Mapping[str, Any], place: str) -> None:
    """Raise `GrammarError` for an unknown keyword, or a value that its keyword cannot have."""
    for name, value in schema.items():
        if name not in KEYWORDS and not name.startswith("x-"):
            close = difflib.get_close_matches(name, KEYWORDS, n=1, cutoff=0.8)
            hint = f"; did you mean `{close[0]}`?" if close else ""
            raise keyword_error(place, f"the keyword `{name}` is unknown{hint}")
        accepts, expected = _VALUES.get(name, _ANY_VALUE)
        if not accepts(value):
            got = json.dumps(value, ensure_ascii=False, default=str)
            got = got if len(got) <= 80 else f"{got[:77]}..."
            raise keyword_error(place, f"`{name}` must be {expected}, got {got}")
        if name in _LIMITS:
            _check_limit(name, value, place)
    for constant in [schema["const"]] if "const" in schema else schema.get("enum", ()):
        if control := next(filter(_is_unwritten, _texts(constant)), None):
            problem = f"the constant {control!r} has a control character that an answer cannot contain"
            raise keyword_error(place, problem)


def _check_limit(name: str, limit: float, place: str) -> None:
    """Raise `GrammarError` for a limit that the compiler, which computes with float64 and int64, would change."""
    if not -(2**63) < limit < 2**63 or float(limit) <= -(2**63):
        raise keyword_error(place, f"`{name}` must be greater than -2**63 and less than 2**63, got {limit}")
    if float(limit) != limit and limit != 2**63 - 1:
        raise keyword_error(place, f"`{name}` must be a number that float64 represents exactly, got {limit}")


def _texts(value: Any) -> list[str]:
    """Return the texts of a constant."""
    if isinstance(value, str):
        return [value]
    parts = value if isinstance(value, list) else value.values() if isinstance(value, Mapping) else ()
    return [text for part in parts for text in _texts(part)]


def _is_unwritten(text: str) -> bool:
    return any((character < " " or character == "\x7f") and character not in _WRITTEN_CONTROLS for character in text)


# -- values of keywords


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_count(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= _MOST_COUNT and value == int(value)


def _is_factor(value: Any) -> bool:
    return _is_number(value) and 0 < value < math.inf


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_schema(value: Any) -> bool:
    return isinstance(value, Mapping | bool)


def _is_schema_list(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_schema, value))


def _is_choice(value: Any) -> bool:
    return _is_schema_list(value) and len(value) > 0


def _is_schema_map(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_schema, value.values()))


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return len(names) > 0 and all(isinstance(name, str) and name in _TYPES for name in names)


def _is_name_list(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_nonempty_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0


_COUNT = (_is_count, "an integer from 0 to 2**53")
_NUMBER = (_is_number, "a number")
_TEXT = (_is_text, "a text")
_SCHEMA = (_is_schema, "a schema (an object or a boolean)")
_CHOICE = (_is_choice, "a list of at least one schema")
_SCHEMA_MAP = (_is_schema_map, "an object with a schema for each name")
_ANY_VALUE: tuple[Callable[[Any], bool], str] = (lambda _: True, "")
_VALUES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _COUNT),
    **dict.fromkeys(_LIMITS, _NUMBER),
    **dict.fromkeys(("$ref", "pattern", "format", "$schema", "$id", "$anchor"), _TEXT),
    **dict.fromkeys(("anyOf", "oneOf"), _CHOICE),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), _SCHEMA_MAP),
    "additionalProperties": _SCHEMA,
    "multipleOf": (_is_factor, "a number above 0"),
    "allOf": (_is_schema_list, "a list of schemas"),
    "prefixItems": (_is_schema_list, "a list of schemas"),
    "items": (lambda value: _is_schema(value) or _is_schema_list(value), "a schema or a list of schemas"),
    "type": (_is_type, f"one or several of {', '.join(_TYPES)}"),
    "enum": (_is_nonempty_list, "a list of at least one value"),
    "required": (_is_name_list, "a list of names"),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
}
"""Keyword -> test of a value, and the values that it accepts in words."""
