"""The values from which the rules of a call format are made, and rules that formats share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita.infer.answer_formats.call_formats import CallFormat
from vita.infer.grammars import JSON_OPTIONS, GrammarError, check_grammar, json_grammar
from vita.infer.json_schemas import supported_schema
from vita.infer.object_schemas import accepts_objects


@dataclass(frozen=True)
class CallSource:
    """The values that a format's rules are made from."""

    format: CallFormat
    functions: Sequence[Mapping[str, Any]]
    specials: Mapping[str, int]
    sample: str
    """A call as the chat template writes it."""
    parallel: bool

    def marker(self, text: str) -> str:
        """Return a text of the format as a special token or as plain text; nothing for an empty text."""
        return special_or_text(text, self.specials) if text else ""

    def objects(self, arguments: str, *, name: str = "name") -> str:
        """Return the rules of `object`: a JSON object with the name of a function and its arguments.

        Each schema of arguments is a JSON rule of its own, because its references are relative to its root.
        """
        alternatives = " | ".join(f"object{number}" for number in range(len(self.functions)))
        rules = f"object: {alternatives}\n"
        for number, function in enumerate(self.functions):
            head = f"{{{json.dumps(name)}: {json.dumps(function['name'])}, {json.dumps(arguments)}: "
            rules += f'object{number}: {json.dumps(head)} arguments{number} "}}"\n'
            rules += arguments_rule(number, function)
        return rules


def special_or_text(text: str, specials: Mapping[str, int]) -> str:
    """Return the rule of a marker: a special token by its id, or its text."""
    return f"<[{specials[text]}]>" if text in specials else json.dumps(text)


def checked_argument_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of the arguments of a function; raises `GrammarError` for one that is no JSON Schema."""
    import jsonschema

    schema = argument_schema(function)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise GrammarError(
            "schema", f"`{'.'.join(map(str, error.path))}` is not valid: {error.message[:200]}"
        ) from None
    return schema


def argument_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of the arguments of a function; without one it has no arguments.

    The schema may accept other values than objects (`vita.infer.object_schemas`).
    """
    return dict(function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False})


def arguments_rule(number: int, function: Mapping[str, Any]) -> str:
    """Return the rule `arguments{number}` of the JSON objects that the schema of the arguments accepts.

    Raises `GrammarError` for a schema that is not supported, or that accepts no object.
    """
    schema = argument_schema(function)
    if not accepts_objects(schema):
        raise GrammarError("schema", "the schema of the arguments of a function accepts no object")
    schema = {**schema, "type": "object"}
    check_grammar(json_grammar(schema))  # alone, so that the error names the schema and not the rules around it
    return f"arguments{number}: %json {json.dumps({**supported_schema(schema), 'x-guidance': JSON_OPTIONS})}\n"


def text_without(name: str, marker: str) -> str:
    """Return a terminal for the texts without a marker."""
    return f"{name}: {_without(marker)}\n"


def text_until(name: str, marker: str, specials: Mapping[str, int]) -> tuple[str, str]:
    """Return the expression of a text up to and with a marker, and the definition of its terminal.

    A marker of plain text is a part of the terminal: the end of a terminal must be certain without a look ahead.
    """
    if marker in specials:
        return f"{name} {special_or_text(marker, specials)}", text_without(name, marker)
    return name, f"{name}: ({_without(marker)}) {json.dumps(marker)}\n"


def _without(marker: str) -> str:
    pattern = re.escape(marker).replace("/", "\\/")
    return f"/(.|\\n)*/ & ~/(.|\\n)*{pattern}(.|\\n)*/"
