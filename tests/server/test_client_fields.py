"""Fields that current clients send: each works as documented, or is refused by its name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anthropic
import httpx
import jsonschema
import openai
import pytest
from starlette.testclient import TestClient

from tests.infer.test_answer_formats import template_of
from tests.server.serving import serving, tiny_app, tiny_engine
from tests.server.test_dialects import ANTHROPIC_TOOL, FUNCTION, TOOL, WEATHER, claude, client, gateway_url, url
from vita.data.tokens.chat_template import ChatTemplate
from vita.server.dialects.messages_api import MessagesApi
from vita.server.dialects.responses_api import ResponsesApi

__all__ = ["claude", "client", "url"]

HI: Any = [{"role": "user", "content": "Hi"}]
OTHER: Any = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
ALLOWED: Any = {"mode": "required", "tools": [{"type": "function", "function": {"name": FUNCTION["name"]}}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"stream_options": {"include_obfuscation": False}, "stream": True},
        {"verbosity": "medium"},
        {"extra_body": {"prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "implicit"}}},
    ],
)
def test_a_harmless_field_of_a_chat_is_accepted(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    list(client.chat.completions.create(model="cat", messages=HI, max_tokens=2, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"stream_options": {"include_obfuscation": False}, "stream": True},
        {"include": ["reasoning.encrypted_content"]},
        {"text": {"verbosity": "medium"}},
        {"prompt_cache_retention": "24h"},
    ],
)
def test_a_harmless_field_of_a_response_is_accepted(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    list(client.responses.create(model="cat", input="Hi", max_output_tokens=2, **fields))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"reasoning": {"effort": "low"}}, "reasoning.effort"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"extra_body": {"image": {"detail": "low"}}}, "image"),
        ({"extra_body": {"background_options": {}}}, "background_options"),
        ({"tools": [{**TOOL, "async": True}]}, "tools[0].async"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice"),
    ],
)
def test_an_unsupported_field_of_a_response_is_refused_by_its_name(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.responses.create(model="cat", input="Hi", max_output_tokens=2, **fields)
    assert str(refusal.value.param).startswith(param)


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ({"type": "custom", "custom": {"name": "x"}}, "tool_choice.type"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}, "tool_choice.allowed_tools"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [OTHER]}},
            "tool_choice.allowed_tools.tools",
        ),
    ],
)
def test_a_wrong_choice_of_tools_is_refused_with_the_names_of_its_fields(
    client: openai.OpenAI, choice: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="cat", messages=HI, tools=[WEATHER], tool_choice=choice)  # type: ignore[call-overload]
    assert refusal.value.param == param


def test_only_allowed_tools_are_called(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="cat", messages=HI, tools=[OTHER, WEATHER], max_tokens=200, seed=1, parallel_tool_calls=False,  # type: ignore[list-item]
        tool_choice={"type": "allowed_tools", "allowed_tools": ALLOWED},
    )  # fmt: skip
    calls: Any = chat.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == [FUNCTION["name"]]
    other: Any = {"type": "function", **OTHER["function"]}
    allowed: Any = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": FUNCTION["name"]}],
    }
    response = client.responses.create(
        model="cat", input="Hi", tools=[other, TOOL], tool_choice=allowed, max_output_tokens=200
    )
    assert {item.name for item in response.output if item.type == "function_call"} == {FUNCTION["name"]}


UNTYPED = {name: value for name, value in FUNCTION["parameters"].items() if name != "type"}
UNTYPED["properties"] = {"city": {"type": "string", "maxLength": 4}}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("schema", [UNTYPED, {"anyOf": [{"type": "object", **UNTYPED}, {"type": "null"}]}])
def test_a_required_call_is_an_object_where_the_schema_accepts_other_values(
    client: openai.OpenAI, claude: anthropic.Anthropic, schema: Any, strict: bool
) -> None:
    function = {"name": "weather", "parameters": schema, "strict": strict}
    chat_tool: Any = {"type": "function", "function": function}
    response_tool: Any = {"type": "function", **function}
    chat = client.chat.completions.create(
        model="cat", messages=HI, max_tokens=60, tool_choice="required", parallel_tool_calls=False, seed=1,
        tools=[chat_tool],
    )  # fmt: skip
    calls: Any = chat.choices[0].message.tool_calls
    assert ["city" in json.loads(call.function.arguments) for call in calls] == [True]
    response = client.responses.create(
        model="cat", input="Hi", max_output_tokens=60, tool_choice={"type": "function", "name": "weather"},
        tools=[response_tool],
    )  # fmt: skip
    assert [item.type for item in response.output] == ["function_call"]
    message = claude.messages.create(
        model="cat", max_tokens=60, messages=HI, tool_choice={"type": "tool", "name": "weather"},
        tools=[{"name": "weather", "input_schema": schema, "strict": strict}],
    )  # fmt: skip
    assert [block.type for block in message.content] == ["tool_use"] and message.stop_reason == "tool_use"


@pytest.mark.parametrize("schema", [{"type": "array", "items": {}}, {"type": "string"}, {"enum": ["x"]}])
def test_a_schema_of_arguments_that_accepts_no_object_is_refused_by_its_name(
    client: openai.OpenAI, claude: anthropic.Anthropic, schema: Any
) -> None:
    function = {"name": "f", "parameters": schema}
    chat_tool: Any = {"type": "function", "function": function}
    response_tool: Any = {"type": "function", **function}
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="cat", messages=HI, tools=[chat_tool])
    assert refusal.value.param == "tools[0].function.parameters"
    with pytest.raises(openai.BadRequestError) as refusal:
        client.responses.create(model="cat", input="Hi", tools=[response_tool])
    assert refusal.value.param == "tools[0].parameters"
    with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\]\.input_schema"):
        claude.messages.create(model="cat", max_tokens=2, messages=HI, tools=[{"name": "f", "input_schema": schema}])


LONG = "x" * 300
NAMELESS: Any = {"type": "function_call", "call_id": "c", "name": "no name", "arguments": "{}"}


@pytest.mark.parametrize(
    ("item", "param"),
    [(NAMELESS, "name"), ({**NAMELESS, "name": "f", "call_id": LONG}, "call_id")],
)
def test_an_error_about_a_call_of_a_response_names_its_item(client: openai.OpenAI, item: Any, param: str) -> None:
    items: Any = [*HI, {"type": "reasoning", "id": "r", "summary": []}, item]
    with pytest.raises(openai.BadRequestError, match=rf"`input\[2\]\.{param}`") as refusal:
        client.responses.create(model="cat", instructions="Hm.", input=items, max_output_tokens=2)
    assert refusal.value.param == f"input[2].{param}"


@pytest.mark.parametrize("fields", [{"id": LONG}, {"name": "no name"}])
def test_an_error_about_a_call_of_a_message_names_its_block(claude: anthropic.Anthropic, fields: Any) -> None:
    block: Any = {"type": "tool_use", "id": "c", "name": "f", "input": {}, **fields}
    answer: Any = {"role": "assistant", "content": [{"type": "text", "text": "I look."}, block]}
    (name,) = fields
    with pytest.raises(anthropic.BadRequestError, match=rf"`messages\[1\]\.content\[1\]\.{name}`"):
        claude.messages.create(model="cat", max_tokens=2, system="Hm.", messages=[*HI, answer])


def test_the_chat_template_names_the_item_and_the_block_of_arguments_that_it_refuses() -> None:
    call: Any = {**NAMELESS, "name": "f", "arguments": "bad"}
    items = [{"role": "user", "content": "Hi"}, {"type": "reasoning", "content": "Hm."}, call]
    body = {"model": "cat", "instructions": "Hm.", "input": items}
    names = ResponsesApi().translate(body).names
    assert names.original("messages[2].tool_calls[0].function.arguments") == "input[2].arguments"
    assert names.original("messages[2].tool_calls[0].id") == "input[2].call_id"
    assert names.original("messages[2].content") == "input[1]"
    block: Any = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "I look."}, block]}
    names = MessagesApi().translate({"model": "cat", "max_tokens": 2, "system": "Hm.", "messages": [*HI, answer]}).names
    assert names.original("messages[2].tool_calls[0].function.arguments") == "messages[1].content[1].input"
    assert names.original("messages[2].tool_calls[0].function.name") == "messages[1].content[1].name"


def test_arguments_that_a_template_refuses_are_named_as_in_the_request(tmp_path: Path) -> None:
    engine = tiny_engine()
    engine.template = template_of("gemma4_v5")
    items = [*HI, {**NAMELESS, "name": "f", "arguments": "bad"}]
    body = {"model": "cat", "instructions": "Hm.", "input": items, "max_output_tokens": 2}
    with serving(tiny_app(engine)) as replica_url, gateway_url(replica_url, tmp_path) as url:
        error = httpx.post(f"{url}/v1/responses", json=body, trust_env=False).json()["error"]
    assert error["param"] == "input[1].arguments" and "but `input[1].arguments` is none" in error["message"]


@pytest.mark.parametrize(
    ("blocks", "problem"),
    [
        ([{"content": [{"type": "image", "source": {}}]}], r"content\[0\]\.type` `image` is not supported here"),
        ([{"type": "text", "text": "Hm."}, {"content": "10"}], r"content\[1\]`: blocks .* must come before"),
    ],
)
def test_blocks_that_a_turn_with_results_may_not_have_are_refused(
    claude: anthropic.Anthropic, blocks: Any, problem: str
) -> None:
    call: Any = {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]}
    turn: Any = {
        "role": "user",
        "content": [
            block if "text" in block else {"type": "tool_result", "tool_use_id": "c", **block} for block in blocks
        ],
    }
    with pytest.raises(anthropic.BadRequestError, match=problem):
        claude.messages.create(model="cat", max_tokens=2, messages=[*HI, call, turn])


def test_a_name_beside_another_choice_of_tools_is_refused(claude: anthropic.Anthropic, client: openai.OpenAI) -> None:
    choice: Any = {"type": "auto", "name": "weather"}
    with pytest.raises(anthropic.BadRequestError, match=r"`tool_choice\.name` is only allowed"):
        claude.messages.create(model="cat", max_tokens=2, messages=HI, tools=[ANTHROPIC_TOOL], tool_choice=choice)
    choice = {"type": "function", "name": "weather", "mode": "auto"}
    with pytest.raises(openai.BadRequestError, match="`tool_choice` must be"):
        client.responses.create(model="cat", input="Hi", tools=[TOOL], tool_choice=choice)


@pytest.mark.parametrize("stream", [False, True])
def test_the_tool_runner_of_the_anthropic_client_continues_without_a_thread(
    claude: anthropic.Anthropic, stream: bool
) -> None:
    cities = list[str]()

    @anthropic.beta_tool(
        name=FUNCTION["name"], description=FUNCTION["description"], input_schema=FUNCTION["parameters"]
    )
    def weather(city: str) -> str:
        cities.append(city)
        return "10"

    question: Any = [{"role": "user", "content": "Weather in Köln?"}]
    options: Any = {"tools": [weather], "max_tokens": 80, "extra_body": {"temperature": 0}, "stream": stream}
    answers = list(claude.beta.messages.tool_runner(model="cat", messages=question, **options))
    final: Any = answers[-1].get_final_message() if stream else answers[-1]
    assert cities == ["Köln"] and [block.text for block in final.content] == ["It is 10 degrees."]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"thread": {"type": "create"}}, "thread"),
        ({"fallbacks": [{"model": "dog"}]}, "fallbacks"),
        ({"compaction": {}}, "compaction"),
        ({"billing_policy": {"type": "billing_policy", "bill_to": "user_profile"}}, "billing_policy"),
        ({"output_config": {"task_budget": {"type": "tokens", "total": 5}}}, "output_config.task_budget"),
        ({"tools": [{**ANTHROPIC_TOOL, "input_examples": [{"city": "Bern"}]}]}, "tools[0].input_examples"),
        ({"tools": [{**ANTHROPIC_TOOL, "allowed_callers": ["x"]}]}, "tools[0].allowed_callers"),
    ],
)
def test_an_unsupported_field_of_a_message_is_refused_by_its_name(
    claude: anthropic.Anthropic, fields: Any, name: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=f"`{re.escape(name)}` is not supported by this server"):
        claude.messages.create(model="cat", max_tokens=2, messages=HI, extra_body=fields)


def test_a_field_of_a_message_without_an_effect_is_accepted(claude: anthropic.Anthropic) -> None:
    fields: Any = {
        "thread": None, "fallbacks": [], "billing_policy": {"type": "billing_policy", "bill_to": "self"},
        "tools": [{**ANTHROPIC_TOOL, "allowed_callers": ["direct"], "input_examples": []}],
    }  # fmt: skip
    instruction: Any = {"role": "system", "content": "Be brief.", "clear_at": "never"}
    claude.messages.create(model="cat", max_tokens=2, messages=[*HI, instruction], extra_body=fields)


def test_a_strict_tool_of_a_message_follows_its_schema(claude: anthropic.Anthropic) -> None:
    tool: Any = {**ANTHROPIC_TOOL, "strict": True, "eager_input_streaming": False}
    message = claude.messages.create(
        model="cat", max_tokens=200, messages=HI, tools=[tool], tool_choice={"type": "any"},
        thinking={"type": "adaptive", "display": "summarized"},
    )  # fmt: skip
    (block, *_) = [block for block in message.content if block.type == "tool_use"]
    jsonschema.validate(json.loads(json.dumps(block.input)), FUNCTION["parameters"])


def test_disabled_thinking_is_refused_by_a_template_that_writes_reasoning_without_a_switch(
    claude: anthropic.Anthropic,
) -> None:
    with pytest.raises(anthropic.BadRequestError, match="`thinking`.*it reads no further variables"):
        claude.messages.create(model="cat", max_tokens=2, messages=HI, thinking={"type": "disabled"})


def test_disabled_thinking_is_accepted_by_a_template_without_reasoning() -> None:
    engine = tiny_engine()
    engine.template = ChatTemplate("{% for message in messages %}{{ message.content }}{% endfor %}")
    body = {"model": "cat", "max_tokens": 2, "messages": HI}
    with TestClient(tiny_app(engine)) as client:
        statuses = {
            thinking: client.post(
                "/v1/chat/completions", json={**body, "chat_template_kwargs": {"enable_thinking": thinking}}
            ).status_code
            for thinking in (False, True)
        }  # fmt: skip
    assert statuses == {False: 200, True: 400}


def test_an_error_of_a_message_names_the_fields_of_the_messages_api(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"`output_config\.effort`"):
        claude.messages.create(model="cat", max_tokens=2, messages=HI, output_config={"effort": "low"})
    with pytest.raises(anthropic.BadRequestError, match=r"thinking\.display"):
        claude.messages.create(
            model="cat", max_tokens=2, messages=HI, thinking={"type": "adaptive", "display": "omitted"}
        )
