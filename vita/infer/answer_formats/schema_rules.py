"""Grammars of values in the notations of call formats that do not write JSON.

    rules = SchemaRules(notation, root=parameters)
    rule = rules.value({"type": "string", "maxLength": 5})       # the name of a rule; its definition is in rules.text

Every text of a rule is a value that the schema accepts. Some accepted values have no text: optional properties beside
those that the schema names, exponents that exceed float64, and characters that a parser could take for a marker.
A keyword that cannot be followed raises `GrammarError` with its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita.infer.grammars import GrammarError
from vita.infer.json_schemas import referenced_part
from vita.infer.object_schemas import accepts_objects, object_part
from vita.infer.schema_patterns import compiled_pattern

Schema = Mapping[str, Any]

_ANNOTATIONS = {
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$schema", "$id", "$anchor",
    "$comment", "$defs", "definitions",
}  # fmt: skip
_KEYWORDS = {
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
    "boolean": set[str](),
    "null": set[str](),
}
_KEYWORDS["integer"] = _KEYWORDS["number"]
_FORMATS = {
    "date": r"[12][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])",
    "time": r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](Z|[+-](0[0-9]|1[0-2]):00)",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "email": r"[a-z0-9]{1,20}(\.[a-z0-9]{1,20})?@[a-z0-9]{1,20}\.[a-z]{2,6}",
    "ipv4": r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}",
    "uri": r"https?:\/\/[a-z0-9]{1,20}\.[a-z]{2,6}(\/[a-zA-Z0-9_-]{1,20}){0,5}",
}
_FORMATS["date-time"] = f"{_FORMATS['date']}T{_FORMATS['time']}"
_INTEGER = r"/-?(0|[1-9][0-9]{0,15})/"
_NUMBER = r"/-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?/"
_FREE_KEY = r"[a-zA-Z_][a-zA-Z0-9_]{0,30}"


@dataclass(frozen=True)
class Notation:
    """The way in which a format writes values."""

    quote: str
    """Rule of the marker around a text."""
    character: str
    """Regular expression of one plain character of a text."""
    escapes: str = ""
    """Regular expression of one escaped character; empty without escapes."""
    constants: tuple[str, str, str] = ("true", "false", "null")
    item_separator: str = ", "
    key_separator: str = ": "
    quoted_keys: bool = True

    def text(self, value: str) -> str:
        """Return the rule of one text; raises `GrammarError` if it cannot be written."""
        if not re.fullmatch(f"(?:{self.character})*", value):
            if not self.escapes:
                raise GrammarError("schema", f"the text {value!r} cannot be written in the call format of the model")
            value = json.dumps(value, ensure_ascii=False)[1:-1]
            if not re.fullmatch(f"(?:{self.character}|{self.escapes})*", value):
                raise GrammarError("schema", f"the text {value!r} cannot be written in the call format of the model")
        return f"{self.quote} {json.dumps(value)} {self.quote}" if value else f"{self.quote} {self.quote}"

    def key(self, name: str) -> str:
        """Return the rule of a key with its separator."""
        if self.quoted_keys:
            return f"{self.text(name)} {json.dumps(self.key_separator)}"
        return json.dumps(checked_name(name, r"[\w.-]+") + self.key_separator)


def checked_name(name: str, pattern: str) -> str:
    """Return a name of an argument; raises `GrammarError` for one that the format cannot write."""
    if not re.fullmatch(pattern, name):
        raise GrammarError("schema", f"the name {name!r} cannot be written in the call format of the model")
    return name


def properties_of(schema: Schema) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the properties of an object with their schemas, and the names of the required ones."""
    properties = dict(schema.get("properties") or {})
    required = frozenset(schema.get("required") or ())
    extra = schema.get("additionalProperties", True)
    for name in schema.get("required") or ():
        if name not in properties:
            if extra is False:
                raise GrammarError("schema", f"the required property `{name}` is not allowed")
            properties[name] = extra
    return properties, required


