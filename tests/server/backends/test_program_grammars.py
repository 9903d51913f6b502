"""Structured outputs and required calls of llama.cpp and vLLM, with the unmodified `openai` client.

The tests of vLLM need an environment with vLLM, whose folder is the environment variable `VITA_TEST_VLLM`.
"""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from tests.server.backends.programs import (
    LLAMA_CPP_OPTIONS,
    LOOKUP,
    MESSAGES,
    PET,
    VLLM,
    VLLM_OPTIONS,
    response_format,
    save_model,
)  # fmt: skip
from tests.server.backends.served import ServiceCommands
from tests.server.serving import serving, tiny_app, tiny_engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["llama.cpp", "vllm"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    if request.param == "vllm" and VLLM is None:
        pytest.skip("VITA_TEST_VLLM names no environment with vLLM")
    if request.param == "llama.cpp" and importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed (a Linux package)")
    commands = ServiceCommands(tmp_path_factory.mktemp("backend"))
    commands.environment["VLLM_CPU_KVCACHE_SPACE"] = "1"
    save_model(commands.folder / "a", context=1024, width=64, head_dim=32)
    backend = VLLM_OPTIONS if request.param == "vllm" else LLAMA_CPP_OPTIONS
    with commands.serving("a", "--name", "x", "--ungated", "a test", *backend):
        with openai.OpenAI(base_url=f"{commands.url}/v1", api_key="none", max_retries=0) as client:
            yield client


def random_schema(number: int, depth: int = 0) -> dict[str, Any]:
    """Return a random JSON schema."""
    generator = random.Random(f"{number} {depth}")
    kind = generator.choice(["string", "integer", "boolean", "enum", "array", "object"][: 6 if depth < 2 else 4])
    if kind == "enum":
        return {"enum": [generator.choice(["a", "ü", 3, None, True]) for _ in range(2)]}
    if kind == "array":
        return {"type": "array", "items": random_schema(number * 7, depth + 1), "maxItems": 3}
    if kind == "object":
        names = generator.sample(["a", "b", "c", "ö"], 2)
        properties = {name: random_schema(number * 7 + index, depth + 1) for index, name in enumerate(names)}
        return {"type": "object", "properties": properties, "required": names[:1], "additionalProperties": False}
    return {"type": kind, **({"maxLength": 9} if kind == "string" else {})}


def test_every_answer_of_a_backend_that_ends_with_stop_follows_its_schema(client: openai.OpenAI) -> None:
    finishes = []
    for number in range(40):
        schema = {"type": "object", "properties": {"value": random_schema(number)}, "required": ["value"]}
        schema["additionalProperties"] = False  # type: ignore[assignment]
        answer = client.chat.completions.create(
            model="x", messages=MESSAGES, response_format=response_format(schema), max_tokens=100, seed=number,
            temperature=1,
        )  # fmt: skip
        finishes.append(answer.choices[0].finish_reason)
        if finishes[-1] == "stop":
            jsonschema.validate(json.loads(answer.choices[0].message.content or ""), schema)
    assert finishes.count("stop") >= 39, finishes


def test_an_answer_of_a_backend_is_completed_within_max_tokens(client: openai.OpenAI) -> None:
    for limit in (50, 60, 70):
        answer = client.chat.completions.create(
            model="x", messages=MESSAGES, response_format=response_format(PET), max_tokens=limit, seed=limit,
            temperature=1, logprobs=True, top_logprobs=2,
        )  # fmt: skip
        choice = answer.choices[0]
        assert choice.finish_reason == "stop" and answer.usage is not None
        assert answer.usage.completion_tokens <= limit
        jsonschema.validate(json.loads(choice.message.content or ""), PET)
        assert choice.logprobs is not None and len(choice.logprobs.content or ()) == answer.usage.completion_tokens


def test_required_named_and_strict_calls_of_a_backend_follow_their_schema(client: openai.OpenAI) -> None:
    named = {"type": "function", "function": {"name": "lookup"}}
    strict = {"type": "function", "function": {**LOOKUP["function"], "strict": True}}
    for choice, tool, stream in (("required", LOOKUP, False), (named, LOOKUP, True), ("required", strict, False)):
        fields: Any = {"model": "x", "messages": MESSAGES, "tools": [tool], "tool_choice": choice, "max_tokens": 200,
                       "seed": 3, "parallel_tool_calls": False}  # fmt: skip
        if stream:
            with client.chat.completions.stream(**fields) as events:
                answer = events.until_done().get_final_completion()
        else:
            answer = client.chat.completions.create(**fields)
        assert answer.choices[0].finish_reason == "tool_calls"
        calls: Any = answer.choices[0].message.tool_calls
        (call,) = calls
        assert call.function.name == "lookup"
        jsonschema.validate(json.loads(call.function.arguments), PET)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [LOOKUP], "tool_choice": {"type": "function", "function": {"name": "lookup"}}},
        {"response_format": response_format(PET)},
    ],
    ids=["call", "schema"],
)
def test_the_forced_text_is_no_part_of_the_answer_as_with_vita(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    request: Any = {"model": "x", "messages": MESSAGES, "max_tokens": 60, "temperature": 0, **fields}
    answer = client.chat.completions.create(**request)
    with (
        serving(tiny_app(tiny_engine(context=1024, width=64, head_dim=32))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as vita,
    ):
        expected = vita.chat.completions.create(**{**request, "model": "cat"})
    assert answer.choices[0].finish_reason == expected.choices[0].finish_reason
    assert answer.usage is not None and expected.usage is not None
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
    assert answer.usage.completion_tokens == expected.usage.completion_tokens


@pytest.mark.parametrize(
    ("form", "accepted"),
    [
        ({"regex": "[a-c]{3}"}, {a + b + c for a in "abc" for b in "abc" for c in "abc"}),
        ({"choice": ["yes", "näh"]}, {"yes", "näh"}),
        ({"grammar": 'root ::= "on" | "off"'}, {"on", "off"}),
    ],
)
def test_regular_expressions_choices_and_grammars_hold_with_a_backend(
    client: openai.OpenAI, form: dict[str, Any], accepted: set[str]
) -> None:
    extra = {"structured_outputs": form}
    chat = client.chat.completions.create(
        model="x", messages=MESSAGES, max_tokens=20, n=2, temperature=1, extra_body=extra
    )
    assert {choice.message.content for choice in chat.choices} <= accepted
    text = client.completions.create(model="x", prompt="a", max_tokens=20, seed=1, temperature=1, extra_body=extra)
    assert text.choices[0].text in accepted
    assert chat.choices[0].finish_reason == text.choices[0].finish_reason == "stop"
