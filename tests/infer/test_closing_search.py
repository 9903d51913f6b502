"""Constrained answers of random tokens end within the limit, also where the preferred token is a repetition."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest

from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.closing_search import ClosingSearch
from vita.infer.grammar_states import Effort
from vita.infer.grammars import GrammarCompiler, GrammarError, json_grammar, lark_grammar, regex_grammar
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
    chance, text = np.random.default_rng(seed), b""
    constraint = compiler.compile(grammar)
    for count in range(limit):
        drawn = int(chance.choice(np.flatnonzero(constraint.allowed())))
        token = constraint.accept(drawn, remaining=limit - count)
        if constraint.is_stop(token):
            return text.decode()
        text += constraint._search.order.names[token]
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


EXPONENT: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"anyOf": [{"type": "string", "format": "uuid"}, {"enum": [None]}]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (EXPONENT, '{"a": 0, "b": null}'),
        ({"type": "array", "items": {"type": "integer", "minimum": 88, "maximum": 1085}, "minItems": 2}, "[88, 88]"),
        ({"anyOf": [{"type": "string", "format": "date"}, {"type": "array", "items": {"const": 57}, "minItems": 1}]},
         "[57]"),
        ({"anyOf": [{"type": "string", "pattern": "^[a-z]+@[a-z]+$"}, {"enum": ["ü"]}]}, '"ü"'),
        ({"type": "array", "items": {"enum": [{"a": [False]}, "green", 1]}, "minItems": 3}, "[1, 1, 1]"),
    ],
)  # fmt: skip
def test_an_answer_ends_where_only_the_shortest_text_fits(
    compiler: GrammarCompiler, schema: dict[str, Any], text: str
) -> None:
    length = len(text.encode())
    for seed in range(2):
        answer = random_answer(compiler, json_grammar(schema), limit=length + 1, seed=seed)
        assert answer is not None and len(answer.encode()) == length
        jsonschema.validate(json.loads(answer), schema)
    assert random_answer(compiler, json_grammar(schema), limit=length, seed=0) is None


SHORTEST: list[tuple[dict[str, Any], int]] = [
    ({"type": "integer"}, 1), ({"type": "number", "minimum": -7, "maximum": -3}, 2), ({"type": "boolean"}, 4),
    ({"type": "null"}, 4), ({"type": "string", "minLength": 3, "maxLength": 9}, 5), ({"type": "string"}, 2),
    ({"enum": ["red", 2.5, {"a": 1}]}, 3), ({"type": "string", "format": "uuid"}, 38),
    ({"type": "string", "pattern": "^\\d+ (km|mi)$"}, 6), ({"type": "string", "format": "ipv4"}, 9),
    ({"type": "integer", "minimum": 95, "maximum": 1200}, 2),
]  # fmt: skip
"""A schema and the number of bytes of its shortest text."""


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_an_answer_in_open_objects_is_free_while_many_tokens_are_left(compiler: GrammarCompiler, depth: int) -> None:
    schema: dict[str, Any] = {"type": "string"}
    text = '""'
    for level in range(depth):
        name = f"l{level}"
        schema = {"type": "object", "properties": {name: schema}, "required": [name]}
        text = f'{{"{name}": {text}}}'
    constraint = compiler.compile(json_grammar(schema))
    assert bytes((constraint._search.quick(constraint._matcher, 200) or [])[:-1]).decode() == text
    chance = np.random.default_rng(0)
    for count in range(60):
        drawn = int(chance.choice(np.flatnonzero(constraint.allowed())))
        assert constraint.accept(drawn, remaining=500 - count) == drawn


def test_searches_that_find_nothing_take_a_bounded_effort(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"type": "array", "minItems": 3, "items": False}
    row["prefixItems"] = [
        {"type": "number", "multipleOf": 0.5},
        {"type": "integer", "multipleOf": 7},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 8, "maxItems": 8},
    ]
    # the shortest text has 232 bytes: 4 rows `[0, 0, [true, ...]]` of 56 bytes, 3 separators and 2 brackets
    constraint = compiler.compile(json_grammar({"type": "array", "minItems": 4, "maxItems": 6, "items": row}))
    shares = list[float]()
    find = ClosingSearch.find

    def recorded(search: ClosingSearch, matcher: Any, limit: int, *, share: float = 1.0) -> list[int] | None:
        shares.append(share)
        return find(search, matcher, limit, share=share)

    monkeypatch.setattr(ClosingSearch, "find", recorded)
    chance = np.random.default_rng(0)
    for count in range(200):
        constraint.accept(int(chance.choice(np.flatnonzero(constraint.allowed()))), remaining=200 - count)
    assert shares == [1.0, 1 / 16, 1 / 16, 1 / 16]  # after 0, 4, 20 and 84 tokens


def random_schema(chance: random.Random, depth: int = 0) -> tuple[dict[str, Any], int]:
    """Return a schema and the number of bytes of its shortest text."""
    kind = chance.choice(["object", "array", "anyOf", "value"]) if depth < 3 else "value"
    if kind == "value":
        return chance.choice(SHORTEST)
    parts = [random_schema(chance, depth + 1) for _ in range(chance.randint(1, 4))]
    if kind == "anyOf":
        return {"anyOf": [schema for schema, _ in parts]}, min(length for _, length in parts)
    if kind == "array":
        (schema, length), least = parts[0], chance.randint(0, 2)
        items = length * least + 2 * max(0, least - 1)
        return {"type": "array", "items": schema, "minItems": least, "maxItems": least + 2}, 2 + items
    properties = {f"key{number}": schema for number, (schema, _) in enumerate(parts)}
    lengths = {f"key{number}": length + len('"key0": ') for number, (_, length) in enumerate(parts)}
    required = [name for name in properties if chance.random() < 0.6]
    total = 2 + sum(lengths[name] for name in required) + 2 * max(0, len(required) - 1)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}, total


def test_answers_to_random_schemas_end_within_every_possible_limit(compiler: GrammarCompiler) -> None:
    chance = random.Random(0)
    for seed in range(15):
        schema, length = random_schema(chance)
        limit = length + 1 + chance.choice([0, 0, 1, 3, 10, 40])
        assert random_answer(compiler, json_grammar(schema), limit=limit, seed=seed) is not None, (schema, limit)


@pytest.mark.parametrize(
    ("grammar", "rule"),
    [
        ('start: "a" x\nx: "b" x', "x"),
        ('start: a b?\na: "x"\nb: "z" b // comment: b', "b"),
        ('start: (a | "x")+\na: "b" (a | c)\nc: a "z"', "a"),
        ('start: "a"~2..3 x{0,2}\nx[capture]: ":" x', "x"),
        ('root ::= "a" root', "start"),
    ],
)
def test_a_rule_without_an_end_is_refused_by_name(grammar: str, rule: str) -> None:
    with pytest.raises(GrammarError, match=f"the rule `{rule}` is infinitely recursive"):
        lark_grammar(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        'start: a\na: "x" b | "y"\nb: "y" a',
        'start: %json {"type": "null"} tail\ntail: ";" tail?',
        'start: "a".."z" x -> foo\n | "q"\nx: [x] "k"',
        'x: "unused" x\nstart: A\nA: "a" B\nB: /[:]b/\n%ignore / +/',
        'root ::= "(" root ")" | [0-9]+',
    ],
)
def test_a_recursive_rule_with_an_end_is_accepted(compiler: GrammarCompiler, grammar: str) -> None:
    assert compiler.compile(lark_grammar(grammar)).allowed().any()


LONG_TEXTS = [
    (json_grammar({"type": "object", "properties": {"a": {"type": "string", "minLength": 300, "maxLength": 600}},
                   "required": ["a"], "additionalProperties": False}), 400),
    (string(pattern="^[a-z]{300,400}$"), 400),
    (string(minLength=300), 500),
    (regex_grammar("[0-9a-f]{256}"), 300),
    (string(pattern="^([a-z]{3,8} ){40}[a-z]{3,8}$"), 300),
]  # fmt: skip
"""A grammar whose texts are long, and a limit of tokens."""


@pytest.fixture
def efforts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The spent effort, in units; one value, which a test may set to 0."""
    spent, spend = [0.0], Effort.spend

    def counted(effort: Effort, units: float) -> None:
        before = effort.units
        try:
            spend(effort, units)
        finally:
            spent[0] += before - effort.units

    monkeypatch.setattr(Effort, "spend", counted)
    return spent