class SchemaRules:
    """The rules of the schemas of one function."""

    def __init__(self, notation: Notation, *, root: Schema, prefix: str) -> None:
        """`root` resolves references; `prefix` begins the names of the rules, in lower case letters."""
        self._notation, self._root, self._prefix = notation, root, prefix
        self._lines: list[str] = []
        self._references: dict[str, str] = {}
        self._count = 0

    @property
    def text(self) -> str:
        """The definitions of all rules."""
        return "".join(f"{line}\n" for line in self._lines)

    def rule(self, expression: str, *, attribute: str = "") -> str:
        """Define a rule and return its name."""
        self._count += 1
        name = f"{self._prefix}_{self._count}"
        self._lines.append(f"{name}{attribute}: {expression}")
        return name

    def terminal(self, expression: str) -> str:
        """Define a terminal and return its name."""
        self._count += 1
        name = f"{self._prefix}_{self._count}".upper()
        self._lines.append(f"{name}: {expression}")
        return name

    def value(self, schema: Any) -> str:
        """Return the name of the rule of a schema."""
        if isinstance(schema, Mapping) and "$ref" in schema:
            return self._reference(schema)
        return self.rule(self._expression(schema))

    def check_string(self, schema: Schema) -> None:
        """Raise `GrammarError` for a keyword of a string that cannot be followed."""
        self._refuse(schema, {"type", *_KEYWORDS["string"]})

    def resolved(self, schema: Any) -> Any:
        """Return a schema, or the one that it refers to."""
        seen = 0
        while isinstance(schema, Mapping) and "$ref" in schema:
            schema, seen = self._target(schema), seen + 1
            if seen > 20:
                raise GrammarError("schema", "`$ref` refers to itself")
        return schema

    def objects(self, schema: Schema) -> Schema:
        """Return the schema of the objects that a schema accepts; raises `GrammarError` for one without objects."""
        part = object_part(self.resolved(schema), root=self._root)
        if not isinstance(part, Mapping) or not accepts_objects(part, root=self._root):
            raise GrammarError("schema", "the schema of the arguments of a function accepts no object")
        return {**part, "type": "object"}

    def _reference(self, schema: Schema) -> str:
        reference = str(schema["$ref"])
        if reference not in self._references:
            self._count += 1
            name = self._references[reference] = f"{self._prefix}_{self._count}"
            self._lines.append(f"{name}: {self._expression(self.resolved(schema))}")
        return self._references[reference]

    def _target(self, schema: Schema) -> Any:
        reference = str(schema["$ref"])
        self._refuse(schema, {"$ref"})
        value = referenced_part(reference, self._root)
        if value is None:
            raise GrammarError("schema", f"`$ref` refers to nothing: {reference}")
        return value

    def _expression(self, schema: Any) -> str:
        """Return the expression of a schema without a reference."""
        if schema is True or schema == {}:
            return self._any()
        if not isinstance(schema, Mapping):
            raise GrammarError("schema", f"a schema must be an object, got {schema!r}")
        if "const" in schema:
            self._refuse(schema, {"const", "type"})
            return self._literal(schema["const"])
        if "enum" in schema:
            self._refuse(schema, {"enum", "type"})
            return " | ".join(map(self._literal, schema["enum"]))
        for name in ("anyOf", "oneOf", "allOf"):
            if name in schema:
                self._refuse(schema, {name})
                branches = schema[name]
                if (name == "allOf" and len(branches) != 1) or (name == "oneOf" and not _are_disjoint(branches)):
                    raise GrammarError("schema", f"`{name}` is not supported in the call format of the model")
                return " | ".join(map(self.value, branches))
        types = schema.get("type", _inferred_type(schema))
        if types is None:
            self._refuse(schema, set())
            return self._any()
        types = [types] if isinstance(types, str) else list(types)
        for kind in types:
            if kind not in _KEYWORDS:
                raise GrammarError("schema", f"`type` is unknown: {kind!r}")
        self._refuse(schema, {"type"}.union(*(_KEYWORDS[kind] for kind in types)))
        return " | ".join(self.rule(self._typed(kind, schema)) for kind in types)

    def _typed(self, kind: str, schema: Schema) -> str:
        true, false, null = self._notation.constants
        match kind:
            case "string":
                return f"{self._notation.quote} {self.terminal(self._characters(schema))} {self._notation.quote}"
            case "integer" | "number":
                return self._number(kind, schema)
            case "boolean":
                return f'"{true}" | "{false}"'
            case "null":
                return f'"{null}"'
            case "array":
                return self._array(schema)
            case _:
                return self._object(schema)

    def _characters(self, schema: Schema) -> str:
        notation = self._notation
        constrained = "pattern" in schema or "format" in schema
        escapes = f"|{notation.escapes}" if notation.escapes and not constrained else ""
        return string_terminal(schema, character=f"({notation.character}{escapes})")

    def _number(self, kind: str, schema: Schema) -> str:
        bounds = {name: schema[name] for name in _KEYWORDS["number"] if name in schema}
        if bounds:
            return f"%json {json.dumps({'type': kind, **bounds})}"
        return self.terminal(_INTEGER if kind == "integer" else _NUMBER)

    def _array(self, schema: Schema) -> str:
        item, separator = self.value(schema.get("items", {})), json.dumps(self._notation.item_separator)
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most == 0:
            return '"[" "]"'
        upper = "" if most is None else str(most - 1)
        items = f'"[" {item} ({separator} {item}){{{max(0, least - 1)},{upper}}} "]"'
        return items if least else f'"[" "]" | {items}'

    def _object(self, schema: Schema) -> str:
        properties, required = properties_of(schema)
        extra = schema.get("additionalProperties", True)
        if not properties:
            return '"{" "}"' if extra is False else self._map(extra)
        pairs = [
            (f"{self._notation.key(name)} {self.value(properties[name])}", name in required) for name in properties
        ]
        return f'"{{" {self.sequence(pairs, separator=self._notation.item_separator)} "}}"'

    def _map(self, schema: Any) -> str:
        name = self.terminal(f"/{_FREE_KEY}/")
        quote = f"{self._notation.quote} " if self._notation.quoted_keys else ""
        key = f"{quote}{name} {quote}{json.dumps(self._notation.key_separator)}"
        pair, separator = self.rule(f"{key} {self.value(schema)}"), json.dumps(self._notation.item_separator)
        return f'"{{" "}}" | "{{" {pair} ({separator} {pair})* "}}"'

    def sequence(self, parts: Sequence[tuple[str, bool]], *, separator: str) -> str:
        """Return the rule of parts in their order, of which some are required, with a separator between them."""
        first = following = ""
        for expression, is_required in reversed(parts):
            written, mark = self.rule(expression), json.dumps(separator)
            old_first, old_following = first, following
            first = self.rule(f"{written} {old_following}" + ("" if is_required else f" | {old_first or _EMPTY}"))
            following = self.rule(
                f"{mark} {written} {old_following}" + ("" if is_required else f" | {old_following or _EMPTY}")
            )
        return first

    def _literal(self, value: Any) -> str:
        true, false, null = self._notation.constants
        match value:
            case str():
                return self._notation.text(value)
            case bool():
                return f'"{true if value else false}"'
            case None:
                return f'"{null}"'
            case int() | float():
                return json.dumps(json.dumps(value))
            case _:
                raise GrammarError("schema", f"`enum` has a value that is no text, number or constant: {value!r}")

    def _any(self) -> str:
        return " | ".join(self.rule(self._typed(kind, {})) for kind in ("string", "number", "boolean", "null"))

    def _refuse(self, schema: Schema, allowed: set[str]) -> None:
        for name in schema:
            if name not in allowed and name not in _ANNOTATIONS:
                raise GrammarError("schema", f"`{name}` is not supported in the call format of the model")


