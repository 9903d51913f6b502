"""Structured outputs through the official client: JSON of schemas, grammars, required calls, and their limits."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from tests.infer.test_closing_search import RECORD
from tests.server.serving import serving, tiny_app, tiny_engine
from tests.server.tool_model import WEATHER, memorizing_model
from vita.infer.engine import Engine

MESSAGES: Any = [{"role": "user", "content": "Describe a cat."}]
PET = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "colours": {"type": "array", "items": {"enum": ["black", "white"]}, "minItems": 1},
    },
    "required": ["name", "age", "colours"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    """A client of a model with random weights."""
    with (
        serving(tiny_app(tiny_engine(context=512))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """A client of a model whose template writes calls."""
    folder = memorizing_model(tmp_path_factory.mktemp("model") / "m")
    with (
        serving(tiny_app(Engine.open(folder))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def schema_format(schema: dict[str, Any] | bool) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "format", "schema": schema, "strict": True}}


def chat(client: openai.OpenAI, *, max_tokens: int = 80, messages: Any = MESSAGES, **options: Any) -> ChatCompletion:
    return client.chat.completions.create(model="cat", messages=messages, max_tokens=max_tokens, **options)


def content(completion: ChatCompletion) -> str:
    (choice,) = completion.choices
    assert choice.finish_reason == "stop" and choice.message.content is not None
    return choice.message.content


@pytest.mark.parametrize("max_tokens", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_a_response_follows_its_schema_and_is_completed_within_max_tokens(
    client: openai.OpenAI, max_tokens: int
) -> None:
    for seed in range(3):
        completion = chat(client, max_tokens=max_tokens, response_format=schema_format(PET), seed=seed)
        jsonschema.validate(json.loads(content(completion)), PET)
        assert completion.usage is not None and completion.usage.completion_tokens <= max_tokens


def test_numbers_and_lists_are_closed_within_max_tokens(client: openai.OpenAI) -> None:
    for seed in (1, 2, 3):
        completion = chat(client, max_tokens=70, temperature=1, response_format=schema_format(RECORD), seed=seed)
        jsonschema.validate(json.loads(content(completion)), RECORD)


def test_a_response_that_cannot_be_completed_ends_with_length(client: openai.OpenAI) -> None:
    (choice,) = chat(client, max_tokens=3, response_format=schema_format(PET)).choices
    assert choice.finish_reason == "length"


def test_a_json_object_is_any_object(client: openai.OpenAI) -> None:
    for seed in range(2):
        value = json.loads(content(chat(client, response_format={"type": "json_object"}, seed=seed)))
        assert isinstance(value, dict)


def test_a_stream_contains_the_forced_beginning(client: openai.OpenAI) -> None:
    complete = content(chat(client, response_format=schema_format(PET), seed=1))
    chunks = client.chat.completions.create(
        model="cat", messages=MESSAGES, max_tokens=80, seed=1, response_format=schema_format(PET), stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == complete and text.startswith('{"name": "')


def test_log_probabilities_cover_all_tokens_of_the_response(client: openai.OpenAI) -> None:
    completion = chat(client, response_format=schema_format(PET), seed=1, logprobs=True)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    text = b"".join(bytes(entry.bytes or ()) for entry in logprobs.content).decode()
    assert text.removesuffix("<|im_end|>").removesuffix("<|endoftext|>") == content(completion)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": r"[a-c]{3}-[0-9]{2,4}"}, r"[a-c]{3}-[0-9]{2,4}"),
        ({"choice": ["red", "dark blue", 'a "quoted" one']}, r'red|dark blue|a "quoted" one'),
        ({"grammar": 'start: "(" /[0-9]{1,3}/ ("+" /[0-9]{1,3}/)* ")"'}, r"\([0-9]{1,3}(\+[0-9]{1,3})*\)"),
        ({"grammar": 'root ::= "x" [0-9] "y"'}, r"x[0-9]y"),
        ({"json": {"type": "boolean"}}, r"true|false"),
    ],
)
def test_structured_outputs_constrain_chats_and_completions(
    client: openai.OpenAI, form: dict[str, Any], pattern: str
) -> None:
    extra = {"structured_outputs": form}
    assert re.fullmatch(pattern, content(chat(client, extra_body=extra, seed=2)))
    completion = client.completions.create(model="cat", prompt="A cat is", max_tokens=60, seed=2, extra_body=extra)
    assert completion.choices[0].finish_reason == "stop" and re.fullmatch(pattern, completion.choices[0].text)


@pytest.mark.parametrize(
    ("options", "param", "problem"),
    [
        ({"response_format": schema_format({"not": {"type": "string"}})}, "json_schema.schema", "not"),
        ({"response_format": schema_format({"type": "string", "pattern": "(?=a)b"})}, "json_schema.schema", "look-a"),
        ({"response_format": schema_format({"$ref": "#/definitions/x"})}, "json_schema.schema", "definitions/x"),
        ({"response_format": schema_format({"type": "object", "required": "é" * 300})}, "json_schema.schema", ""),
        ({"response_format": schema_format({"allOf": [{"$ref": "#"}]})}, "json_schema.schema", "recursive"),
        ({"response_format": schema_format({"type": "string", "maxlength": 3})}, "json_schema.schema", "maxLength"),
        ({"extra_body": {"structured_outputs": {"json": {"maximum": 1e300}}}}, "outputs.json", "`maximum` must be"),
        ({"extra_body": {"structured_outputs": {"regex": "(a"}}}, "structured_outputs.regex", "regex`: the regular"),
        ({"extra_body": {"structured_outputs": {"regex": r"\bx"}}}, "structured_outputs.regex", r"`^`, `$` or `\b`"),
        (
            {"extra_body": {"structured_outputs": {"json": {"pattern": r"^\x1b$", "type": "string"}}}},
            "structured_outputs.json",
            "no text satisfies it, because its rules or patterns exclude each other",
        ),
        ({"extra_body": {"structured_outputs": {"grammar": "start: x"}}}, "structured_outputs.grammar", "unknown name"),
    ],
)  # fmt: skip
def test_an_unsupported_grammar_is_refused_with_the_reason(
    client: openai.OpenAI, options: dict[str, Any], param: str, problem: str
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        chat(client, **options)
    assert error.value.code == "unsupported_grammar" and str(error.value.param).endswith(param)
    assert problem in str(error.value)


def test_a_grammar_without_an_end_is_refused_and_the_server_answers_on(caller: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": "Hi"}]
    with pytest.raises(openai.BadRequestError, match="the rule `x` is infinitely recursive") as error:
        chat(caller, messages=question, extra_body={"structured_outputs": {"grammar": 'start: "a" x\nx: x'}})
    assert error.value.code == "unsupported_grammar"
    completion = chat(caller, messages=question, tools=[WEATHER], tool_choice="required", seed=1)
    assert completion.choices[0].message.tool_calls


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"$ref": "#"}, "the schema is infinitely recursive through `$ref`, so no finite value matches it (at `#`)"),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}},
            "`$ref` refers to `#/$defs/a`, which does not exist (at `#/properties/a`)",
        ),
        (
            {"type": "object", "dependentRequired": {"a": ["b"]}},
            "`dependentRequired` is not supported; leave it out, and check the answer for it in the client (at `#`)",
        ),
    ],
)
def test_the_schema_of_a_strict_function_is_refused_as_that_of_a_format(
    caller: openai.OpenAI, schema: dict[str, Any], problem: str
) -> None:
    function: Any = {"name": "clock", "parameters": schema, "strict": True}
    tools: Any = [WEATHER, {"type": "function", "function": function}]
    for options, param in (
        ({"tools": tools}, "tools[1].function.parameters"),
        ({"tools": tools, "tool_choice": "required"}, "tools[1].function.parameters"),
        ({"response_format": schema_format(schema)}, "response_format.json_schema.schema"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            chat(caller, max_tokens=2, **options)
        assert error.value.code == "unsupported_grammar" and error.value.param == param
        assert error.value.body["message"] == f"Invalid `{param}`: {problem}"  # type: ignore[index]


class Node(BaseModel):
    """Node."""

    k: Literal["p", "q"]
    n: Node | None


class Tree(BaseModel):
    """Tree."""

    a: Node


@pytest.mark.parametrize("strict", [True, False])
def test_calls_follow_the_references_of_pydantic_models(caller: openai.OpenAI, strict: bool) -> None:
    tool: Any = openai.pydantic_function_tool(Tree)
    tool["function"]["strict"] = strict
    for seed in range(2):
        completion = chat(caller, messages=[{"role": "user", "content": "Hi"}], tools=[tool], tool_choice="required",
                          parallel_tool_calls=False, seed=seed, temperature=2, max_tokens=80)  # fmt: skip
        assert completion.choices[0].finish_reason == "tool_calls"
        (call,) = completion.choices[0].message.tool_calls  # type: ignore[misc]
        Tree.model_validate_json(call.function.arguments)  # type: ignore[union-attr]


def test_a_schema_of_true_is_any_json(client: openai.OpenAI) -> None:
    json.loads(content(chat(client, response_format=schema_format(True), seed=1)))
    json.loads(content(chat(client, extra_body={"structured_outputs": {"json": True}}, seed=2)))


def test_a_response_is_the_same_alone_and_beside_others(client: openai.OpenAI) -> None:
    alone = [content(chat(client, response_format=schema_format(PET), seed=seed)) for seed in (1, 2)]
    several = chat(client, response_format=schema_format(PET), seed=1, n=3)
    assert several.choices[0].message.content == alone[0]
    again = [content(chat(client, response_format=schema_format(PET), seed=seed)) for seed in (1, 2)]
    assert again == alone and alone[0] != alone[1]


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=["required", "named"]
)
def test_a_required_call_is_made_with_valid_arguments(caller: openai.OpenAI, choice: Any) -> None:
    for seed in range(2):
        completion = chat(caller, messages=[{"role": "user", "content": "Hi"}], tools=[WEATHER], tool_choice=choice,
                          seed=seed, temperature=2)  # fmt: skip
        assert completion.choices[0].finish_reason == "tool_calls"
        calls: Any = completion.choices[0].message.tool_calls
        for call in calls:
            jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
            assert call.function.name == "weather"


def test_a_named_function_is_called_and_no_other(caller: openai.OpenAI) -> None:
    other: Any = {"type": "function", "function": {"name": "clock"}}  # without parameters: no arguments
    completion = chat(caller, tools=[WEATHER, other], messages=[{"role": "user", "content": "Weather in Köln?"}],
                      tool_choice={"type": "function", "function": {"name": "clock"}})  # fmt: skip
    calls: Any = completion.choices[0].message.tool_calls
    assert {call.function.name for call in calls} == {"clock"}


def test_strict_functions_leave_texts_and_calls_to_the_model(caller: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {**WEATHER["function"], "strict": True}}]
    call = chat(caller, messages=[{"role": "user", "content": "Weather in Köln?"}], tools=tools, temperature=0)
    calls: Any = call.choices[0].message.tool_calls
    assert [json.loads(part.function.arguments) for part in calls] == [{"city": "Köln"}]
    text = chat(caller, messages=[{"role": "user", "content": "Hi"}], tools=tools, temperature=0)
    assert text.choices[0].finish_reason == "stop"


def test_minimum_probability_and_repetition_penalty_change_the_sampling(client: openai.OpenAI) -> None:
    prompt = {"model": "cat", "prompt": "A cat is", "max_tokens": 40, "seed": 3}
    greedy = client.completions.create(**prompt, temperature=0).choices[0].text
    assert client.completions.create(**prompt, extra_body={"min_p": 1.0}).choices[0].text == greedy
    assert client.completions.create(**prompt).choices[0].text != greedy
    penalized = client.completions.create(**prompt, temperature=0, extra_body={"repetition_penalty": 5.0})
    assert penalized.choices[0].text != greedy


# -- random schemas


def random_schema(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """Return a schema of nested objects, lists, texts, numbers and alternatives."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const"]
    kind = chance.choice(kinds + (["object", "array", "anyOf"] * 2 if depth < 3 else []))
    if kind == "object":
        names = [
            f"key{number}" if chance.random() < 0.8 else f"ключ {number}" for number in range(chance.randint(0, 4))
        ]
        properties = {name: random_schema(chance, depth + 1) for name in names}
        required = [name for name in names if chance.random() < 0.6]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if kind == "array":
        least = chance.randint(0, 2)
        return {"type": "array", "items": random_schema(chance, depth + 1), "minItems": least, "maxItems": least + 3}
    if kind == "anyOf":
        return {"anyOf": [random_schema(chance, depth + 1) for _ in range(chance.randint(1, 3))]}
    if kind == "string":
        options: list[dict[str, Any]] = [{}, {"maxLength": 8}, {"minLength": 2}, {"pattern": "^[a-z]+[0-9]{2}$"}]
        return {"type": "string", **chance.choice([*options, {"format": "date"}, {"format": "uuid"}])}
    if kind in ("integer", "number"):
        low = chance.randint(-50, 50)
        return {"type": kind, **chance.choice([{}, {"minimum": low}, {"minimum": low, "maximum": low + 20}])}
    values: dict[str, dict[str, Any]] = {"enum": {"enum": ["a", 1, None, {"b": [True]}]}, "const": {"const": "x"}}
    return values.get(kind, {"type": kind})


@pytest.mark.parametrize("count", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_responses_to_random_schemas_are_valid(client: openai.OpenAI, count: int) -> None:
    chance, finished = random.Random(0), 0
    for seed in range(count):
        schema = random_schema(chance)
        (choice,) = chat(client, max_tokens=200, response_format=schema_format(schema), seed=seed).choices
        if choice.finish_reason == "stop":
            jsonschema.validate(json.loads(choice.message.content or ""), schema)
            finished += 1
    assert finished >= 0.95 * count


@pytest.mark.parametrize("form", [{"choice": ["yes", "no"]}, {"grammar": 'root ::= "yes" | "no"'}, {"regex": "yes|no"}])
def test_a_form_of_the_text_can_be_combined_with_tools(caller: openai.OpenAI, form: dict[str, Any]) -> None:
    answer = chat(caller, tools=[WEATHER], extra_body={"structured_outputs": form})
    choice = answer.choices[0]
    assert choice.message.tool_calls or choice.message.content in ("yes", "no")
