"""JSON schemas as the grammar compiler can follow them.

    schema = supported_schema({"type": "string", "format": "date"})     # raises `GrammarError` with the place

The compiler ignores unknown keywords, does not detect references without an end, and its patterns of dates and times
accept texts that are no date or time. A supported schema has none of these: its keywords are those of JSON Schema or
annotations, each of its parts accepts a finite value, and formats of dates and times are patterns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from vita.infer.schema_keywords import LISTS, MAPS, SCHEMAS, check_keywords, keyword_error
from vita.infer.schema_patterns import compiled_pattern

_IGNORED = {"x-guidance"}
"""An annotation that would change the options of the compiler."""
_YEAR = "[1-9][0-9]{3}"
_LEAP_YEAR = "(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_CLOCK}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{_CLOCK})"
_PATTERNS = {"date": _DATE, "time": _TIME, "date-time": f"{_DATE}T{_TIME}"}
"""Patterns of formats (RFC 3339) without leap seconds; years have four digits and begin at 1000."""


def supported_schema(schema: Mapping[str, Any] | bool) -> dict[str, Any]:
    """Return an equivalent schema that the grammar compiler follows; raises `GrammarError`.

    Refused are keywords that are neither of JSON Schema nor annotations, limits of numbers beyond 64 bits, and parts
    that accept no finite value, such as an object with itself as a required property.
    """
    if isinstance(schema, bool):
        if not schema:
            raise keyword_error("#", "the schema `false` accepts no value")
        return {}
    try:
        _check_ends(schema)
        return _supported(schema, "#", frozenset())
    except RecursionError:
        raise keyword_error("#", "the schema is nested too deeply") from None


def _supported(schema: Any, place: str, required: frozenset[str] = frozenset()) -> Any:
    """Return a supported part at `place`; `required` are the names that parts beside it in `allOf` require."""
    if not isinstance(schema, Mapping):
        return schema
    check_keywords(schema, place)
    result = {name: value for name, value in schema.items() if name not in _IGNORED}
    if schema.get("uniqueItems") is False:
        del result["uniqueItems"]
    required |= _required(schema)
    for name, value in [*result.items()]:
        inner = f"{place}/{name}"
        if name in MAPS and isinstance(value, Mapping):
            result[name] = {key: _supported(part, f"{inner}/{key}") for key, part in value.items()}
        elif name in LISTS and isinstance(value, list):
            names = required if name == "allOf" else frozenset[str]()
            result[name] = [_supported(part, f"{inner}/{index}", names) for index, part in enumerate(value)]
        elif name in SCHEMAS:
            result[name] = _supported(value, inner)
    if "pattern" in result:
        result["pattern"] = compiled_pattern(schema["pattern"])
    if not _needs_minimum(schema, len(required), place):
        result.pop("minProperties", None)
    if isinstance(schema.get("format"), str) and schema["format"] in _PATTERNS:
        pattern = {"pattern": f"^{_PATTERNS[result.pop('format')]}$"}
        if "pattern" in schema:
            result["allOf"] = [*(result.get("allOf") or ()), pattern]
        else:
            result.update(pattern)
    return result


def _required(schema: Any) -> frozenset[str]:
    """Return the names that a schema or a part of its `allOf` requires."""
    if not isinstance(schema, Mapping):
        return frozenset()
    names, parts = schema.get("required"), schema.get("allOf")
    own = frozenset(map(str, names)) if isinstance(names, list) else frozenset[str]()
    return own.union(*map(_required, parts)) if isinstance(parts, list) else own


def _needs_minimum(schema: Mapping[str, Any], names: int, place: str) -> bool:
    """Return True if `minProperties` is more than the number of required names; raise `GrammarError` if it is too much.

    A grammar does not know the names that an object has, so that an answer could repeat a name. Repeated names count
    once: of two properties that are not required, the second could be the first.
    """
    least = schema.get("minProperties")
    if not isinstance(least, int) or isinstance(least, bool):
        return True
    if least > names + 1:
        problem = f"`minProperties` {least} needs {least - 1} or more names in `required`, got {names}"
        raise keyword_error(place, problem)
    return least > names


# -- values without an end


def _check_ends(root: Mapping[str, Any]) -> None:
    """Raise `GrammarError` for a part that accepts no finite value.

    The parts that accept a finite value are the least fixed point of `_can_end`: at first, no part is known to.
    """
    parts = list(schema_parts(root, "#"))
    endless = {id(part) for _, part in parts}
    changed = True
    while changed:
        changed = False
        parts.reverse()  # references lead forwards or backwards
        for _, part in parts:
            if id(part) in endless and _can_end(part, root=root, endless=endless):
                endless.remove(id(part))
                changed = True
    for place, part in sorted(parts, key=lambda entry: len(entry[0])):
        if id(part) in endless:
            if _contains_reference(part):
                raise keyword_error(
                    place, "the schema is infinitely recursive through `$ref`, so no finite value matches it"
                )
            raise keyword_error(place, "the schema accepts no value")


def schema_parts(schema: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a schema and the schemas in it with their places."""
    if not isinstance(schema, Mapping):
        return
    yield place, schema
    for name, value in schema.items():
        if name in MAPS and isinstance(value, Mapping):
            for key, part in value.items():
                yield from schema_parts(part, f"{place}/{name}/{key}")
        elif name in LISTS and isinstance(value, list):
            for index, part in enumerate(value):
                yield from schema_parts(part, f"{place}/{name}/{index}")
        elif name in SCHEMAS:
            yield from schema_parts(value, f"{place}/{name}")


def _can_end(schema: Mapping[str, Any], *, root: Mapping[str, Any], endless: set[int]) -> bool:
    """Return True if a schema accepts a finite value, where all schemas except for those of `endless` do."""

    def ends(part: Any) -> bool:
        return part is not False and id(part) not in endless

    if "$ref" in schema and not ends(referenced_part(str(schema["$ref"]), root)):
        return False
    if isinstance(parts := schema.get("allOf"), list) and not all(map(ends, parts)):
        return False
    for name in ("anyOf", "oneOf"):
        if isinstance(parts := schema.get(name), list) and parts and not any(map(ends, parts)):
            return False
    match schema.get("type"):
        case "object" | ["object"]:
            properties, required = schema.get("properties"), schema.get("required")
            if isinstance(properties, Mapping) and isinstance(required, list):
                names = [name for name in required if isinstance(name, str) and name in properties]
                return all(ends(properties[name]) for name in names)
        case "array" | ["array"]:
            least, items = schema.get("minItems"), schema.get("items")
            if isinstance(least, int) and least > 0 and isinstance(items, Mapping) and "prefixItems" not in schema:
                return ends(items)
    return True


def referenced_part(reference: str, root: Mapping[str, Any]) -> Any:
    """Return the part of a schema that a `$ref` names by a pointer, an anchor or an `$id`; None for another text."""
    if reference != "#" and not reference.startswith("#/"):
        names = {"$anchor": reference.removeprefix("#"), "$id": reference}
        parts = (part for _, part in schema_parts(root, "#"))
        return next((part for part in parts if any(part.get(key) == name for key, name in names.items())), None)
    value: Any = root
    for step in unquote(reference).split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _contains_reference(schema: Mapping[str, Any]) -> bool:
    return any("$ref" in part for _, part in schema_parts(schema, ""))
