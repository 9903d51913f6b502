"""The Responses API and the Messages API through the unmodified clients of OpenAI and Anthropic."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import orjson
import pytest
from starlette.applications import Starlette

from tests.server.serving import serving, tiny_app, tiny_engine
from tests.server.tool_model import WEATHER, memorizing_model
from vita.infer.engine import Engine
from vita.infer.prefix_cache import CPU_BLOCK
from vita.server.api import ChatRequest, read
from vita.server.dialects.messages_api import MessagesApi
from vita.server.dialects.responses_api import ResponsesApi
from vita.server.errors import ApiError
from vita.server.gateway.app import gateway_app
from vita.server.gateway.gateway import Gateway
from vita.server.gateway.routing import Backend, Router, ServedVersion
from vita.server.settings import ServiceSettings
from vita.spine.ledger import Ledger

FUNCTION = WEATHER["function"]
TOOL: Any = {"type": "function", **FUNCTION}
ANTHROPIC_TOOL: Any = {
    "name": FUNCTION["name"], "description": FUNCTION["description"], "input_schema": FUNCTION["parameters"]
}  # fmt: skip
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["n"],
          "additionalProperties": False}  # fmt: skip


@contextmanager
def gateway_url(replica_url: str, folder: Path) -> Iterator[str]:
    """Serve a gateway in front of one replica."""
    router = Router("cat")
    backend = Backend("replica", replica_url, ready=True)
    router.add(ServedVersion("cat:1", "a" * 64, "a" * 64, name="cat", created=1.0, share=1.0, backends=[backend]))
    ledger = Ledger(folder / "ledger.db")
    gateway = Gateway(router, ledger, ServiceSettings())
    app = gateway_app(gateway)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await gateway.close()

    app.router.lifespan_context = lifespan
    with serving(app) as url:
        yield url
    ledger.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    model = memorizing_model(folder / "m")
    with serving(tiny_app(Engine.open(model))) as replica_url, gateway_url(replica_url, folder) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def respond(client: openai.OpenAI, content: Any, **options: Any) -> Any:
    return client.responses.create(model="cat", input=content, max_output_tokens=80, temperature=0, **options)


def message(claude: anthropic.Anthropic, *messages: Any, **options: Any) -> Any:
    options = {"max_tokens": 80, "extra_body": {"temperature": 0}, **options}
    return claude.messages.create(model="cat", messages=list(messages), **options)


def test_feedback_refers_to_a_response_by_the_id_in_its_body(
    url: str, client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    with client.responses.stream(model="cat", input="Hi", temperature=0) as stream:
        streamed_response = stream.get_final_response().id
    with claude.messages.stream(model="cat", max_tokens=4, messages=[{"role": "user", "content": "Hi"}]) as stream:
        streamed_message = stream.get_final_message().id
    ids = [respond(client, "Hi").id, message(claude, {"role": "user", "content": "Hi"}).id]
    for request_id in (*ids, streamed_response, streamed_message):
        vote = {"kind": "thumb", "request_id": request_id, "value": 1}
        assert httpx.post(f"{url}/v1/feedback", json=vote, trust_env=False).status_code == 201, request_id


# -- Responses API


def test_a_response_has_text_and_usage(client: openai.OpenAI) -> None:
    response = respond(client, "Hi", metadata={"run": "1"}, store=False)
    assert response.output_text == "Good day to you!" and response.status == "completed"
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 0
    assert response.id.startswith("resp_") and response.metadata == {"run": "1"} and response.store is False


def test_a_response_that_is_cut_off_is_incomplete(client: openai.OpenAI) -> None:
    response: Any = client.responses.create(model="cat", input="Hi", max_output_tokens=2, temperature=0)
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert [item.status for item in response.output] == ["incomplete"]


def test_only_the_last_item_of_a_response_that_is_cut_off_is_incomplete(client: openai.OpenAI) -> None:
    total = respond(client, "2+2?").usage.output_tokens
    options: dict[str, Any] = {"model": "cat", "input": "2+2?", "temperature": 0}
    complete: Any = client.responses.create(**options, max_output_tokens=total - 1)
    assert [item.status for item in complete.output] == ["completed", "incomplete"]
    with client.responses.stream(**options, max_output_tokens=total - 1) as stream:
        events: list[Any] = list(stream)
    final = events[-1].response
    done = [event.item.status for event in events if event.type == "response.output_item.done"]
    assert done == [item.status for item in final.output] == ["completed", "incomplete"]
    assert events[-1].type == "response.incomplete" and final.status == "incomplete"


def test_the_tokens_of_the_reasoning_are_counted(client: openai.OpenAI) -> None:
    usage = respond(client, "2+2?").usage
    chat = client.chat.completions.create(model="cat", messages=[{"role": "user", "content": "2+2?"}], temperature=0)
    assert chat.usage is not None and chat.usage.completion_tokens_details is not None
    count = chat.usage.completion_tokens_details.reasoning_tokens
    assert usage.output_tokens_details.reasoning_tokens == count and 0 < (count or 0) < usage.output_tokens
    assert respond(client, "Hi").usage.output_tokens_details.reasoning_tokens == 0


def test_calls_and_their_results_are_items(client: openai.OpenAI) -> None:
    question = {"role": "user", "content": "Weather in Köln?"}
    response = respond(client, [question], tools=[TOOL])
    (call,) = response.output
    assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Köln"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "10"}
    answer = respond(client, [question, call.model_dump(exclude_none=True), result], tools=[TOOL])
    assert answer.output_text == "It is 10 degrees."


def test_reasoning_is_an_item_before_the_message(client: openai.OpenAI) -> None:
    reasoning, answer = respond(client, "2+2?").output
    assert reasoning.type == "reasoning" and reasoning.content[0].text == "Two and two."
    assert answer.content[0].text == "4"


def test_a_text_format_constrains_the_response(client: openai.OpenAI) -> None:
    format: Any = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}
    assert json.loads(respond(client, "Hi", text=format).output_text)["n"] in range(10)


def test_the_events_of_a_stream_give_the_response(client: openai.OpenAI) -> None:
    cases: list[tuple[str, Any]] = [("Hi", {}), ("2+2?", {}), ("Weather in Köln?", {"tools": [TOOL]})]
    for content, options in cases:
        complete = respond(client, content, **options)
        with client.responses.stream(
            model="cat", input=content, max_output_tokens=80, temperature=0, **options
        ) as stream:
            events = list(stream)
            final = stream.get_final_response()
        assert [item.type for item in final.output] == [item.type for item in complete.output]
        assert final.output_text == complete.output_text and final.usage == complete.usage
        numbers = [event.sequence_number for event in events]
        assert numbers == list(range(len(numbers))) and events[0].type == "response.created"
        pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        done = [event.arguments for event in events if event.type == "response.function_call_arguments.done"]
        assert done == [item.arguments for item in final.output if item.type == "function_call"]
        assert "".join(pieces) == "".join(done) and len(pieces) > 2 * len(done) - 1
        assert events[-1].type == "response.completed"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"role": "judge", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call_output", "call_id": "c9", "output": "x"}]}, "input[0].call_id"),
    ],
)
def test_fields_that_cannot_be_supported_are_refused_by_name(
    client: openai.OpenAI, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(**{"model": "cat", "input": "Hi", **options})
    assert error.value.param == param


# -- Messages API


def test_a_message_has_text_and_usage(claude: anthropic.Anthropic) -> None:
    answer = message(claude, {"role": "user", "content": "Hi"})
    assert [block.text for block in answer.content] == ["Good day to you!"] and answer.stop_reason == "end_turn"
    assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0
    assert message(claude, {"role": "user", "content": "Hi"}, max_tokens=2).stop_reason == "max_tokens"


def test_tools_are_used_and_their_results_are_answered(claude: anthropic.Anthropic) -> None:
    question = {"role": "user", "content": "Weather in Köln?"}
    answer = message(claude, question, tools=[ANTHROPIC_TOOL])
    (use,) = answer.content
    assert answer.stop_reason == "tool_use" and use.type == "tool_use" and use.input == {"city": "Köln"}
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "10"}]}
    dialogue = [question, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    assert message(claude, *dialogue, tools=[ANTHROPIC_TOOL]).content[0].text == "It is 10 degrees."


def test_a_required_tool_is_used(claude: anthropic.Anthropic) -> None:
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
        answer = message(claude, {"role": "user", "content": "Hi"}, tools=[ANTHROPIC_TOOL], tool_choice=choice)
        assert answer.stop_reason == "tool_use" and {block.type for block in answer.content} == {"tool_use"}


@pytest.mark.slow
def test_a_named_function_is_called_exactly_once(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    question: Any = {"role": "user", "content": "Köln and Bern?"}
    sampling: Any = {"temperature": 1.5, "n": 8, "seed": 0, "max_tokens": 100, "tools": [WEATHER]}

    def numbers_of_calls(choice: Any) -> list[int]:
        answer = client.chat.completions.create(model="cat", messages=[question], tool_choice=choice, **sampling)
        assert {choice.finish_reason for choice in answer.choices} == {"tool_calls"}
        return [len(choice.message.tool_calls or ()) for choice in answer.choices]

    assert max(numbers_of_calls("required")) > 1, "several calls are possible"
    assert numbers_of_calls({"type": "function", "function": {"name": "weather"}}) == [1] * 8
    named: Any = {"type": "function", "name": "weather"}
    tool: Any = {"type": "tool", "name": "weather"}
    for _ in range(2):
        response = client.responses.create(
            model="cat", input=[question], max_output_tokens=80, tools=[TOOL], tool_choice=named
        )
        assert [item.type for item in response.output] == ["function_call"]
        answer = message(claude, question, tools=[ANTHROPIC_TOOL], tool_choice=tool, extra_body={})
        assert [block.type for block in answer.content] == ["tool_use"] and answer.stop_reason == "tool_use"


def test_a_stop_sequence_is_reported(claude: anthropic.Anthropic) -> None:
    greeting: Any = {"role": "user", "content": "Hi"}
    sequences = [*(f"x{number}" for number in range(15)), " to"]
    answer = message(claude, greeting, stop_sequences=sequences)
    assert answer.content[0].text == "Good day"
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", " to")
    options: Any = {"model": "cat", "max_tokens": 80, "messages": [greeting], "stop_sequences": sequences}
    with claude.messages.stream(**options, extra_body={"temperature": 0}) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", " to")
    complete = message(claude, greeting, stop_sequences=["x"])
    assert (complete.stop_reason, complete.stop_sequence) == ("end_turn", None)
    with pytest.raises(anthropic.BadRequestError, match="Invalid `stop_sequences`: ") as error:
        message(claude, greeting, stop_sequences=["x"] * 17)
    assert "16" in str(error.value)
    with pytest.raises(anthropic.BadRequestError, match="Invalid `stop_sequences"):
        message(claude, greeting, stop_sequences=[""])


def test_the_usage_of_a_message_separates_cached_tokens(tmp_path: Path) -> None:
    question: Any = {"role": "user", "content": "Read this sentence again. " * 12}
    app = tiny_app(tiny_engine(context=512), prefix_bytes=2**20)
    with (
        serving(app) as replica_url,
        gateway_url(replica_url, tmp_path) as url,
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as claude,
    ):
        count = claude.messages.count_tokens(model="cat", messages=[question]).input_tokens
        first, second = (message(claude, question, max_tokens=1).usage for _ in range(2))
        with claude.messages.stream(model="cat", max_tokens=1, messages=[question]) as stream:
            streamed = stream.get_final_message().usage
        events = list(claude.messages.create(model="cat", max_tokens=1, messages=[question], stream=True))
    assert (first.input_tokens, first.cache_read_input_tokens) == (count, 0)
    assert second.cache_read_input_tokens == CPU_BLOCK * (count // CPU_BLOCK) > 0
    assert second.input_tokens == count - second.cache_read_input_tokens
    assert streamed.cache_read_input_tokens == second.cache_read_input_tokens
    assert streamed.input_tokens == second.input_tokens
    usages = [event.message.usage for event in events if event.type == "message_start"]
    usages += [event.usage for event in events if event.type == "message_delta"]
    numbers = [(usage.input_tokens, usage.cache_read_input_tokens) for usage in usages]
    assert numbers == [(second.input_tokens, second.cache_read_input_tokens)] * 2


@pytest.mark.slow
def test_a_result_of_no_earlier_call_is_refused_by_name(claude: anthropic.Anthropic) -> None:
    result: Any = {"type": "tool_result", "tool_use_id": "other", "content": "10"}
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\]\.content\[0\]\.tool_use_id"):
        message(claude, {"role": "user", "content": [result]}, tools=[ANTHROPIC_TOOL])


def test_an_output_format_constrains_the_message(claude: anthropic.Anthropic) -> None:
    config: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    answer = message(claude, {"role": "user", "content": "Hi"}, output_config=config)
    assert json.loads(answer.content[0].text)["n"] in range(10)


def test_the_error_of_a_field_with_two_forms_names_both(claude: anthropic.Anthropic) -> None:
    with pytest.raises(
        anthropic.BadRequestError, match="Invalid `system`: input should be a valid string or list, got 5"
    ):
        message(claude, {"role": "user", "content": "Hi"}, system=5)


def test_a_prefill_beside_a_constraint_is_refused_with_the_fields_of_the_messages_api(
    claude: anthropic.Anthropic,
) -> None:
    dialogue: Any = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good"}]
    config: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    strict: Any = {**ANTHROPIC_TOOL, "strict": True}
    options: list[tuple[dict[str, Any], str]] = [
        ({"output_config": config}, "output_config.format"),
        ({"tools": [ANTHROPIC_TOOL], "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [ANTHROPIC_TOOL, {**strict, "name": "other"}]}, "tools[1].strict"),
    ]
    for fields, name in options:
        with pytest.raises(anthropic.BadRequestError) as error:
            message(claude, *dialogue, **fields)
        expected = f"`messages[1]` cannot be combined with `{name}`, which constrains the whole response"
        assert error.value.body["error"]["message"] == expected  # type: ignore[index]


def schema_requests(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Return (route, body, field) of all requests with a schema of an answer, or of the arguments of a function."""
    dialogue: Any = {"messages": [{"role": "user", "content": "Hi"}]}
    named = {"type": "json_schema", "name": "n", "schema": schema}
    strict = {"name": "f", "strict": True}
    arguments = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    arguments |= {name: schema[name] for name in ("$defs",) if name in schema}
    function = {**strict, "parameters": arguments}
    outputs = {"structured_outputs": {"json": schema}}
    response_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    return [
        ("chat/completions", {**dialogue, "response_format": response_format}, "response_format.json_schema.schema"),
        ("chat/completions", {**dialogue, **outputs}, "structured_outputs.json"),
        ("completions", {"prompt": "Hi", **outputs}, "structured_outputs.json"),
        ("responses", {"input": "Hi", "text": {"format": named}}, "text.format.schema"),
        (
            "messages",
            {**dialogue, "output_config": {"format": {"type": "json_schema", "schema": schema}}},
            "output_config.format.schema",
        ),
        (
            "chat/completions",
            {**dialogue, "tools": [{"type": "function", "function": function}]},
            "tools[0].function.parameters",
        ),
        ("responses", {"input": "Hi", "tools": [{"type": "function", **function}]}, "tools[0].parameters"),
        ("messages", {**dialogue, "tools": [{**strict, "input_schema": arguments}]}, "tools[0].input_schema"),
    ]


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"$ref": "#/$defs/a"}, "`$ref` refers to `#/$defs/a`, which does not exist"),
        ({"$ref": "https://example.com/a"}, "`https://example.com/a`, which is not in the schema; other addresses"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "its types or constants exclude each other"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "`minimum` (5) and `maximum` (3) exclude each other"),
        ({"type": "string", "pattern": "^a$", "minLength": 2}, "no text satisfies its pattern, format, limits"),
        ({"type": "array", "uniqueItems": True}, "`uniqueItems` is not supported; leave it out, and check the answer"),
        ({"enum": []}, "`enum` must be a list of at least one value, got []"),
    ],
)
def test_a_refused_schema_is_an_error_of_its_field_in_the_words_of_the_schema(
    url: str, schema: dict[str, Any], problem: str
) -> None:
    for path, body, field in schema_requests(schema):
        limit = "max_output_tokens" if path == "responses" else "max_tokens"
        response = httpx.post(f"{url}/v1/{path}", json={"model": "cat", limit: 16, **body}, timeout=30, trust_env=False)
        error = response.json()["error"]
        assert response.status_code == 400 and error["message"].startswith(f"Invalid `{field}`: ")
        assert problem in error["message"]
        if path != "messages":  # its errors have no field of their own
            assert error["param"] == field and error["code"] == "unsupported_grammar"


