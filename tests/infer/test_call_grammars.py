"""Constrained calls in every format are read back by its parser, with arguments that the schema accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest

from tests.infer.test_answer_formats import FORMATS, NAMES, template_of
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.answer_formats.answer_format import AnswerFormat, ParsedAnswer
from vita.infer.answer_formats.answer_grammar import CallConstraint, answer_grammar
from vita.infer.grammars import GrammarCompiler, GrammarError, json_grammar
from vita.testing import byte_tokenizer

NEW_FORMATS = ["qwen3_5_think", "gemma4_v5", "glm4moe", "lfm2_v2", "gptoss"]
TYPES: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["C", "F"]},
        "share": {"type": "number"},
        "exact": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 3},
        "place": {"$ref": "#/$defs/Place"},
        "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
        "code": {"type": "string", "pattern": "^[a-f]{2}[0-9]$"},
        "kind": {"type": "string", "enum": ["a b", "c"]},
        "day": {"type": "string", "format": "date"},
        "counts": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 5}},
    },
    "required": ["city", "days", "unit", "place", "code"],
    "additionalProperties": False,
    "$defs": {
        "Place": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 3}, "inner": {"$ref": "#/$defs/Place"}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
}
SCHEMAS: list[dict[str, Any] | None] = [
    TYPES,
    None,
    {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    {"type": "object", "properties": {"one": {"type": "integer"}, "two": {"type": ["null", "boolean"]}}},
    {"type": "object"},
]


def tool(name: str, parameters: dict[str, Any] | None) -> dict[str, Any]:
    function = {"name": name} if parameters is None else {"name": name, "parameters": parameters}
    return {"type": "function", "function": function}


def tokenizer_with(format: AnswerFormat) -> Tokenizer:
    """Return a byte tokenizer in which the markers of a format are special tokens."""
    assert format.calls is not None
    definition = json.loads(byte_tokenizer()._definition)
    for number, text in enumerate((*format.calls.visible, *(format.reasoning or ())), 259):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        definition["added_tokens"].append({"id": number, "content": text, "special": True, **flags})
    return Tokenizer(json.dumps(definition), settings={"eos_token": "<|endoftext|>"})


def generate(compiler: GrammarCompiler, grammar: str, format: AnswerFormat, *, seed: int, limit: int) -> list[int]:
    """Return the tokens of an answer of a random model, without the token that ends it."""
    random, tokens = np.random.default_rng(seed), list[int]()
    constraint = compiler.compile(grammar, closings=format.closings)
    for count in range(limit):
        allowed = np.flatnonzero(constraint.allowed())
        token = constraint.accept(int(random.choice(allowed)), remaining=limit - count)
        if token in compiler._tokenizer.stops:
            return tokens
        tokens.append(token)
    raise AssertionError(f"the answer was not completed: {compiler._tokenizer.decode(tokens, special=True)!r}")


def parsed_calls(
    name: str, tools: list[dict[str, Any]], tokenizer: Tokenizer, *, seeds: range, parallel: bool = True
) -> Iterator[tuple[str, ParsedAnswer]]:
    template = template_of(name)
    format = AnswerFormat.of(template)
    sample = template.for_tools.features.call_sample or ""
    calls = CallConstraint(tools, required=True, parallel=parallel, sample=sample)
    grammar = answer_grammar(format, specials=tokenizer.specials, calls=calls)
    compiler = GrammarCompiler(tokenizer)
    for seed in seeds:
        text = tokenizer.decode(generate(compiler, grammar, format, seed=seed, limit=700), special=True)
        yield text, format.parse(text, tools)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", NEW_FORMATS)
def test_calls_of_a_random_model_are_read_back_with_valid_arguments(name: str, special: bool) -> None:
    format = AnswerFormat.of(template_of(name))
    tokenizer = tokenizer_with(format) if special else byte_tokenizer()
    for number, schema in enumerate(SCHEMAS):
        tools = [tool("look.up" if name != "lfm2_v2" else "look_up", schema), tool("other", None)]
        for text, answer in parsed_calls(name, tools, tokenizer, seeds=range(number * 10, number * 10 + 2)):
            assert answer.calls and not answer.content, text
            for call in answer.calls:
                assert call.name in ("look.up", "look_up", "other"), text
                used = schema if call.name != "other" else None
                nothing = {"type": "object", "additionalProperties": False}
                jsonschema.validate(json.loads(call.arguments), nothing if used is None else used)


def properties(**schemas: Any) -> dict[str, Any]:
    return {"type": "object", "properties": schemas, "required": list(schemas), "additionalProperties": False}


REFERENCES: dict[str, dict[str, Any]] = {
    "first": {**properties(a={"$ref": "#/$defs/In"}), "$defs": {"In": properties(b={"enum": ["p"]})}},
    "second": {
        **properties(a={"$ref": "#/$defs/In"}),
        "$defs": {"In": {"type": "integer", "minimum": 1, "maximum": 9}},
    },
    "third": {**properties(a={"$ref": "#/definitions/a%20b"}), "definitions": {"a b": {"type": "boolean"}}},
    "tree": properties(x={"anyOf": [{"$ref": "#"}, {"type": "null"}]}, k={"enum": ["p", "q"]}),
    "anchor": {**properties(a={"$ref": "#in"}), "$defs": {"a": {"$anchor": "in", "enum": [1, 2]}}},
    "root": {"$ref": "#/$defs/a", "$defs": {"a": properties(a={"type": "string", "enum": ["1", "x"]})}},
    "number": {**properties(a={"$ref": "urn:in"}), "$defs": {"a": {"$id": "urn:in", "enum": [3, 4]}}},
}
"""Schemas with references: by pointers of equal names and different contents, to the root, by an anchor and an id."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5", "llama3_1", "deepseekv3", "mistral", "phi", "cohere", *NEW_FORMATS])
def test_references_are_relative_to_the_schema_of_their_function(name: str) -> None:
    tools = [tool(function, schema) for function, schema in REFERENCES.items()]
    names = set[str]()
    for _, answer in parsed_calls(name, tools, byte_tokenizer(), seeds=range(10), parallel=False):
        (call,) = answer.calls
        names.add(call.name)
        jsonschema.validate(json.loads(call.arguments), REFERENCES[call.name])
    assert len(names) >= 3


