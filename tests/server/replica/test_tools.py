"""Function calls with the official client: calls, results, reasoning, streams and refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.server.serving import serving, tiny_app
from tests.server.tool_model import WEATHER, memorizing_model
from vita.infer.answer_formats.answer_format import AnswerFormat
from vita.infer.answer_formats.call_formats import CALL_FORMATS
from vita.infer.engine import Engine
from vita.server.dialects.parts import AnswerReader, read_answer
from vita.server.replica.answer_parts import AnswerParts

QUESTION: dict[str, Any] = {"role": "user", "content": "Weather in Köln?"}
TWO_CITIES: dict[str, Any] = {"role": "user", "content": "Köln and Bern?"}
SUM: dict[str, Any] = {"role": "user", "content": "2+2?"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = memorizing_model(tmp_path_factory.mktemp("model") / "m")
    with (
        serving(tiny_app(Engine.open(folder))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def ask(client: openai.OpenAI, *messages: Any, tools: Any = (WEATHER,), **options: Any) -> Any:
    options = {"temperature": 0, "max_tokens": 80, **options}
    if tools:
        options["tools"] = list(tools)
    return client.chat.completions.create(model="cat", messages=list(messages), **options)


def test_a_call_is_returned_and_its_result_is_answered(client: openai.OpenAI) -> None:
    answer = ask(client, QUESTION)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    (call,) = choice.message.tool_calls
    assert call.id.startswith("call_") and call.type == "function"
    assert call.function.name == "weather" and json.loads(call.function.arguments) == {"city": "Köln"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "10"}
    answer = ask(client, QUESTION, choice.message.model_dump(), result)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == "It is 10 degrees." and not answer.choices[0].message.tool_calls


def test_reasoning_content_and_several_calls_are_separate_parts_of_the_message(client: openai.OpenAI) -> None:
    message = ask(client, TWO_CITIES).choices[0].message
    assert message.model_extra["reasoning_content"] == "Two cities." and message.content == "I look."
    assert [call.function.arguments for call in message.tool_calls] == ['{"city": "Köln"}', '{"city": "Bern"}']
    assert len({call.id for call in message.tool_calls}) == 2
    message = ask(client, SUM, tools=()).choices[0].message
    assert message.model_extra["reasoning_content"] == "Two and two." and message.content == "4"


def test_a_stream_contains_the_same_parts_in_deltas(client: openai.OpenAI) -> None:
    for question in (QUESTION, TWO_CITIES, SUM, {"role": "user", "content": "Hi"}):
        tools = () if question in (SUM, {"role": "user", "content": "Hi"}) else (WEATHER,)
        expected = ask(client, question, tools=tools).choices[0]
        texts = {"content": "", "reasoning_content": ""}
        calls: list[dict[str, Any]] = []
        finish = None
        for chunk in ask(client, question, tools=tools, stream=True):
            choice = chunk.choices[0]
            delta = choice.delta.model_dump(exclude_none=True)
            for name in texts:
                texts[name] += delta.get(name, "")
            for part in delta.get("tool_calls", ()):
                if part["index"] == len(calls):
                    assert part["id"] and part["type"] == "function" and part["function"]["name"] == "weather"
                    assert part["function"]["arguments"] == ""
                    calls.append({"arguments": "", "pieces": -1})
                calls[part["index"]]["pieces"] += 1
                calls[part["index"]]["arguments"] += part["function"].get("arguments", "")
            finish = choice.finish_reason or finish
        assert finish == expected.finish_reason
        assert texts["content"] == (expected.message.content or "")
        assert texts["reasoning_content"] == (expected.message.model_extra or {}).get("reasoning_content", "")
        assert [call["arguments"] for call in calls] == [
            call.function.arguments for call in expected.message.tool_calls or ()
        ]
        assert all(call["pieces"] > 2 for call in calls)


@pytest.mark.slow
def test_a_call_that_is_cut_off_has_the_same_arguments_in_a_stream(client: openai.OpenAI) -> None:
    total = ask(client, QUESTION).usage.completion_tokens
    choice = ask(client, QUESTION, max_tokens=total - 5).choices[0]
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "length" and '{"city": "Köln"}'.startswith(call.function.arguments)
    chunks = [chunk.choices[0] for chunk in ask(client, QUESTION, max_tokens=total - 5, stream=True)]
    pieces = [part.function.arguments for chunk in chunks for part in chunk.delta.tool_calls or ()]
    assert "".join(pieces) == call.function.arguments != "" and chunks[-1].finish_reason == "length"


def test_the_stream_helper_of_the_client_builds_the_same_message(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="cat",
        messages=[TWO_CITIES],  # type: ignore[list-item]
        tools=[WEATHER],  # type: ignore[list-item]
        temperature=0,
        max_tokens=80,
    ) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    assert [call.function.arguments for call in final.message.tool_calls or ()] == [
        '{"city": "Köln"}',
        '{"city": "Bern"}',
    ]


def test_a_call_that_a_stop_text_ends_within_its_arguments_is_not_a_reason_to_execute_calls(
    client: openai.OpenAI,
) -> None:
    choice = ask(client, QUESTION, stop="öln").choices[0]
    assert choice.message.tool_calls[0].function.arguments == '{"city": "K' and choice.finish_reason == "stop"
    chunks = [chunk.choices[0] for chunk in ask(client, QUESTION, stop="öln", stream=True)]
    assert chunks[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("text", "arguments", "finish"),
    [
        ('{"name": "rm", "arguments": {"path": "/", "dry": tru e', ['{"path": "/", "dry": tru'], "stop"),
        ('{"name": "rm", "arguments": {"path": "/"</tool_call>', ['{"path": "/"'], "stop"),
        ('{"name": "rm", "arguments": {"path": "/"}}\n</tool_call>', ['{"path": "/"}'], "tool_calls"),
        ('{"name": "rm", "arguments": {}}\n{"name": "rm", "arguments": {"path"', ["{}", '{"path"'], "stop"),
    ],
)
def test_only_calls_with_complete_arguments_have_the_reason_tool_calls(
    text: str, arguments: list[str], finish: str
) -> None:
    answers = AnswerParts(AnswerFormat(calls=CALL_FORMATS["hermes"]), [WEATHER])
    message = answers.message(0, f"<tool_call>\n{text}", refused=False)
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == arguments
    assert answers.finish(0, "stop") == finish and answers.finish(0, "length") == "length"


def test_the_rest_of_a_call_that_becomes_invalid_is_not_content(client: openai.OpenAI) -> None:
    text = '<tool_call>\n{"name": "weather", "arguments": {"city": NaN}}\n</tool_call>\nGood day!'
    options: dict[str, Any] = {"extra_body": {"structured_outputs": {"choice": [text]}}}
    choice = ask(client, QUESTION, **options).choices[0]
    assert [call.function.arguments for call in choice.message.tool_calls] == ['{"city": ']
    assert choice.message.content == "Good day!" and choice.finish_reason == "stop"
    chunks = [chunk.choices[0] for chunk in ask(client, QUESTION, stream=True, **options)]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "Good day!"
    pieces = [part.function.arguments for chunk in chunks for part in chunk.delta.tool_calls or ()]
    assert "".join(pieces) == '{"city": ' and chunks[-1].finish_reason == "stop"


def test_without_parallel_calls_only_the_first_call_is_returned(client: openai.OpenAI) -> None:
    message = ask(client, TWO_CITIES, parallel_tool_calls=False).choices[0].message
    assert [call.function.arguments for call in message.tool_calls] == ['{"city": "Köln"}']
    deltas = [chunk.choices[0].delta for chunk in ask(client, TWO_CITIES, parallel_tool_calls=False, stream=True)]
    assert {call.index for delta in deltas for call in delta.tool_calls or ()} == {0}


def test_tool_choice_none_hides_the_tools(client: openai.OpenAI) -> None:
    answer = ask(client, QUESTION, tool_choice="none")
    assert answer.choices[0].message == ask(client, QUESTION, tools=()).choices[0].message
    assert answer.usage.prompt_tokens < ask(client, QUESTION).usage.prompt_tokens
    assert ask(client, QUESTION, tool_choice="auto").choices[0].finish_reason == "tool_calls"


def test_a_truncated_call_is_content_with_the_reason_length(client: openai.OpenAI) -> None:
    choice = ask(client, QUESTION, max_tokens=4).choices[0]
    assert choice.finish_reason == "length" and not choice.message.tool_calls
    assert choice.message.content and choice.message.content.startswith("<tool_call>"[:2])


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_truncated_required_call_is_not_content(client: openai.OpenAI, choice: Any) -> None:
    for limit in (1, 4):
        options: dict[str, Any] = {"tool_choice": choice, "max_tokens": limit}
        answer = ask(client, QUESTION, **options).choices[0]
        assert answer.finish_reason == "length" and answer.message.content is None
        arguments = "".join(call.function.arguments for call in answer.message.tool_calls or ())
        assert '{"city": "Köln"}'.startswith(arguments)
        chunks = [chunk.choices[0] for chunk in ask(client, QUESTION, stream=True, **options)]
        assert not any(chunk.delta.content for chunk in chunks) and chunks[-1].finish_reason == "length"
        parts = [part.function.arguments for chunk in chunks for part in chunk.delta.tool_calls or ()]
        assert "".join(parts) == arguments


def test_a_stop_text_is_reported(client: openai.OpenAI) -> None:
    greeting = {"role": "user", "content": "Hi"}
    choice = ask(client, greeting, tools=(), stop=["x", " to"]).choices[0]
    assert choice.message.content == "Good day" and choice.finish_reason == "stop"
    assert choice.model_extra == {"stop_reason": " to"}
    *chunks, last = ask(client, greeting, tools=(), stop=["x", " to"], stream=True)
    assert last.choices[0].model_extra == {"stop_reason": " to"}
    assert not any(chunk.choices[0].model_extra for chunk in chunks)
    assert not ask(client, greeting, tools=(), stop=["x"]).choices[0].model_extra


def test_the_usage_counts_the_tokens_of_the_reasoning(client: openai.OpenAI) -> None:
    answer = ask(client, SUM, tools=(), logprobs=True)
    tokens = [entry.token for entry in answer.choices[0].logprobs.content]
    assert "".join(tokens).startswith("<think>\nTwo and two.\n</think>")

    def count_until(text: str) -> int:
        return next(count for count in range(len(tokens)) if text in "".join(tokens[:count]))

    expected = count_until("</think>") - count_until("<think>")
    assert answer.usage.completion_tokens_details.reasoning_tokens == expected > 0
    assert ask(client, QUESTION).usage.completion_tokens_details.reasoning_tokens == 0
    truncated = ask(client, SUM, tools=(), max_tokens=expected).usage
    assert truncated.completion_tokens_details.reasoning_tokens == expected - count_until("<think>")


def test_the_last_message_is_continued(client: openai.OpenAI) -> None:
    user_message = {"role": "user", "content": "Hi"}
    prefix_message = {"role": "assistant", "content": "Good day"}
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    answer = ask(client, user_message, prefix_message, tools=(), extra_body=extra)
    assert answer.choices[0].message.content == " to you!"
    prefix_message = {"role": "assistant", "content": "<think>\nTwo"}
    message = ask(client, SUM, prefix_message, tools=(), extra_body=extra).choices[0].message
    assert message.model_extra["reasoning_content"] == " and two." and message.content == "4"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, "chat_template_kwargs.enable_thinking"),
        ({"extra_body": {"documents": [{"text": "d"}]}}, "documents"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
    ],
)
def test_the_error_for_an_unsupported_parameter_names_it(
    client: openai.OpenAI, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, *body.pop("messages", [QUESTION]), **body)
    assert error.value.param == param and error.value.code == "unsupported_parameter"


def test_log_probabilities_cover_the_tokens_of_a_call(client: openai.OpenAI) -> None:
    completion = ask(client, QUESTION, logprobs=True)
    entries = completion.choices[0].logprobs.content
    assert len(entries) == completion.usage.completion_tokens
    streamed_logprobs = [chunk.choices[0].logprobs for chunk in ask(client, QUESTION, logprobs=True, stream=True)]
    assert sum(len(logprobs.content) for logprobs in streamed_logprobs if logprobs) == len(entries)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Well. CALL", ["text", "call"]),
        ("CALL Done.", ["call", "text"]),
        ("<think>Hm.</think>Well. CALL and CALL Done.", ["reasoning", "text", "call", "text", "call", "text"]),
    ],
)
def test_the_parts_of_a_complete_answer_have_the_order_of_the_stream(text: str, kinds: list[str]) -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
    format = AnswerFormat(calls=CALL_FORMATS["hermes"], reasoning=("<think>", "</think>"))
    answers = AnswerParts(format, [WEATHER])
    answer = text.replace("CALL", call)
    choice = {"message": answers.message(0, answer, refused=False), "parts": answers.order(0)}
    complete = read_answer({"choices": [choice]}).parts
    reader = AnswerReader()
    for delta in AnswerParts(format, [WEATHER]).deltas(0, answer, last=True, refused=False):
        list(reader.read({"choices": [{"delta": delta}]}))
    assert [part.kind for part in complete] == kinds
    for part, streamed in zip(complete, reader.parts, strict=True):
        assert (part.kind, part.index, part.text, part.name) == (
            streamed.kind, streamed.index, streamed.text, streamed.name
        )  # fmt: skip
    assert (choice["parts"] is None) == (text == "Well. CALL")