def test_the_schema_true_is_any_json_and_false_is_refused_by_name(
    client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    text: Any = {"format": {"type": "json_schema", "name": "n", "schema": True}}
    json.loads(respond(client, "Hi", text=text).output_text)
    config: Any = {"format": {"type": "json_schema", "schema": True}}
    json.loads(message(claude, {"role": "user", "content": "Hi"}, output_config=config).content[0].text)
    text["format"]["schema"] = config["format"]["schema"] = False
    with pytest.raises(openai.BadRequestError, match=r"text\.format\.schema.* accepts no value"):
        respond(client, "Hi", text=text)
    with pytest.raises(anthropic.BadRequestError, match=r"output_config\.format\.schema.* accepts no value"):
        message(claude, {"role": "user", "content": "Hi"}, output_config=config)
    tool: Any = {"type": "function", "name": "f", "parameters": True}
    with pytest.raises(openai.BadRequestError, match=r"tools\[0\]\.parameters`: needs the JSON Schema of an object"):
        respond(client, "Hi", tools=[tool])
    with pytest.raises(anthropic.BadRequestError, match=r"input_schema`: needs the JSON Schema of an object"):
        message(claude, {"role": "user", "content": "Hi"}, tools=[{"name": "f", "input_schema": True}])


def test_thinking_is_a_block_before_the_text(claude: anthropic.Anthropic) -> None:
    thinking, text = message(claude, {"role": "user", "content": "2+2?"}).content
    assert thinking.thinking == "Two and two." and text.text == "4"


def test_a_last_message_of_the_assistant_is_continued(claude: anthropic.Anthropic) -> None:
    answer = message(claude, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day"})
    assert answer.content[0].text == " to you!"


def test_the_events_of_a_stream_give_the_message(claude: anthropic.Anthropic) -> None:
    cases: list[tuple[str, Any]] = [("Hi", {}), ("2+2?", {}), ("Weather in Köln?", {"tools": [ANTHROPIC_TOOL]})]
    for content, options in cases:
        complete = message(claude, {"role": "user", "content": content}, **options)
        with claude.messages.stream(
            model="cat",
            max_tokens=80,
            messages=[{"role": "user", "content": content}],
            extra_body={"temperature": 0},
            **options,
        ) as stream:
            pieces = [
                event.delta.partial_json
                for event in stream
                if event.type == "content_block_delta" and event.delta.type == "input_json_delta"
            ]
            final = stream.get_final_message()
        inputs = [block.input for block in complete.content if block.type == "tool_use"]
        assert [json.loads("".join(pieces))] == inputs if inputs else not pieces
        assert not inputs or len(pieces) > 2
        ids: Any = {"id"}
        assert [block.model_dump(exclude=ids) for block in final.content] == [
            block.model_dump(exclude=ids) for block in complete.content
        ]
        assert final.stop_reason == complete.stop_reason and final.usage.output_tokens == complete.usage.output_tokens


def test_a_call_that_is_cut_off_is_incomplete(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    question = "Weather in Köln?"
    total = respond(client, question, tools=[TOOL]).usage.output_tokens
    options: Any = {"model": "cat", "temperature": 0, "input": question, "tools": [TOOL]}
    responses = (
        (limit, client.responses.create(**options, max_output_tokens=limit)) for limit in range(total - 1, 0, -1)
    )
    limit, item = next(
        (limit, item) for limit, response in responses for item in response.output if item.status == "incomplete"
    )
    assert item.type == "function_call"
    assert '{"city": "Köln"}'.startswith(item.arguments) and item.arguments[-1:] not in ("", "}")
    asked: Any = {"role": "user", "content": question}
    answer = message(claude, asked, tools=[ANTHROPIC_TOOL], max_tokens=limit)
    assert answer.stop_reason == "max_tokens" and answer.content[0].input == {}
    with claude.messages.stream(
        model="cat", messages=[asked], tools=[ANTHROPIC_TOOL], max_tokens=limit, extra_body={"temperature": 0}
    ) as stream:
        assert stream.get_final_message().content[0].input == answer.content[0].input  # type: ignore[union-attr]


@pytest.mark.slow
def test_an_agent_returns_a_call_that_was_cut_off_and_goes_on(
    client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    question: Any = {"role": "user", "content": "Weather in Köln?"}
    chat: Any = {"model": "cat", "tools": [WEATHER], "temperature": 0, "stop": "öln"}
    choice = client.chat.completions.create(messages=[question], **chat).choices[0].message
    assert choice.tool_calls is not None
    (call,) = choice.tool_calls
    assert call.type == "function" and call.function.arguments == '{"city": "K'
    error: Any = "The arguments are not complete."
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": error}
    answer = client.chat.completions.create(messages=[question, choice.model_dump(), result], **chat)  # type: ignore[list-item]
    assert answer.usage is not None
    item = {"type": "function_call", "status": "incomplete", "call_id": call.id, **call.function.model_dump()}
    output = {"type": "function_call_output", "call_id": call.id, "output": error}
    response = respond(client, [question, item, output], tools=[TOOL])
    assert response.usage.input_tokens == answer.usage.prompt_tokens
    stopped = message(claude, question, tools=[ANTHROPIC_TOOL], stop_sequences=["öln"])
    (block,) = stopped.content
    assert stopped.stop_reason == "stop_sequence" and block.input == {}
    failure = {"type": "tool_result", "tool_use_id": block.id, "content": error, "is_error": True}
    dialogue = [question, {"role": "assistant", "content": stopped.content}, {"role": "user", "content": [failure]}]
    assert message(claude, *dialogue, tools=[ANTHROPIC_TOOL]).type == "message"


def test_tokens_are_counted_as_the_prompt_is_read(claude: anthropic.Anthropic) -> None:
    question: Any = {"role": "user", "content": "Weather in Köln?"}
    count = claude.messages.count_tokens(model="cat", messages=[question], tools=[ANTHROPIC_TOOL])
    answer = message(claude, question, tools=[ANTHROPIC_TOOL])
    assert count.input_tokens == answer.usage.input_tokens
    whole = {"max_tokens": 80, "temperature": 0, "stream": True, "metadata": {"user_id": "ada"}}
    counted = claude.messages.count_tokens(model="cat", messages=[question], tools=[ANTHROPIC_TOOL], extra_body=whole)
    assert counted == count


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tool_choice": {"type": "none"}},
        {"tool_choice": {"type": "any"}},
        {"tool_choice": {"type": "tool", "name": "weather"}},
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    ],
)
def test_counted_tokens_are_those_of_the_usage(claude: anthropic.Anthropic, options: Any) -> None:
    body: Any = {"messages": [{"role": "user", "content": "Weather in Köln?"}], "tools": [ANTHROPIC_TOOL], **options}
    count = claude.messages.count_tokens(model="cat", **body).input_tokens
    assert count == message(claude, *body.pop("messages"), **body).usage.input_tokens


@pytest.mark.parametrize(
    "options",
    [
        {"output_config": {"effort": "low"}},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}, "stop_sequences": ["x"]},
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "x"}}}},
        {"tool_choice": {"type": "tool", "name": "f"}, "tools": [ANTHROPIC_TOOL]},
        {"tools": [{**ANTHROPIC_TOOL, "strict": True}], "stop_sequences": ["x"]},
        {"temperature": 2},
        {"mcp_servers": [{"name": "x"}]},
    ],
)
def test_what_a_message_may_not_have_is_refused_alike_when_its_tokens_are_counted(url: str, options: Any) -> None:
    body = {"model": "cat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, **options}
    answers = [httpx.post(f"{url}/v1/messages{path}", json=body, trust_env=False) for path in ("", "/count_tokens")]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].json() == answers[1].json() and "`" in answers[0].text