INNER = properties(a={"type": "integer", "minimum": 0, "maximum": 9}, b={"type": "string", "enum": ["1", "x"]})
UNTYPED = {name: value for name, value in INNER.items() if name != "type"}
NULLABLE: dict[str, dict[str, Any]] = {
    "untyped": UNTYPED,
    "optional": {**UNTYPED, "type": ["object", "null"]},
    "choice": {"anyOf": [INNER, {"type": "string", "maxLength": 3}]},
    "reference": {
        "oneOf": [{"$ref": "#/$defs/In"}, {"type": "null"}], "$defs": {"In": {"anyOf": [INNER, {"enum": ["x"]}]}},
    },
}  # fmt: skip
"""Schemas of arguments that also accept values other than objects."""


@pytest.mark.parametrize("name", ["qwen2_5", "llama3_1", "deepseekv3", "mistral", "phi", "cohere", *NEW_FORMATS])
def test_the_arguments_of_a_call_are_an_object_where_the_schema_accepts_other_values(name: str) -> None:
    for function, schema in NULLABLE.items():
        for text, answer in parsed_calls(
            name, [tool(function, schema)], byte_tokenizer(), seeds=range(1), parallel=False
        ):
            (call,) = answer.calls
            assert json.loads(call.arguments).keys() == {"a", "b"}, text
            jsonschema.validate(json.loads(call.arguments), INNER)
    for schema in ({"type": "array", "items": {"type": "integer"}}, {"enum": ["x"]}, {"allOf": [{"type": "string"}]}):
        with pytest.raises(GrammarError, match="accepts no object"):
            list(parsed_calls(name, [tool("f", schema)], byte_tokenizer(), seeds=range(1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NEW_FORMATS)
def test_many_calls_of_a_random_model_are_read_back_with_valid_arguments(name: str) -> None:
    format = AnswerFormat.of(template_of(name))
    tokenizer = tokenizer_with(format)
    for schema in SCHEMAS:
        for text, answer in parsed_calls(name, [tool("look_up", schema)], tokenizer, seeds=range(12)):
            assert answer.calls and not answer.content, text
            for call in answer.calls:
                jsonschema.validate(json.loads(call.arguments), schema or {"additionalProperties": False})


@pytest.mark.parametrize("name", NEW_FORMATS)
def test_without_parallel_calls_there_is_one_call(name: str) -> None:
    for text, answer in parsed_calls(name, [tool("f", None)], byte_tokenizer(), seeds=range(5), parallel=False):
        assert len(answer.calls) == 1, text


@pytest.mark.parametrize("name", [name for name in NEW_FORMATS if name != "gptoss"])
@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}, "uniqueItems"),
        ({"type": "object", "properties": {"a": {"not": {"type": "null"}}}}, "not"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/None"}}}, "refers to nothing"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "object", "properties": {"a": {"enum": 5}}}, "enum"),
        ({"type": "object", "properties": 5}, "properties"),
    ],
)
def test_a_schema_that_a_format_cannot_follow_is_refused_by_name(name: str, schema: Any, problem: str) -> None:
    with pytest.raises(GrammarError, match=problem.replace("$", "")):
        list(parsed_calls(name, [tool("f", schema)], byte_tokenizer(), seeds=range(1)))


