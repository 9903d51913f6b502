"""Grammars of the call formats whose arguments are not one JSON object: XML, other notations, and channels.

Each function returns the rules of `calls`. The texts that they accept are those that the parser of the format reads
back (`call_formats`): for example, an argument in XML is a bare text if its schema has the type `string`, else JSON.
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Mapping
from typing import Any

from vita.infer.answer_formats.call_source import CallSource, arguments_rule, checked_argument_schema
from vita.infer.answer_formats.schema_rules import Notation, SchemaRules, checked_name, properties_of, string_terminal
from vita.infer.grammars import GrammarError

_JSON = Notation('"\\""', r'[^"\\<\x00-\x1f]', r'\\["\\bfnrt]')
_PYTHON = Notation('"\\""', r'[^"\\<\x00-\x1f\x7f]', r'\\["\\nrt]', ("True", "False", "None"))
_ANY_CHARACTER = r"(.|\n)"
_OBJECT = {"properties", "required", "additionalProperties", "type"}
_ANNOTATIONS = {"title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions"}


def qwen_xml(source: CallSource) -> str:
    """`<function=name>` with one `<parameter=...>` per argument."""
    start, end = source.marker(source.format.start), source.marker(source.format.end)
    rules, names = "", []
    for number, function in enumerate(source.functions):
        arguments = _XmlArguments(source, number, head=("<parameter=", ">\n"), tail="\n</parameter>\n")
        name = json.dumps("\n<function=" + checked_name(function["name"], r"[^>\s]+") + ">\n")
        rules += f'call{number}: {start} {name} {arguments.rule(function)} "</function>\\n" {end}\n{arguments.text}'
        names.append(f"call{number}")
    return _repeated(names, source, separator="\n") + rules


def glm(source: CallSource) -> str:
    """The name with one `<arg_key>` and `<arg_value>` per argument, on lines or without line breaks."""
    start, end = source.marker(source.format.start), source.marker(source.format.end)
    line = "\n" if "\n<arg_key>" in source.sample else ""
    rules, names = "", []
    for number, function in enumerate(source.functions):
        head = ("<arg_key>", f"</arg_key>{line}<arg_value>")
        arguments = _XmlArguments(source, number, head=head, tail=f"</arg_value>{line}")
        name = json.dumps(checked_name(function["name"], r"[\w.-]+") + line)
        rules += f"call{number}: {start} {name} {arguments.rule(function)} {end}\n{arguments.text}"
        names.append(f"call{number}")
    return _repeated(names, source, separator="\n") + rules


def gemma(source: CallSource) -> str:
    """`call:name{key:value,...}`, where strings stand between markers."""
    start, end = source.marker(source.format.start), source.marker(source.format.end)
    (quote,) = source.format.markers
    special = quote in source.specials and source.format.end in source.specials
    notation = Notation(
        source.marker(quote), _ANY_CHARACTER if special else r"[^<|]", item_separator=",", key_separator=":",
        quoted_keys=False,
    )  # fmt: skip
    rules, names = "", []
    for number, function in enumerate(source.functions):
        schema = checked_argument_schema(function)
        values = SchemaRules(notation, root=schema, prefix=f"value{number}")
        arguments = values.objects(schema)
        name = json.dumps("call:" + checked_name(function["name"], r"[\w.-]+"))
        rules += f"call{number}: {start} {name} {values.value(arguments)} {end}\n{values.text}"
        names.append(f"call{number}")
    return _repeated(names, source, separator="") + rules


def lfm(source: CallSource) -> str:
    """A Python list of calls with keyword arguments."""
    start, end = source.marker(source.format.start), source.marker(source.format.end)
    rules, names = "", []
    for number, function in enumerate(source.functions):
        name = json.dumps(f"{_python_name(function['name'])}(")
        schema = checked_argument_schema(function)
        values = SchemaRules(_PYTHON, root=schema, prefix=f"value{number}")
        arguments = _keyword_arguments(values, values.objects(schema))
        rules += f'call{number}: {name} {arguments} ")"\n{values.text}'
        names.append(f"call{number}")
    several = f'{start} "[" call (", " call)* "]" {end}' if source.parallel else f'{start} "[" call "]" {end}'
    return f"calls: {several}\ncall: {' | '.join(names)}\n{rules}"


def harmony(source: CallSource) -> str:
    """A message to `functions.name` in the channel `commentary`."""
    channel, message = source.marker("<|channel|>"), source.marker("<|message|>")
    rules, names = "", []
    for number, function in enumerate(source.functions):
        name = checked_name(function["name"], r"[\w.-]+")
        head = f"{channel} {json.dumps(f'commentary to=functions.{name} ')} {source.marker('<|constrain|>')}"
        rules += f'call{number}: {head} "json" {message} arguments{number}\n'
        rules += arguments_rule(number, function)
        names.append(f"call{number}")
    return f"calls: {' | '.join(names)}\n{rules}"


class _XmlArguments:
    """The rules of the arguments of one function, each between tags."""

    def __init__(self, source: CallSource, number: int, *, head: tuple[str, str], tail: str) -> None:
        """`head` is the text before and after the name of an argument, `tail` the text after its value."""
        self._source, self._number, self._head, self._tail = source, number, head, tail
        self._values = SchemaRules(_JSON, root={}, prefix=f"value{number}")

    @property
    def text(self) -> str:
        """The definitions of the rules."""
        return self._values.text

    def rule(self, function: Mapping[str, Any]) -> str:
        """Return the rule of all arguments."""
        schema = checked_argument_schema(function)
        self._values = values = SchemaRules(_JSON, root=schema, prefix=f"value{self._number}")
        schema = values.objects(schema)
        properties, required = _arguments(schema)
        before, after = self._head
        if not properties:
            if schema.get("additionalProperties", True) is False:
                return ""
            name, tail = values.terminal("/[a-z_][a-z0-9_]{0,30}/"), json.dumps(self._tail)
            value = values.value(schema.get("additionalProperties", True))
            return values.rule(f"({json.dumps(before)} {name} {json.dumps(after)} {value} {tail})*")
        parts = []
        for name, value in properties.items():
            text = json.dumps(before + checked_name(name, r"[^<>\n]+") + after)
            parts.append((f"{text} {self._value(value)}", name in required))
        return values.sequence(parts, separator="")

    def _value(self, schema: Any) -> str:
        """Return the rule of a value with the text after it."""
        types = schema.get("type") if isinstance(schema, Mapping) else None
        if types != "string" and not (isinstance(types, list) and "string" in types):
            return f"{self._values.value(schema)} {json.dumps(self._tail)}"
        if "const" in schema or "enum" in schema:
            texts = [schema["const"]] if "const" in schema else schema["enum"]
            return self._values.rule(" | ".join(json.dumps(self._bare(text) + self._tail) for text in texts))
        marker = self._tail.strip()
        characters = string_terminal(schema, character=_ANY_CHARACTER, forbidden=(marker, *self._block_end))
        self._values.check_string(schema)
        text = self._values.terminal(f"({characters}) {json.dumps(self._tail)}")
        return self._values.rule(text, attribute="[lazy]")  # its end is certain, also before a special token

    @property
    def _block_end(self) -> tuple[str, ...]:
        """The text that ends a block, if a text can contain it."""
        end = self._source.format.end
        return () if end in self._source.specials else (end,)

    def _bare(self, value: Any) -> str:
        if not isinstance(value, str) or self._tail.strip() in value or self._source.format.end in value:
            raise GrammarError("schema", f"`enum` has a value that the call format cannot write: {value!r}")
        return value


def _arguments(schema: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the arguments of a function; raises `GrammarError` for keywords beside those of an object."""
    for name in schema:
        if name not in _OBJECT | _ANNOTATIONS:
            raise GrammarError("schema", f"`{name}` is not supported in the call format of the model")
    return properties_of(schema)