@pytest.mark.parametrize("dialect", [MessagesApi(), ResponsesApi()])
def test_only_the_fields_of_an_error_get_the_names_of_the_original_request(dialect: Any) -> None:
    """Functions are called like fields of a chat request."""
    tools = [{**({"type": "function"} if isinstance(dialect, ResponsesApi) else {}), "name": "stop"}]
    tools = [{**tools[0], "name": name} for name in ("stop", "messages", "max_tokens", "stop")]
    body: Any = {"model": "cat", "tools": tools}
    hello = [{"role": "user", "content": "Hi"}]
    body |= {"input": hello} if isinstance(dialect, ResponsesApi) else {"messages": hello, "max_tokens": 4}
    with pytest.raises(ApiError) as error:
        dialect.translate(body)
    assert (error.value.message, error.value.param) == ("`tools[3].name` is a second function `stop`", "tools[3].name")
    names = dialect.translate({**body, "tools": tools[:3]}).names
    message = "`tools[0].function.parameters` of `stop`, `messages` and `max_tokens`"
    chat_error = {"error": {"message": message, "param": "tools[0].function.parameters"}}
    expected = "parameters" if isinstance(dialect, ResponsesApi) else "input_schema"
    renamed = names.original_body(chat_error)["error"]
    assert renamed["param"] == f"tools[0].{expected}"
    assert renamed["message"] == f"`tools[0].{expected}` of `stop`, `messages` and `max_tokens`"


