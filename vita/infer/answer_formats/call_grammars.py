"""Grammars of calls: the text of a call format with arguments that the schema of the function accepts.

    rules = calls_rules(format, tools, specials=tokenizer.specials, sample=features.call_sample, parallel=True)

The rules are in Lark's notation and define `calls`. A format without an entry here cannot be constrained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita.infer.answer_formats.call_formats import CallFormat
from vita.infer.grammars import JSON_OPTIONS

Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Source:
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

    def objects(self, arguments: str, *, name: str = "name") -> dict[str, Any]:
        """Return the schema of a JSON object with the name of a function and its arguments."""
        return {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {name: {"const": function["name"]}, arguments: argument_schema(function)},
                    "required": [name, arguments],
                    "additionalProperties": False,
                }
                for function in self.functions
            ]
        }


def calls_rules(
    format: CallFormat, tools: Tools, *, specials: Mapping[str, int], sample: str, parallel: bool
) -> str | None:
    """Return the rules of one call, or of several with `parallel`; None for a format that cannot be constrained."""
    rules = _RULES.get(format.name)
    functions = [tool["function"] for tool in tools]
    return None if rules is None else rules(_Source(format, functions, specials, sample, parallel))


def special_or_text(text: str, specials: Mapping[str, int]) -> str:
    """Return the rule of a marker: a special token by its id, or its text."""
    return f"<[{specials[text]}]>" if text in specials else json.dumps(text)


def argument_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of the arguments of a function; without one it has no arguments."""
    return dict(function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False})


def _json_rule(name: str, schema: Mapping[str, Any]) -> str:
    return f"{name}: %json {json.dumps({**schema, 'x-guidance': JSON_OPTIONS})}\n"


def _hermes(source: _Source) -> str:
    start, end = source.marker(source.format.start), source.marker(source.format.end)
    repeated = 'calls: call ("\\n" call)*\n' if source.parallel else "calls: call\n"
    return f'{repeated}call: {start} "\\n" object "\\n" {end}\n' + _json_rule("object", source.objects("arguments"))


def _list(source: _Source, arguments: str = "arguments", name: str = "name") -> str:
    """Return the rules of a block with a JSON list of objects."""
    schema = {"type": "array", "items": source.objects(arguments, name=name), "minItems": 1}
    if not source.parallel:
        schema["maxItems"] = 1
    rules = f"calls: {source.marker(source.format.start)} list {source.marker(source.format.end)}\n"
    return rules + _json_rule("list", schema)


def _mistral(source: _Source) -> str:
    if "[ARGS]" not in source.sample:
        return _list(source)
    start, separator = source.marker("[TOOL_CALLS]"), source.marker("[ARGS]")
    alternatives = " | ".join(f"call{number}" for number in range(len(source.functions)))
    rules = f"calls: ({alternatives}){'+' if source.parallel else ''}\n"
    for number, function in enumerate(source.functions):
        rules += f"call{number}: {start} {json.dumps(function['name'])} {separator} arguments{number}\n"
        rules += _json_rule(f"arguments{number}", argument_schema(function))
    return rules


def _llama(source: _Source) -> str:
    return "calls: object\n" + _json_rule("object", source.objects("parameters"))


def _deepseek(source: _Source) -> str:
    start, end = source.marker(source.format.start), source.marker(source.format.end)
    begin, separator, finish = (source.marker(text) for text in source.format.markers)
    alternatives = " | ".join(f"call{number}" for number in range(len(source.functions)))
    rules = f"calls: {start} ({alternatives}){'+' if source.parallel else ''} {end}\n"
    for number, function in enumerate(source.functions):
        name = json.dumps(function["name"])
        if "```json" in source.sample:
            head, tail = f'"function" {separator} {name} "\\n```json\\n"', '"\\n```"'
        else:
            head, tail = f"{name} {separator}", ""
        rules += f"call{number}: {begin} {head} arguments{number} {tail} {finish}\n"
        rules += _json_rule(f"arguments{number}", argument_schema(function))
    return rules


_RULES: Mapping[str, Callable[[_Source], str]] = {
    "hermes": _hermes,
    "phi": _list,
    "granite": _list,
    "cohere": lambda source: _list(source, "parameters", "tool_name"),
    "mistral": _mistral,
    "llama": _llama,
    "deepseek": _deepseek,
}
"""Name of the format -> its rules."""