def test_a_constrained_answer_in_channels_is_in_the_final_channel() -> None:
    format, tokenizer = AnswerFormat.of(template_of("gptoss")), byte_tokenizer()
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}},
              "required": ["n"], "additionalProperties": False}  # fmt: skip
    grammar = answer_grammar(format, specials=tokenizer.specials, content=json_grammar(schema))
    compiler = GrammarCompiler(tokenizer)
    for seed in range(6):
        text = tokenizer.decode(generate(compiler, grammar, format, seed=seed, limit=200))
        answer = format.parse(text)
        jsonschema.validate(json.loads(answer.content), schema)


def test_every_format_can_be_constrained() -> None:
    for name in FORMATS:
        template = template_of(name)
        if "tools" not in template.variable_names:
            template = ChatTemplate("{% if tools %}{% endif %}" + template.source, NAMES)
        format = AnswerFormat.of(template)
        calls = CallConstraint([tool("f", None)], required=True, sample=template.for_tools.features.call_sample or "")
        assert answer_grammar(format, specials={}, calls=calls)


@pytest.mark.parametrize(
    ("name", "text", "arguments"),
    [
        ("qwen2_5", '<tool_call>\n{"name": "f", "arguments": {"a": -1e999, "b": [1e-3]}}\n</tool_call>',
         '{"a": -1e999, "b": [1e-3]}'),
        ("qwen2_5", f'<tool_call>{{"name": "f", "arguments": {{"a": {"7" * 5000}}}}}</tool_call>',
         f'{{"a": {"7" * 5000}}}'),
        ("qwen2_5", r'<tool_call>{"name": "f", "arguments": {"a": "\ud800 é"}}</tool_call>', '{"a": "\\ud800 é"}'),
        ("qwen3_5_think", "<tool_call><function=f><parameter=a>\n1e999\n</parameter></function></tool_call>",
         '{"a": 1e999}'),
        ("glm4moe", "<tool_call>f<arg_key>a</arg_key><arg_value>1e999</arg_value></tool_call>", '{"a": 1e999}'),
        ("gemma4_v5", "<|tool_call>call:f{a:1e999}<tool_call|>", '{"a": 1e999}'),
        ("lfm2_v2", "<|tool_call_start|>[f(a=-1e999, b=[true, None], c={'d': 1})]<|tool_call_end|>",
         '{"a": -1e999, "b": [true, null], "c": {"d": 1}}'),
        ("gptoss", '<|channel|>commentary to=functions.f <|message|>{"a": 1e999, "b": "<|end|>"}<|call|>',
         '{"a": 1e999, "b": "<|end|>"}'),
    ],
)  # fmt: skip
def test_numbers_and_texts_that_python_cannot_represent_keep_their_text(name: str, text: str, arguments: str) -> None:
    answer = AnswerFormat.of(template_of(name)).parse(text, [tool("f", {"type": "object"})])
    assert [call.arguments for call in answer.calls] == [arguments]
    assert arguments.encode()


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_5_think", "glm4moe", "gemma4_v5", "lfm2_v2", "gptoss"])
def test_a_call_that_is_nested_too_deeply_stays_content(name: str) -> None:
    deep = "[" * 100_000
    texts = {
        "qwen2_5": f'<tool_call>{{"name": "f", "arguments": {{"a": {deep}}}}}</tool_call>',
        "qwen3_5_think": f"<tool_call><function=f><parameter=a>{deep}</parameter></function></tool_call>",
        "glm4moe": f"<tool_call>f\n<arg_key>a</arg_key><arg_value>{deep}</arg_value></tool_call>",
        "gemma4_v5": f"<|tool_call>call:f{{a:{deep}}}<tool_call|>",
        "lfm2_v2": f"<|tool_call_start|>[f(a={deep})]<|tool_call_end|>",
        "gptoss": f'<|channel|>commentary to=functions.f<|message|>{{"a": {deep}}}<|call|>',
    }
    answer = AnswerFormat.of(template_of(name)).parse(texts[name], [tool("f", {"type": "object"})])
    assert deep in answer.content or deep in answer.calls[0].arguments