@pytest.mark.parametrize(
    ("path", "field"), [("messages", "stop"), ("messages", "response_format"), ("responses", "messages")]
)
def test_a_field_of_a_chat_request_is_unknown_in_other_apis_by_its_own_name(url: str, path: str, field: str) -> None:
    hello = [{"role": "user", "content": "Hi"}]
    body = {"messages": hello, "max_tokens": 4} if path == "messages" else {"input": hello}
    response = httpx.post(f"{url}/v1/{path}", json={"model": "cat", **body, field: "x"}, trust_env=False)
    assert response.status_code == 400 and response.json()["error"]["message"].endswith(f"supplied: {field}")
    assert response.json()["error"].get("param", field) == field


def test_an_error_about_a_message_names_its_place_in_the_original_request(url: str) -> None:
    named: Any = {"role": "user", "content": "Hi", "name": "x" * 201}
    items = [{"role": "user", "content": "Hi"}, named]
    body = {"model": "cat", "instructions": "Be brief.", "input": items}
    response = httpx.post(f"{url}/v1/responses", json=body, trust_env=False)
    assert response.status_code == 400 and response.json()["error"]["param"] == "input[1]"
    assert "Invalid `input[1]`" in response.json()["error"]["message"]


def translated(body: dict[str, Any], dialect: Any) -> list[dict[str, Any]]:
    """Return the chat messages of a request."""
    return dialect.translate({"model": "cat", **body}).chat["messages"]


