"""Problems that the grammar compiler reports, in terms of the JSON schema of a client.

    place, problem = schema_problem('Unimplemented keys: ["not"]', {"items": {"not": {}}}, check=message_of_compiler)
    # ("#/items", "`not` is not supported; leave it out, and check the answer for it in the client")

The compiler states regular expressions and ranges that it made from a schema, and names of its own classes. A message
without an entry here is replaced by a general one.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from vita.infer.json_schemas import schema_parts

log = logging.getLogger(__name__)

Check = Callable[[Mapping[str, Any]], str]
_MOST_PARTS = 64
"""Largest number of parts of a schema among which the place of a problem is searched."""
_UNSATISFIABLE = "Unsatisfiable schema: "
_DISJOINT = "`oneOf` needs schemas of disjoint types or constants; use `anyOf`"
_LOOK_AROUND = r"the regular expression has `^`, `$` or `\b` within the text, which is not supported"
_FORMAT = (
    "the format `{}` is not supported, but date, time, date-time, duration, email, hostname, ipv4, ipv6, uri and uuid "
    "are; use `pattern`, or check the answer in the client"
)
_LIMITS = "its limits and constants exclude each other"


def schema_problem(message: str, schema: Mapping[str, Any], *, check: Check) -> tuple[str, str]:
    """Return the place and the problem of a schema for a message of the compiler.

    `check` returns the message for a schema, "" without one. The place is that of the smallest part that has the
    problem alone, among the first parts of a schema; # for the whole.
    """
    definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}

    def message_of(part: Mapping[str, Any]) -> str:
        return check({**definitions, **part})

    place, part = "#", schema
    parts = list(islice(schema_parts(schema, "#"), _MOST_PARTS))
    for inner_place, inner in sorted(parts, key=lambda entry: -entry[0].count("/")):
        if message_of(inner) == message:
            place, part = inner_place, inner
            break
    while (cause := _required_part(message, part)) and (inner_message := message_of(cause[1])):
        place, part, message = place + cause[0], cause[1], inner_message
    return place, _explained(message, part)


def _required_part(message: str, schema: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """Return the relative place and the schema of a required property or item that has no allowed value, if any."""
    properties, items = schema.get("properties"), schema.get("items")
    if match := re.search(r"required property '(.*)' is unsat", message, re.DOTALL):
        part = properties.get(match[1]) if isinstance(properties, Mapping) else None
        return (f"/properties/{match[1]}", part) if isinstance(part, Mapping) else None
    return ("/items", items) if "required item is unsat" in message and isinstance(items, Mapping) else None


def _explained(message: str, schema: Mapping[str, Any]) -> str:
    """Return the problem of a part of a schema for a message of the compiler."""
    text = " ".join(message.split())
    is_unsatisfiable = text.startswith(_UNSATISFIABLE)
    table, text = (_CONTRADICTIONS if is_unsatisfiable else _PROBLEMS), text.removeprefix(_UNSATISFIABLE)
    for pattern, problem in table:
        if match := re.search(pattern, text):
            explained = problem(match, schema) if callable(problem) else problem.format(*match.groups())
            return f"no value satisfies the schema: {explained}" if is_unsatisfiable else explained
    log.debug("the grammar compiler refuses a schema: %s", text[:1000])
    return "no value satisfies the schema" if is_unsatisfiable else "it cannot be compiled to a grammar; simplify it"


def regex_problem(message: str) -> str:
    """Return the problem of a regular expression for a message of the compiler."""
    if "lookarounds not supported" in message:
        return _LOOK_AROUND
    reason = re.search(r"^error: (.*)$", message, re.MULTILINE)
    return "the regular expression is not supported" + (f": {reason[1]}" if reason else "")


def stop_problem(reason: str) -> str:
    """Return the problem of a grammar that allows no further token, for the reason of the compiler's matcher."""
    if "TooComplex" in reason:
        return "cannot be followed: it is too complex; simplify its patterns or shorten its limits of lengths"
    return "cannot be followed: no text satisfies it, because its rules or patterns exclude each other or have no end"