_EMPTY = '""'


def string_terminal(schema: Schema, *, character: str, forbidden: Sequence[str] = ()) -> str:
    """Return the definition of a terminal for the characters of a text.

    `character` is the regular expression of one character; no text contains one of the markers `forbidden`.
    """
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    parts = [f"/{character}{{{least},{most}}}/"]
    if "pattern" in schema:
        parts.append(f"/{_whole_pattern(compiled_pattern(schema['pattern']))}/")
    if "format" in schema:
        if schema["format"] not in _FORMATS:
            raise GrammarError("schema", f"`format` is not supported in the call format: {schema['format']!r}")
        parts.append(f"/{_FORMATS[schema['format']]}/")
    for marker in forbidden:
        escaped = re.escape(marker).replace("/", "\\/")
        parts.append(f"~/(.|\\n)*{escaped}(.|\\n)*/")
    return " & ".join(parts)


def _whole_pattern(pattern: str) -> str:
    """Return a regular expression of the whole text from one that searches in it."""
    start = "" if pattern.startswith("^") else "(.|\\n)*"
    end = "" if re.search(r"(?<!\\)(\\\\)*\$\Z", pattern) else "(.|\\n)*"
    body = pattern.removeprefix("^")
    body = body if end else body[:-1]
    body = re.sub(r"(?<!\\)/", r"\\/", body)
    return f"{start}({body}){end}"


def _are_disjoint(branches: Sequence[Any]) -> bool:
    types = [branch.get("type") for branch in branches if isinstance(branch, Mapping)]
    scalars = [kind for kind in types if isinstance(kind, str)]
    numbers = {"integer", "number"} <= set(scalars)
    return len(scalars) == len(branches) == len(set(scalars)) and not numbers


def _inferred_type(schema: Schema) -> str | None:
    """Return the type to which the keywords of a schema without a type belong."""
    for kind in ("object", "array", "string", "number"):
        if _KEYWORDS[kind] & schema.keys():
            return kind
    return None