def test_reasoning_refusals_and_failed_tools_are_in_the_dialogue() -> None:
    cached: Any = {"type": "ephemeral"}
    use: Any = {
        "type": "tool_use",
        "id": "c1",
        "name": "weather",
        "input": {"city": "Bern"},
        "caller": {"type": "direct"},
    }
    answer: Any = [
        {"type": "thinking", "thinking": "First. ", "signature": "x"},
        {"type": "thinking", "thinking": "Second.", "signature": ""},
        {"type": "text", "text": "Wait.", "citations": None, "cache_control": cached}, use,
    ]  # fmt: skip
    result: Any = {"type": "tool_result", "tool_use_id": "c1", "content": "no network", "is_error": True}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer},
                {"role": "user", "content": [{**result, "cache_control": cached}]}]  # fmt: skip
    _, turn, failure = translated({"max_tokens": 5, "messages": messages}, MessagesApi())
    assert (turn["reasoning_content"], turn["content"]) == ("First. Second.", "Wait.")
    assert failure == {"role": "tool", "tool_call_id": "c1", "content": "Error: no network"}
    heads = {"id": "x", "status": "completed"}
    items: list[Any] = [
        {"role": "user", "name": "ada", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", **heads, "summary": [], "content": [{"type": "reasoning_text", "text": "First. "}]},
        {"type": "reasoning", **heads, "summary": [{"type": "summary_text", "text": "Second."}]},
        {"type": "message", **heads, "role": "assistant", "content": [
            {"type": "output_text", "text": "No. ", "annotations": [], "logprobs": []},
            {"type": "refusal", "refusal": "I cannot."}]},
        {"type": "function_call", **heads, "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
    ]  # fmt: skip
    user, turn, output = translated({"input": items}, ResponsesApi())
    assert user == {"role": "user", "content": "Hi", "name": "ada"}
    assert (turn["reasoning_content"], turn["content"]) == ("First. Second.", "No. I cannot.")
    assert output == {"role": "tool", "tool_call_id": "c1", "content": "1"}
    parts: Any = [{"type": "text", "text": "No. "}, {"type": "refusal", "refusal": "I cannot."}]
    dialogue = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": parts}]
    assert read(ChatRequest, {"model": "cat", "messages": dialogue}).messages[1].content == "No. I cannot."
    with pytest.raises(ApiError, match=r"messages\[\d\]\.content\[\d\]\.type` `refusal` is not supported here"):
        read(ChatRequest, {"model": "cat", "messages": [{"role": "user", "content": parts}]})


BLOCKS: dict[str, Any] = {
    "text": {"type": "text", "text": "x"},
    "thinking": {"type": "thinking", "thinking": "x", "signature": ""},
    "tool_use": {"type": "tool_use", "id": "c2", "name": "weather", "input": {}},
    "tool_result": {"type": "tool_result", "tool_use_id": "c1", "content": "x"},
}


@pytest.mark.parametrize(
    ("kind", "change", "param"),
    [
        ("text", {"bold": True}, "bold"),
        ("text", {"citations": [{"type": "char_location"}]}, "citations"),
        ("thinking", {"thought": 1}, "thought"),
        ("tool_use", {"input": 0}, "input"),
        ("tool_use", {"when": 1}, "when"),
        ("tool_result", {"content": 0}, "content"),
        ("tool_result", {"content": [{"type": "text", "text": "x", "bold": True}]}, "content[0].bold"),
        ("tool_result", {"is_error": "yes"}, "is_error"),
    ],
)
def test_an_unknown_or_wrong_field_of_a_block_is_refused(kind: str, change: Any, param: str) -> None:
    role = "user" if kind == "tool_result" else "assistant"
    call = {"type": "tool_use", "id": "c1", "name": "weather", "input": {}}
    messages: list[Any] = [{"role": "assistant", "content": [call]}]
    messages.append({"role": role, "content": [BLOCKS[kind] | change]})
    with pytest.raises(ApiError) as error:
        translated({"max_tokens": 5, "messages": messages}, MessagesApi())
    assert (error.value.status, error.value.param) == (400, f"messages[1].content[0].{param}")


def test_unknown_fields_of_messages_and_of_the_system_are_refused() -> None:
    greeting = {"role": "user", "content": "Hi"}
    for body, param in (
        ({"messages": [{**greeting, "name": "ada"}]}, "messages[0].name"),
        ({"messages": [greeting], "system": [{"type": "text", "text": "x", "bold": 1}]}, "system[0].bold"),
    ):
        with pytest.raises(ApiError) as error:
            translated({"max_tokens": 5, **body}, MessagesApi())
        assert error.value.param == param


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"role": "user", "content": "x", "mood": 1}, "mood"),
        ({"role": "user", "content": [{"type": "input_text", "text": "x", "bold": 1}]}, "content[0].bold"),
        ({"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}, "content[0].type"),
        ({"type": "reasoning", "content": "x", "mood": 1}, "mood"),
        ({"type": "reasoning", "summary": [], "encrypted_content": "x"}, "encrypted_content"),
        ({"type": "function_call", "call_id": "c2", "name": "f", "arguments": {}}, "arguments"),
        ({"type": "function_call_output", "call_id": "c1", "output": 0}, "output"),
        ({"type": "function_call_output", "call_id": "c1", "output": "x", "mood": 1}, "mood"),
    ],
)
def test_an_unknown_or_wrong_field_of_an_item_is_refused(item: Any, param: str) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    with pytest.raises(ApiError) as error:
        translated({"input": [call, item], "instructions": "x"}, ResponsesApi())
    assert (error.value.status, error.value.param) == (400, f"input[1].{param}")


