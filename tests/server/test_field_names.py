"""Errors name the fields of the request, in each API, and reasoning without an answer is accepted."""

from __future__ import annotations

from typing import Any

import pytest

from vita.server.api import ChatRequest, read
from vita.server.dialects.messages_api import MessagesApi
from vita.server.dialects.responses_api import ResponsesApi
from vita.server.errors import ApiError


def translated(body: dict[str, Any], dialect: Any) -> list[dict[str, Any]]:
    """Return the chat messages of a request."""
    return dialect.translate({"model": "cat", **body}).chat["messages"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "function", "name": "no name"}}, "tool_choice.name"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}},
            "tool_choice.tools",
        ),
        ({"text": {"format": {"type": "json_schema", "name": "no name", "schema": {}}}}, "text.format.name"),
        ({"input": [{"role": "user", "content": "Hi"}, {"type": "x" * 500}]}, "input[1].type"),
        ({"input": [{"role": "user", "content": "Hi"}, {"type": 5}]}, "input[1].type"),
    ],
)
def test_an_error_of_a_response_names_the_field_of_the_request(fields: Any, param: str) -> None:
    body = {"model": "cat", "input": "x", "tools": [{"type": "function", "name": "f"}], **fields}
    with pytest.raises(ApiError) as error:
        ResponsesApi().translate(body)
    assert error.value.param == param and f"`{param}`" in error.value.message and len(error.value.message) < 200


def test_reasoning_without_an_answer_is_a_message_and_without_a_text_it_is_none() -> None:
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    greeting = {"role": "user", "content": "Hi"}
    (message,) = translated({"model": "cat", "input": [reasoning]}, ResponsesApi())
    assert message == {"role": "assistant", "reasoning_content": "Hm."}
    items = [greeting, {"type": "reasoning", "summary": []}, greeting]
    assert translated({"model": "cat", "input": items}, ResponsesApi()) == [greeting, greeting]
    chat = read(ChatRequest, {"model": "cat", "messages": [message, greeting]})
    assert (chat.messages[0].as_message().content, chat.messages[0].as_message().reasoning) == ("", "Hm.")


@pytest.mark.parametrize(
    ("part", "param", "problem"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, ".type", "`image_url` is not supported here"),
        ({"type": "input_audio", "input_audio": {}}, ".type", "`input_audio` is not supported here"),
        ({"type": "text", "text": "x", "bold": 1}, ".bold", "is an unknown field"),
        ({"type": "x" * 500}, ".type", "is not supported here"),
        ("x", "", "must be a part"),
        ({"type": "text"}, "", "must be a part"),
    ],
)
def test_an_error_about_a_part_of_a_chat_message_names_its_place(part: Any, param: str, problem: str) -> None:
    body: Any = {"model": "cat", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]}
    with pytest.raises(ApiError, match=problem) as error:
        read(ChatRequest, body)
    assert error.value.param == f"messages[0].content[1]{param}" and len(error.value.message) < 200


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("x", "must be a block"),
        ({"text": "x"}, "must be a block"),
        ({"type": "x" * 500}, "of the type `x{64}` are not"),
    ],
)
def test_an_error_about_a_block_of_a_message_is_short_and_names_its_place(block: Any, problem: str) -> None:
    with pytest.raises(ApiError, match=rf"`messages\[0\]\.content\[0\]`.* {problem}"):
        translated({"max_tokens": 5, "messages": [{"role": "user", "content": [block]}]}, MessagesApi())