def _keyword_arguments(values: SchemaRules, schema: Mapping[str, Any]) -> str:
    """Return the rule of `name=value, ...`."""
    properties, required = _arguments(schema)
    if not properties:
        if schema.get("additionalProperties", True) is False:
            return ""
        keywords = "|".join(keyword.kwlist)
        name = values.terminal(f"/[a-z_][a-z0-9_]{{0,30}}/ & ~/{keywords}/")
        pair = values.rule(f'{name} "=" {values.value(schema.get("additionalProperties", True))}')
        return values.rule(f'{pair} (", " {pair})* | ""')
    parts = [
        (f"{json.dumps(f'{_python_name(name)}=')} {values.value(value)}", name in required)
        for name, value in properties.items()
    ]
    return values.sequence(parts, separator=", ")


def _python_name(name: str) -> str:
    """Return a name that Python can write; raises `GrammarError` for another."""
    checked_name(name, r"[^\W\d]\w*(\.[^\W\d]\w*)*")
    if any(keyword.iskeyword(part) for part in name.split(".")):
        raise GrammarError("schema", f"the name {name!r} cannot be written in the call format of the model")
    return name


def _repeated(names: list[str], source: CallSource, *, separator: str) -> str:
    """Return the rule of one call, or of several after one another."""
    repeated = f"calls: call ({json.dumps(separator)} call)*\n" if separator else "calls: call+\n"
    return (repeated if source.parallel else "calls: call\n") + f"call: {' | '.join(names)}\n"