def test_dumps_of_an_earlier_response_and_message_are_in_the_dialogue() -> None:
    text = {"type": "output_text", "text": "Yes", "annotations": [], "parsed": {"a": 1}, "other": None}
    items = [
        {"role": "user", "content": "Hi"},
        {"type": "message", "role": "assistant", "content": [text], "other": None},
        {
            "type": "function_call",
            "call_id": "1",
            "name": "f",
            "arguments": "{}",
            "parsed_arguments": {},
            "async_": None,
        },
        {"type": "function_call_output", "call_id": "1", "output": "2", "other": None},
    ]
    messages = translated({"model": "cat", "input": items}, ResponsesApi())
    assert messages[1]["content"] == "Yes" and messages[1]["tool_calls"][0]["function"]["name"] == "f"

    block = {"type": "text", "text": "Yes", "index": 0, "parsed_output": {"a": 1}, "other": None}
    call = {"type": "tool_use", "id": "1", "name": "f", "input": {}, "index": 1}
    result = {"type": "tool_result", "tool_use_id": "1", "content": "2"}
    turns = [("user", "Hi"), ("assistant", []), ("user", "Hi"), ("assistant", [block, call]), ("user", [result])]
    dialogue = [{"role": role, "content": content} for role, content in turns]
    messages = translated({"model": "cat", "max_tokens": 1, "messages": dialogue}, MessagesApi())
    assert messages[1] == {"role": "assistant", "content": ""} and messages[3]["content"] == "Yes"
    with pytest.raises(ApiError, match=r"messages\[0\].content"):
        translated({"model": "cat", "max_tokens": 1, "messages": [{"role": "user", "content": []}]}, MessagesApi())


