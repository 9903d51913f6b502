"""Grammars in the notation that another program reads.

    lark = single_lark(constraint.grammar)      # None for nested grammars

The grammar that a program receives saves requests and is not trusted: `constrained_answers` checks each token.
"""

from __future__ import annotations

import json
import re

from vita.infer.grammars import JSON_OPTIONS

_LARK_HEADER = "%llguidance"
"""First word of a grammar that llama.cpp gives to llguidance."""
_ALLOWED_ESCAPES = ", " + json.dumps({"json_allowed_escapes": JSON_OPTIONS["json_allowed_escapes"]})[1:-1]


def single_lark(grammar: str) -> str | None:
    """Return a grammar of `vita.infer.grammars` as one text in Lark's notation; None if it cannot be one.

    JSON schemas become inline rules. The names of other grammars could collide, so those are not joined. Escapes by
    number are left to the check of each token, because llama.cpp has a version of llguidance without their option.
    """
    if not grammar.lstrip().startswith("{"):
        rules = grammar.replace(_ALLOWED_ESCAPES, "")
        return rules if rules.startswith(_LARK_HEADER) else f"{_LARK_HEADER} {{}}\n{rules}"
    first, *others = json.loads(grammar)["grammars"]
    if first.get("json_schema") is not None:
        rules, others = "start: @json", [{**first, "name": "json"}]
    else:
        rules = first["lark_grammar"]
    for other in others:
        name, schema = other["name"], other.get("json_schema")
        if schema is None:
            return None
        rules = re.sub(rf"@{name}\b", f"json_of_{name}", rules)
        rules += f"\njson_of_{name}: %json {json.dumps(schema)}\n"
    return f"{_LARK_HEADER} {{}}\n{rules.replace(_ALLOWED_ESCAPES, '')}"


def single_schema(grammar: str) -> str | None:
    """Return the JSON schema of a grammar that consists of one; None for another grammar."""
    if not grammar.lstrip().startswith("{"):
        return None
    grammars = json.loads(grammar)["grammars"]
    schema = grammars[0].get("json_schema")
    if len(grammars) != 1 or schema is None:
        return None
    return json.dumps({name: value for name, value in schema.items() if name != "x-guidance"})
