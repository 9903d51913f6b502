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
import pytest
from starlette.applications import Starlette

from tests.server.serving import serving, tiny_app
from tests.server.tool_model import WEATHER, memorizing_model
from vita.infer.engine import Engine
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


# -- Responses API


def test_a_response_has_text_and_usage(client: openai.OpenAI) -> None:
    response = respond(client, "Hi", metadata={"run": "1"}, store=False)
    assert response.output_text == "Good day to you!" and response.status == "completed"
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 0
    assert response.id.startswith("resp_") and response.metadata == {"run": "1"} and response.store is False


def test_a_response_that_is_cut_off_is_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(model="cat", input="Hi", max_output_tokens=2, temperature=0)
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


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
        assert numbers == sorted(numbers) and events[0].type == "response.created"
        assert events[-1].type == "response.completed"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0]"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"role": "judge", "content": "x"}]}, "input[0].role"),
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


def test_an_output_format_constrains_the_message(claude: anthropic.Anthropic) -> None:
    config: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    answer = message(claude, {"role": "user", "content": "Hi"}, output_config=config)
    assert json.loads(answer.content[0].text)["n"] in range(10)


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
            final = stream.get_final_message()
        ids: Any = {"id"}
        assert [block.model_dump(exclude=ids) for block in final.content] == [
            block.model_dump(exclude=ids) for block in complete.content
        ]
        assert final.stop_reason == complete.stop_reason and final.usage.output_tokens == complete.usage.output_tokens


def test_tokens_are_counted_as_the_prompt_is_read(claude: anthropic.Anthropic) -> None:
    question: Any = {"role": "user", "content": "Weather in Köln?"}
    count = claude.messages.count_tokens(model="cat", messages=[question], tools=[ANTHROPIC_TOOL])
    answer = message(claude, question, tools=[ANTHROPIC_TOOL])
    assert count.input_tokens == answer.usage.input_tokens
    whole = {"max_tokens": 80, "temperature": 0, "stream": True, "metadata": {"user_id": "ada"}}
    counted = claude.messages.count_tokens(model="cat", messages=[question], tools=[ANTHROPIC_TOOL], extra_body=whole)
    assert counted == count


def test_errors_have_the_form_of_the_messages_api(claude: anthropic.Anthropic, url: str) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        claude.messages.create(model="dog", max_tokens=4, messages=[{"role": "user", "content": "Hi"}])
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    response = httpx.post(f"{url}/v1/messages", json={"model": "cat", "messages": []})
    assert response.status_code == 400
    assert response.json()["type"] == "error" and response.json()["error"]["type"] == "invalid_request_error"
