"""Schemas that the grammar compiler would not follow are refused with the place; dates and times exist."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import jsonschema
import pytest

from tests.infer.test_closing_search import random_answer
from vita.infer.grammars import GrammarCompiler, GrammarError, json_grammar
from vita.infer.json_schemas import _KEYWORDS, supported_schema
from vita.testing import byte_tokenizer

FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER
LOOP = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(byte_tokenizer())


def required(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: schema}, "required": [name]}


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"$ref": "#"}, "requires itself by `$ref`, so that no value of it ends (at `#`)"),
        ({"allOf": [{"$ref": "#"}]}, "requires itself by `$ref`"),
        ({**LOOP, "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "requires itself"),
        (required("a", {"$ref": "#"}), "requires itself by `$ref`, so that no value of it ends (at `#`)"),
        ({**LOOP, "$defs": {"a": required("b", {"$ref": "#/$defs/a"})}}, "(at `#/$defs/a`)"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "requires itself"),
        ({**required("a", {"$ref": "#r"}), "$anchor": "r"}, "requires itself by `$ref`"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "accepts no value (at `#`)"),
        (False, "accepts no value"),
        ({"type": "integer", "minimum": -(2**63)}, "`minimum` must be greater than -2**63"),
        ({"items": {"type": "integer", "maximum": 2**63}}, "less than 2**63, got 9223372036854775808 (at `#/items`)"),
        ({"type": "number", "exclusiveMaximum": 1e300}, "`exclusiveMaximum` must be"),
        ({"type": "integer", "maximum": 2**53 + 3}, "`maximum` must be a number that float64 represents exactly"),
        ({"type": "string", "maxlength": 3}, "the keyword `maxlength` is unknown; did you mean `maxLength`? (at `#`)"),
        (required("a", {"nullable": True}), "the keyword `nullable` is unknown (at `#/properties/a`)"),
        ({"type": "object", "minProperties": 2}, "`minProperties` 2 needs 1 or more names in `required`, got 0"),
        (
            {"items": {**required("a", {}), "minProperties": 3}},
            "needs 2 or more names in `required`, got 1 (at `#/items`)",
        ),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused(schema: Any, problem: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(problem)):
        json_grammar(schema)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"anyOf": [required("a", {"$ref": "#"}), {"type": "null"}]},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
        {"$ref": "#part", "$defs": {"a": {"$anchor": "part", "type": "integer"}}},
        {"$ref": "#/x-parts/a", "x-parts": {"a": {"type": "null"}}},
        {"enum": [{"maxlength": 1}], "default": {"maxlength": 1}, "examples": [{"format": "date"}], "title": "A"},
        {"type": "object", "properties": {"maxlength": {"type": "null"}}, "x-order": 1, "deprecated": True},
        {"type": "object", "minProperties": 1, "additionalProperties": {"type": "integer"}},
        {**required("a", {"type": "null"}), "minProperties": 2},
        {**required("a", {"type": "null"}), "additionalProperties": False, "minProperties": 1},
        {"allOf": [required("a", {"type": "null"}), {"type": "object", "minProperties": 2}]},
    ],
)
def test_a_schema_with_annotations_or_optional_recursion_is_compiled(compiler: GrammarCompiler, schema: Any) -> None:
    assert compiler.compile(json_grammar(schema)).allowed().any()


def test_a_refused_oneof_names_what_a_client_can_change(compiler: GrammarCompiler) -> None:
    with pytest.raises(GrammarError, match="`oneOf` needs schemas of disjoint types") as error:
        compiler.compile(json_grammar({"oneOf": [{"type": "string"}, {"minLength": 2}]}))
    assert "coerce" not in str(error.value)


@pytest.mark.parametrize("rules", ["start: start", "start: x\nx: y\ny: x", 'start: %json {"$ref":"#"}'])
def test_rules_without_a_text_are_refused_when_they_are_compiled(compiler: GrammarCompiler, rules: str) -> None:
    with pytest.raises(GrammarError, match="cannot be followed"):
        compiler.compile(rules)


def test_rules_without_an_end_allow_no_token_and_do_not_end_the_answer(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile('start: "a" x\nx: x')
    assert constraint.accept(ord("a"), remaining=9) == ord("a")
    assert not constraint.allowed().any() and constraint.failure is not None


@pytest.mark.parametrize("format", ["date", "time", "date-time"])
def test_dates_and_times_of_random_tokens_are_valid(compiler: GrammarCompiler, format: str) -> None:
    grammar = json_grammar({"type": "string", "format": format})
    for seed in range(15):
        text = random_answer(compiler, grammar, limit=45, seed=seed)
        assert text is not None and FORMATS.conforms(json.loads(text), format)


@pytest.mark.parametrize(
    ("format", "accepted", "refused"),
    [
        ("date", ["2024-02-29", "2000-02-29", "1000-12-31"], ["2023-02-29", "1900-02-29", "0000-01-01", "2024-04-31"]),
        ("time", ["23:59:59Z", "00:00:00.125-03:30"], ["23:59:60Z", "10:00:60+22:17", "24:00:00Z", "10:00:00"]),
        ("date-time", ["2024-02-29T08:00:00Z"], ["2023-02-29T08:00:00Z", "2024-02-29 08:00:00Z"]),
    ],
)
def test_patterns_of_dates_and_times(format: str, accepted: list[str], refused: list[str]) -> None:
    pattern = supported_schema({"format": format})["pattern"]
    assert all(re.search(pattern, text) and FORMATS.conforms(text, format) for text in accepted)
    assert not any(re.search(pattern, text) for text in refused)


def test_a_format_is_combined_with_a_pattern(compiler: GrammarCompiler) -> None:
    schema = {"type": "string", "format": "date", "pattern": "^1999-.*-07$"}
    text = random_answer(compiler, json_grammar(schema), limit=20, seed=0)
    assert text is not None and re.fullmatch(r'"1999-[01][0-9]-07"', text)


JUNK = [
    None,
    True,
    0,
    -1.5,
    1e30,
    10**40,
    float("inf"),
    float("nan"),
    "x",
    "#",
    "#/a/9",
    [],
    [[]],
    [None],
    [{}],
    {},
    {"a": 1},
]


@pytest.mark.parametrize("type", ["object", "array", ["object"], [[]], 3])
def test_keywords_with_values_of_any_type_are_refused_or_left_to_the_compiler(type: Any) -> None:
    """A malformed schema of a client must not be a fault of the server."""
    base = {"type": type, "properties": {"a": {}}, "items": {"type": "string"}}
    for keyword in [*_KEYWORDS, "unknown", ""]:
        for value in JUNK:
            for schema in ({**base, keyword: value}, {keyword: value}, {"properties": {"a": {**base, keyword: value}}}):
                with contextlib.suppress(GrammarError):
                    json.dumps(supported_schema(schema))


def test_a_deep_schema_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(GrammarError, match="nested too deeply"):
        supported_schema(schema)
