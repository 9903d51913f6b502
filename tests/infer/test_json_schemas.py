"""Schemas that the grammar compiler would not follow are refused with the place; dates and times exist."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import jsonschema
import pytest

from tests.infer.test_closing_search import random_answer
from vita.infer.grammar_problems import schema_problem, stop_problem
from vita.infer.grammars import Constraint, GrammarCompiler, GrammarError, json_grammar
from vita.infer.json_schemas import supported_schema
from vita.infer.schema_keywords import KEYWORDS
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
        ({"$ref": "#"}, "is infinitely recursive through `$ref`, so no finite value matches it (at `#`)"),
        ({"allOf": [{"$ref": "#"}]}, "is infinitely recursive through `$ref`"),
        ({**LOOP, "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "is infinitely recursive"),
        (
            required("a", {"$ref": "#"}),
            "is infinitely recursive through `$ref`, so no finite value matches it (at `#`)",
        ),
        ({**LOOP, "$defs": {"a": required("b", {"$ref": "#/$defs/a"})}}, "(at `#/$defs/a`)"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "is infinitely recursive"),
        ({**required("a", {"$ref": "#r"}), "$anchor": "r"}, "is infinitely recursive through `$ref`"),
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


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"not": {}}, "`not` is not supported; leave it out, and check the answer for it in the client (at `#`)"),
        ({"items": {"if": {}, "then": {}}}, "`if`, `then` are not supported; leave them out, and check"),
        ({"items": {"uniqueItems": True}}, "(at `#/items`)"),
        (
            required("a", required("b", {"type": "integer", "minimum": 4, "maximum": 3})),
            "(at `#/properties/a/properties/b`)",
        ),
        ({"allOf": [{"const": 1}, {"const": 2}]}, "no value satisfies the schema: its limits and constants exclude"),
        ({"type": "integer", "minimum": 1.5, "maximum": 1.7}, "there is no integer between its limits"),
        ({"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 6}, "no multiple of 7 between its limits"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "`minLength` (5) and `maxLength` (3) exclude each other"),
        ({"type": "string", "pattern": "a", "maxLength": 0}, "no text satisfies its pattern, format, limits"),
        ({"type": "array", "minItems": 1, "items": {"enum": [1], "type": "string"}}, "types or constants exclude each"),
        ({"required": ["a"], "additionalProperties": False, "type": "object"}, "for the required property `a`"),
        ({"type": "string", "pattern": "(?!a)b"}, "the regular expression is not supported: look-around"),
        ({"type": "string", "pattern": r"\bfoo"}, r"the regular expression has `^`, `$` or `\b` within the text"),
        ({"type": "number", "minimum": 1e-300}, "the limits of the numbers have too many digits (at `#`)"),
        ({"items": {"format": "regex"}}, "the format `regex` is not supported, but date, time"),
        ({"$ref": "other.json"}, "`$ref` or `$schema` refers to `other.json`, which is not in the schema"),
        ({"$ref": "#nope"}, "`$ref` refers to `#nope`, which does not exist"),
        ({"minLength": -1}, "`minLength` must be an integer from 0 to 2**53, got -1 (at `#`)"),
        ({"multipleOf": 0}, "`multipleOf` must be a number above 0, got 0"),
        ({"exclusiveMinimum": True}, "`exclusiveMinimum` must be a number, got true"),
        ({"type": "text"}, 'object, got "text"'),
        ({"enum": []}, "`enum` must be a list of at least one value, got []"),
        ({"const": "\x1b[0m"}, "has a control character that an answer cannot contain"),
        ({"x-guidance": {"coerce_one_of": True}, "oneOf": [{"type": "string"}, {"minLength": 2}]}, "`oneOf` needs"),
    ],
)
def test_a_refused_schema_is_explained_with_its_place_and_without_words_of_the_compiler(
    compiler: GrammarCompiler, schema: Any, problem: str
) -> None:
    with pytest.raises(GrammarError, match=re.escape(problem)) as error:
        compiler.compile(json_grammar(schema))
    assert not re.search(r"Unimpl|Unsatisf|Regex|And \(|Literal|coerce|json-schema:|f64|^$", str(error.value))


def test_an_unknown_message_of_the_compiler_is_not_shown() -> None:
    def check(_: object) -> str:
        return "thread 'main' panicked at LexerSpec"

    expected = "#", "it cannot be compiled to a grammar; simplify it"
    assert schema_problem("thread 'main' panicked at LexerSpec", {}, check=check) == expected
    assert "too complex" in stop_problem("LexerTooComplex") and "Lexer" not in stop_problem("LexerTooComplex")


@pytest.mark.parametrize(
    ("name", "escape"),
    [("a", r"\u0061"), ("é", r"\u00e9"), ("a\nb", r"a\u000ab"), ('"', r"\u0022"), ("/", r"\/"),
     ("\\", r"\u005C"), ("😀", r"\ud83d\ude00")],
)  # fmt: skip
def test_an_escape_does_not_repeat_the_name_of_a_property(compiler: GrammarCompiler, name: str, escape: str) -> None:
    """The value of the repeated name would replace a valid one in the parsed answer."""
    schema = {"type": "object", "properties": {name: {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    constraint = compiler.compile(json_grammar(schema))
    assert accepts(constraint, written({name: 1}))
    assert accepts(constraint, '{"b\\n": "x"}') and accepts(constraint, written({name: 1, "b": ""}))
    for text in (
        f'{{"{escape}": "x"}}',
        f'{{"b": "x", "{escape}": "x"}}',
        written({name: "x"}),
    ):
        assert json.loads(text)[name] == "x" and not accepts(constraint, text)


def written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def accepts(constraint: Constraint, text: str) -> bool:
    """Return True if a grammar accepts a text, whose bytes are the tokens."""
    state = constraint.copy()
    for byte in text.encode():
        if not state.allows(byte):
            return False
        state.accept(byte, remaining=1000)
    return state.can_end


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@pytest.mark.parametrize(
    ("pattern", "texts", "others"),
    [
        (r"^\d$", "07", "٣a"),
        (r"^\w$", "aZ_9", "é-"),
        (r"^[\w.]$", "a.", "é["),
        (r"^[^\w]$", "-[", "aé٣"),
        (r"^[^\d]$", "aé", "5٣"),
        (r"^\W$", "-[", "aé٣"),
        (r"^[\D]$", "aé", "5٣"),
        (r"^[^\]\d[]$", "aé", "5٣[]"),
        (r"^[[ab]$", "[ab", "c]"),
        (r"^[^[]$", "a]", "["),
        (r"^[a&&b]$", "a&b", "c"),
        (r"^\\d$", [r"\d"], ["5"]),
    ],
)
def test_a_pattern_has_the_texts_on_which_ecma_262_and_python_agree(
    compiler: GrammarCompiler, pattern: str, texts: Any, others: Any
) -> None:
    constraint = compiler.compile(json_grammar({"type": "string", "pattern": pattern}))
    assert all(re.search(pattern, text) and accepts(constraint, written(text)) for text in texts)
    assert not any(accepts(constraint, written(text)) for text in others)


def test_a_keyword_without_effect_is_left_out(compiler: GrammarCompiler) -> None:
    schema = {"type": "array", "uniqueItems": False, "x-guidance": {"whitespace_flexible": True}}
    assert supported_schema(schema) == {"type": "array"} and compiler.compile(json_grammar(schema)).allowed().any()


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
    for keyword in [*KEYWORDS, "unknown", ""]:
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