@pytest.mark.parametrize(("grammar", "limit"), LONG_TEXTS)
def test_the_effort_of_long_texts_is_small_for_each_token(
    compiler: GrammarCompiler, efforts: list[float], grammar: str, limit: int
) -> None:
    assert random_answer(compiler, grammar, limit=limit, seed=1) is not None
    assert efforts[0] < 1000 * limit, "a search of each character for each token takes 100 times as much"


def properties(**schemas: Any) -> dict[str, Any]:
    return {"type": "object", "properties": schemas, "required": list(schemas), "additionalProperties": False}


WITHOUT_COMPLETION: list[tuple[dict[str, Any], int]] = [
    (properties(t={"type": "string", "minLength": 1000}), 60),
    (properties(t={"type": "array", "minItems": 300, "items": {"type": "integer"}}), 100),
    (properties(**{f"p{number}": {"type": "string", "minLength": 5} for number in range(60)}), 300),
    (properties(t={"type": "string", "pattern": "^([A-Z][0-9] ){300}$"}), 300),
    (properties(t={"type": "array", "minItems": 25, "items": {"type": "string", "format": "uuid"}}), 300),
]
"""A schema whose texts need more tokens, and a limit."""


@pytest.mark.parametrize(("schema", "limit"), WITHOUT_COMPLETION)
def test_no_token_takes_more_than_the_effort_of_a_search(
    compiler: GrammarCompiler, efforts: list[float], schema: dict[str, Any], limit: int
) -> None:
    """A unit is about a microsecond; the first token took up to 1.9 seconds."""
    constraint, chance, largest, total = compiler.compile(json_grammar(schema)), np.random.default_rng(0), 0.0, 0.0
    for count in range(limit):
        efforts[0] = 0
        constraint.accept(int(chance.choice(np.flatnonzero(constraint.allowed()))), remaining=limit - count)
        largest, total = max(largest, efforts[0]), total + efforts[0]
    assert 10_000 < largest < 90_000
    assert total < 2000 * limit


