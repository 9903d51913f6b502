"""Constrained answers of random tokens end within the limit, also where the preferred token is a repetition."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from vita.infer.grammars import GrammarCompiler, json_grammar, lark_grammar, regex_grammar
from vita.testing import byte_tokenizer

RECORD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cat", "dog"]},
        "n": {"type": "integer"},
        "xs": {"type": "array", "items": {"type": "number"}},
    },
    "required": ["kind", "n", "xs"],
    "additionalProperties": False,
}
NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        "is_the_last": {"type": "boolean"},
        "position": {"type": "integer"},
    },
    "required": ["next", "is_the_last", "position"],
    "additionalProperties": False,
}
OPTIONAL: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "string", "minLength": 30}, "b": {"type": "null"}},
    "required": ["b"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(byte_tokenizer())


def random_answer(compiler: GrammarCompiler, grammar: str, *, limit: int, seed: int) -> str | None:
    """Return the text of an answer whose tokens are drawn uniformly; None if it does not end within the limit."""
    chance, tokens = np.random.default_rng(seed), list[int]()
    constraint = compiler.compile(grammar)
    for count in range(limit):
        drawn = int(chance.choice(np.flatnonzero(constraint.allowed())))
        token = constraint.accept(drawn, remaining=limit - count)
        if constraint.is_stop(token):
            return bytes(tokens).decode()
        tokens.append(token)
    return None


def string(**keywords: Any) -> str:
    return json_grammar({"type": "string", **keywords})


@pytest.mark.parametrize(
    ("grammar", "limit"),
    [
        (json_grammar(RECORD), 200),
        (json_grammar(RECORD), 50),
        (json_grammar({"anyOf": [RECORD, {"type": "number"}]}), 60),
        (json_grammar({"type": "array", "items": {"type": "integer", "minimum": 10**15}, "minItems": 2}), 60),
        (json_grammar(NESTED), 400),
        (string(format="email"), 30),
        (string(format="uri"), 40),
        (string(format="duration"), 30),
        (string(pattern=r"^\+?[0-9 ]+-[0-9]{4}$"), 20),
        (string(pattern=r"^\d+ (km|mi)$"), 12),
        (string(pattern="ab"), 20),
        (regex_grammar("[0-9a-f]+#"), 12),
        (regex_grammar("[a-z ]+-[0-9]+;[A-Z]{3}"), 16),
        (regex_grammar("(.|\n)*END"), 20),
        (regex_grammar("(([0-9]+,)+x)+;"), 16),
        (lark_grammar('root ::= "a" [0-9]+ "\\n"'), 12),
    ],
)
def test_random_answers_end_within_the_limit(compiler: GrammarCompiler, grammar: str, limit: int) -> None:
    for seed in range(4):
        assert random_answer(compiler, grammar, limit=limit, seed=seed) is not None


def test_nested_answers_are_valid(compiler: GrammarCompiler) -> None:
    text = random_answer(compiler, json_grammar(NESTED), limit=300, seed=1)
    assert text is not None
    jsonschema.validate(json.loads(text), NESTED)


def test_the_shortest_text_is_found_where_only_it_fits(compiler: GrammarCompiler) -> None:
    # {"b": null} has 11 bytes; the property `a`, which is preferred, would need 37 more.
    for seed in range(4):
        assert random_answer(compiler, json_grammar(OPTIONAL), limit=12, seed=seed) == '{"b": null}'
    assert random_answer(compiler, json_grammar(OPTIONAL), limit=11, seed=0) is None


def test_the_thorough_search_is_as_short_as_the_shortest_text(compiler: GrammarCompiler) -> None:
    search = compiler.compile(json_grammar(OPTIONAL))._search
    matcher = compiler.compile(json_grammar(OPTIONAL))._matcher
    quick, thorough = search.quick(matcher, 100), search.thorough(matcher, 100)
    assert quick is not None and len(quick) > 40
    assert thorough is not None and bytes(thorough[:-1]) == b'{"b": null}'
    assert search.thorough(matcher, 10) is None
