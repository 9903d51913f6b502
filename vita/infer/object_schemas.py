"""The objects that a JSON Schema accepts, such as those of the schema of arguments.

    accepts_objects({"anyOf": [{"type": "object"}, {"type": "null"}]})      # True
    accepts_objects({"type": "string"})                                     # False
    object_part({"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}], "$defs": {"A": {...}}})    # the schema A

The schema of arguments can accept other values too: one without `type`, one that also accepts null, or a choice between
schemas. A call always contains an object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita.infer.json_schemas import referenced_part

_MOST_STEPS = 20
"""Largest number of references and choices from the root of a schema that are followed."""
_BESIDE_CHOICE = {"type", "title", "description", "default", "examples", "$schema", "$comment", "$defs", "definitions"}
"""Keywords beside a choice between schemas that do not change the objects that it accepts."""


def accepts_objects(schema: Any, *, root: Mapping[str, Any] | None = None) -> bool:
    """Return False if a schema accepts no object by its types, constants, references and choices.

    `root` resolves references; by default it is the schema.
    """
    try:
        return _accepts(schema, root if root is not None else schema, {})
    except RecursionError:
        return True  # the grammar of the schema refuses it


def object_part(schema: Any, *, root: Mapping[str, Any] | None = None) -> Any:
    """Return the schema to which a schema refers, or the only schema of its `anyOf` or `oneOf` that accepts objects.

    Both are followed repeatedly. Other schemas are returned unchanged, also a reference to nothing.
    """
    base: Any = schema if root is None else root
    for _ in range(_MOST_STEPS):
        if not isinstance(schema, Mapping):
            break
        if "$ref" in schema:
            part = referenced_part(str(schema["$ref"]), base)
        else:
            part = _only_branch(schema, base)
        if part is None:
            break
        schema = part
    return schema


def _only_branch(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """Return the only schema of a choice that accepts objects; None if there is no such schema."""
    for name in ("anyOf", "oneOf"):
        branches = schema.get(name)
        if isinstance(branches, list) and not set(schema) - _BESIDE_CHOICE - {name}:
            parts = [branch for branch in branches if accepts_objects(branch, root=root)]
            return parts[0] if len(parts) == 1 else None
    return None


def _accepts(schema: Any, root: Mapping[str, Any], references: dict[str, bool]) -> bool:
    """`references` are the results for references; one that is being followed is True."""
    if not isinstance(schema, Mapping):
        return schema is not False
    types = schema.get("type", "object")
    if (types != "object") if isinstance(types, str) else (isinstance(types, list) and "object" not in types):
        return False
    if "const" in schema and not isinstance(schema["const"], Mapping):
        return False
    values = schema.get("enum")
    if isinstance(values, list) and not any(isinstance(value, Mapping) for value in values):
        return False
    if "$ref" in schema:
        name = str(schema["$ref"])
        if name not in references:
            references[name] = True
            references[name] = _accepts(referenced_part(name, root), root, references)
        if not references[name]:
            return False
    parts = schema.get("allOf")
    if isinstance(parts, list) and not all(_accepts(part, root, references) for part in parts):
        return False
    choices = [schema[name] for name in ("anyOf", "oneOf") if isinstance(schema.get(name), list)]
    return all(any(_accepts(part, root, references) for part in parts) for parts in choices)