def test_the_answers_to_a_request_share_the_first_search(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    constraint = compiler.compile(json_grammar({"type": "string", "minLength": 40}))
    searches, find = [0], ClosingSearch.find

    def counted(search: ClosingSearch, matcher: Any, limit: int, *, share: float = 1.0) -> list[int] | None:
        searches[0] += 1
        return find(search, matcher, limit, share=share)

    monkeypatch.setattr(ClosingSearch, "find", counted)
    answers = [constraint.copy() for _ in range(12)]
    assert {answer.accept(ord('"'), remaining=50) for answer in answers} == {ord('"')}
    assert searches == [1]
    assert len({answer.completion for answer in answers}) == 1 and answers[0].completion
    answers[0].accept(ord("x"), remaining=49)
    assert answers[1].completion == answers[2].completion != answers[0].completion
    assert constraint.copy().accept(ord('"'), remaining=48) == ord('"')
    assert searches == [2], "another limit is another search"


def test_a_search_without_effort_ends(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(json_grammar(properties(t={"type": "string", "minLength": 300})))
    for share in (0, 1e-6, 1e-3):
        assert constraint._search.find(constraint._matcher, 400, share=share) is None


@pytest.fixture(scope="module")
def word_compiler() -> GrammarCompiler:
    """A compiler for a tokenizer with words of several letters and with marks of several characters."""
    text = "".join(chr(ord("a") + (i * i) % 26) for i in range(40))
    return GrammarCompiler(Tokenizer.train([text, "]]]]", '"}]', "}}"] * 50, vocabulary=288))


@pytest.mark.parametrize(
    ("grammar", "characters"),
    [
        (regex_grammar("[a-z]{300,400}"), 300),
        (string(minLength=300), 300),
        (string(minLength=300, maxLength=300), 300),
        (string(pattern="^[a-z]{300,}$"), 300),
        (json_grammar({"type": "array", "minItems": 10, "items": {"type": "string", "minLength": 40}}), 400),
        (json_grammar(properties(a={"type": "string", "minLength": 150}, b={"type": "string", "minLength": 200})), 350),
    ],
)
def test_a_long_text_is_completed_with_long_words(
    word_compiler: GrammarCompiler, grammar: str, characters: int
) -> None:
    """Within a string of JSON, `]` is a character as all others, and it is shorter than a word."""
    constraint = word_compiler.compile(grammar)
    longest = int(constraint._search.order.text_lengths.max())
    assert longest >= 8
    limit = characters // longest + 90
    assert random_answer(word_compiler, grammar, limit=limit, seed=0) is not None
    completion = constraint._search.find(constraint._matcher, limit)
    assert completion is not None and len(completion) <= limit