def _unsupported(match: re.Match[str], schema: Mapping[str, Any]) -> str:
    names = re.findall(r'"([^"]+)"', match[1])
    verb, pronoun = ("is", "it") if len(names) == 1 else ("are", "them")
    listed = ", ".join(f"`{name}`" for name in names)
    return f"{listed} {verb} not supported; leave {pronoun} out, and check the answer for {pronoun} in the client"


def _limits(match: re.Match[str], schema: Mapping[str, Any]) -> str:
    """Return the contradiction of two limits, if the schema has both: the compiler also states those of constants."""
    quoted = json.dumps(schema)
    if all(f'"{name}"' in quoted for name in match.group(1, 3)):
        return "`{}` ({}) and `{}` ({}) exclude each other".format(*match.groups())
    return _LIMITS


def _expression(match: re.Match[str], schema: Mapping[str, Any]) -> str:
    """Return the problem of a regular expression, which the compiler makes from limits of numbers also."""
    if '"pattern' not in json.dumps(schema):
        return "the limits of the numbers have too many digits"
    return f"the regular expression is not supported: {match[1]}"


def _reference(match: re.Match[str], schema: Mapping[str, Any]) -> str:
    name = match[1].removeprefix("json-schema:///")
    return f"`$ref` or `$schema` refers to `{name}`, which is not in the schema; other addresses are not read"


_Problem = str | Callable[[re.Match[str], Mapping[str, Any]], str]
_NUMBER = r"\((-?[0-9.e+-]+)\)"
_CONTRADICTIONS: Sequence[tuple[str, _Problem]] = (
    (r"^incompatible types", "its types or constants exclude each other"),
    (rf"^(\w+) {_NUMBER} is (?:greater than|equal to) (\w+) {_NUMBER}$", _limits),
    (r"^integer interval", "there is no integer between its limits"),
    (r"does not contain a multiple of (\S+)", "there is no multiple of {} between its limits"),
    (r"^required property '(.*)' is unsat", "no value is allowed for the required property `{}`"),
    (r"^(required item|prefixItems)", "no value is allowed for an item that `minItems` requires"),
    (r"^required > maxProperties", "`required` has more names than `maxProperties` allows"),
    (r"^minProperties .* number of properties", "`minProperties` is more than the number of properties"),
    (r"^(anyOf|oneOf) is empty", "none of its alternatives accepts a value"),
    (r"^Constant .* length", "a constant is shorter than `minLength` or longer than `maxLength`"),
    (r"^Regex is empty", "no text satisfies its pattern, format, limits of the length and constants together"),
    (r"(minimum|maximum|multipleOf)", _LIMITS),
)
_PROBLEMS: Sequence[tuple[str, _Problem]] = (
    (r"^Unimplemented keys: \[(.*)\]", _unsupported),
    (r"coerce_one_of", _DISJOINT),
    (r"^Unknown format: (.*)", _FORMAT),
    (r"^Pointer '(.*)' does not exist", "`$ref` refers to `#{}`, which does not exist"),
    (r"^Anchor '(.*)' does not exist", "`$ref` refers to `#{}`, which does not exist"),
    (r"^Resource '(.*)' is not present", _reference),
    (r"^circular references with sibling", "a `$ref` to a schema around it cannot have other keywords beside it"),
    (r"^min/maxProperties only", "`minProperties` and `maxProperties` need all names of `properties` in `required`"),
    (r"^patternProperty regexes", "a name can match several of `patternProperties`; its patterns must be disjoint"),
    (r"'multipleOf' has too many digits", "`multipleOf` has too many digits"),
    (r"^Failed to generate regex for (float|integer) range", "the limits of the numbers have too many digits"),
    (r"^lookarounds not supported", _LOOK_AROUND),
    (r"regex parse error: .*error: (.*)", _expression),
    (r"too (big|large|many|complex|deep)", "it is too large or too complex; divide it, or shorten its patterns"),
)
"""Message of the compiler -> problem of the schema; the first that matches."""