@pytest.mark.parametrize(
    ("finish", "arguments", "value", "status"),
    [
        ("length", r'{"a": "\ud83d", "b": 1', r'{"a":"\ud83d"}', "incomplete"),
        ("stop", r'{"a": "\ud83d", "b": 1', "{}", "incomplete"),
        ("stop", '{"path": "/", "dry": tru', "{}", "incomplete"),
        ("tool_calls", '{"a": 1e400}', '{"a":1e400}', "completed"),
    ],
)
def test_arguments_that_are_not_complete_are_an_incomplete_call(
    finish: str, arguments: str, value: str, status: str
) -> None:
    function = {"name": "f", "arguments": arguments}
    answer = {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    completion = {"choices": [{"message": answer, "finish_reason": finish}], "usage": {}, "created": 1}
    request = {"model": "cat", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    message = MessagesApi().translate(request).response(completion)
    assert orjson.dumps(message["content"][0]["input"]).decode().replace(" ", "") == value
    reasons = {"length": "max_tokens", "stop": "end_turn", "tool_calls": "tool_use"}
    assert message["stop_reason"] == reasons[finish]
    (item,) = ResponsesApi().translate({"model": "cat", "input": "Hi"}).response(completion)["output"]
    assert (item["status"], item["arguments"]) == (status, arguments)


def test_errors_have_the_form_of_the_messages_api(claude: anthropic.Anthropic, url: str) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        claude.messages.create(model="dog", max_tokens=4, messages=[{"role": "user", "content": "Hi"}])
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    response = httpx.post(f"{url}/v1/messages", json={"model": "cat", "messages": []})
    assert response.status_code == 400
    assert response.json()["type"] == "error" and response.json()["error"]["type"] == "invalid_request_error"
