"""Every mistake in a request is named, and no field is ignored."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tracemalloc
from typing import Any

import orjson
import pytest

from vita.server.api import ChatRequest, CompletionRequest, EmbeddingRequest, RequestBody, TokenizeRequest, parse
from vita.server.errors import ApiError, invalid, too_busy, unavailable

CHAT = {"model": "cat", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "cat"}


FUNCTION_CHOICE = {"function": {"name": "f"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
STRICT = {"type": "function", "function": {"name": "f", "strict": True}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALL_MESSAGE = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ASSISTANT_MESSAGE = {"role": "assistant", "content": "The cat"}


def refusal(kind: type[RequestBody], **body: Any) -> tuple[str | None, str | None, str]:
    with pytest.raises(ApiError) as error:
        parse(kind, json.dumps(body).encode())
    assert error.value.status == 400
    assert error.value.kind == "invalid_request_error"
    return error.value.param, error.value.code, error.value.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"seed": 2**64}, "seed"),
        ({"stop": 3}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {"one": 1}}, "logit_bias.one"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object"}, "stop": "x"}, "stop"),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice.function.name",
        ),
        ({"min_p": 1.5}, "min_p"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None, "tool_calls": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [CALL_MESSAGE, {"role": "tool", "content": "x", "tool_call_id": "other"}]},
            "messages[1].tool_call_id",
        ),
        ({"messages": [{"role": "user", "content": "x", "reasoning_content": "y"}]}, "messages[0].reasoning_content"),
        (
            {"messages": [CALL_MESSAGE, {**CALL_MESSAGE, "tool_calls": [{**CALL, "type": "custom"}]}]},
            "messages[1].tool_calls[0].type",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"function": {"name": "f g"}}]}, "tools[0].function.name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
        ({"tools": [{"function": {"name": "f", "colour": 1}}]}, "tools[0].function.colour"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"),
        (
            {"messages": [ASSISTANT_MESSAGE], "continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"model": 3}, "model"),
    ],
)
def test_a_wrong_value_is_named(body: dict[str, Any], param: str) -> None:
    assert refusal(ChatRequest, **{**CHAT, **body})[0] == param


@pytest.mark.parametrize(
    ("model", "body", "param"),
    [
        (ChatRequest, {**CHAT, "functions": [{"name": "f"}]}, "functions"),
        (CompletionRequest, {**TEXT, "suffix": "end"}, "suffix"),
        (CompletionRequest, {**TEXT, "best_of": 3}, "best_of"),
    ],
)
def test_unsupported_parameters_are_separate_from_unknown_parameters(
    model: type[RequestBody], body: dict[str, Any], param: str
) -> None:
    assert refusal(model, **body)[:2] == (param, "unsupported_parameter")
    assert refusal(model, **body, tempreature=1)[1] in ("unknown_parameter", "unsupported_parameter")
    error_fields = refusal(CompletionRequest, **TEXT, tempreature=1)
    assert error_fields == ("tempreature", "unknown_parameter", "Unrecognized request argument supplied: tempreature")


def test_nulls_and_neutral_values_have_no_effect() -> None:
    extras = {
        "tools": None,
        "tool_choice": "none",
        "store": False,
        "temperature": None,
        "response_format": {"type": "text"},
        "stop": None,
    }
    assistant = {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None, "audio": None}
    request = parse(ChatRequest, json.dumps({**CHAT, **extras, "messages": [*CHAT["messages"], assistant]}).encode())
    assert request.messages[1].content == "yes"
    assert request.stops == ()


def test_a_dump_of_an_earlier_answer_is_a_message() -> None:
    function = {"name": "f", "arguments": "{}", "parsed_arguments": {"a": 1}, "other": None}
    call = {"id": "1", "type": "function", "index": 0, "function": function, "async_": None}
    part = {"type": "text", "text": "yes", "annotations": None}
    answer = {"role": "assistant", "content": [part], "parsed": {"a": 1}, "other": None, "tool_calls": [call]}
    request = parse(ChatRequest, json.dumps({**CHAT, "messages": [*CHAT["messages"], answer]}).encode())
    message = request.messages[1].as_message()
    assert message.content == "yes" and message.tool_calls[0].name == "f"

    assert refusal(ChatRequest, **CHAT, other=None)[:2] == ("other", "unknown_parameter")
    unknown = {**answer, "other": 1}
    assert refusal(ChatRequest, **{**CHAT, "messages": [unknown]})[0] == "messages[0].other"
    unknown = {**answer, "tool_calls": [{**call, "other": 1}]}
    assert refusal(ChatRequest, **{**CHAT, "messages": [unknown]})[0] == "messages[0].tool_calls[0].other"


def test_content_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = parse(ChatRequest, json.dumps({**CHAT, "messages": [{"role": "developer", "content": parts}]}).encode())
    assert request.messages[0].content == "ab"


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]], ""])
def test_a_prompt_has_four_forms(prompt: Any) -> None:
    request = parse(CompletionRequest, json.dumps({**TEXT, "prompt": prompt}).encode())
    assert request.prompts == (prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt])


@pytest.mark.parametrize("prompt", [[], ["a", 1], [[]], [1.5], {"a": 1}, 3, [-1], [[1], "a"], [True], [2**31]])
def test_other_forms_of_a_prompt_are_refused(prompt: Any) -> None:
    assert (refusal(CompletionRequest, **TEXT, prompt=prompt)[0] or "").startswith("prompt")


@pytest.mark.parametrize("inputs", ["", [""], ["a", ""], [[]], []])
def test_an_empty_input_to_embeddings_is_refused(inputs: Any) -> None:
    assert refusal(EmbeddingRequest, **TEXT, input=inputs)[0] == "input"


def test_tokenize_takes_either_a_text_or_a_dialogue() -> None:
    assert refusal(TokenizeRequest)[0] == "prompt"
    assert refusal(TokenizeRequest, prompt="a", messages=CHAT["messages"])[0] == "prompt"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[1]", b"{", b'{"model": NaN}', b'{"model": "\\ud800"}', b"[" * 100_000, b'{"n": 1e999}',
        b'{"seed": ' + b"9" * 5000 + b"}", b"\xff\xfe", b'{"a": 1}' * 2, b'{"model": "cat", "n": -0.0}',
        b'{"model": "cat", "stop": {"a": ' * 500 + b"1" + b"}}" * 500,
    ],
)  # fmt: skip
def test_an_invalid_body_is_refused_with_status_400(body: bytes) -> None:
    with pytest.raises(ApiError) as error:
        parse(ChatRequest, body)
    assert error.value.status == 400


def test_errors_have_the_format_of_the_openai_api() -> None:
    assert invalid("no", "n").body() == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": None}
    }
    assert too_busy("full", retry_after=3).headers == {"Retry-After": "3"}
    assert unavailable("later", code="loading").body()["error"]["type"] == "server_error"


def test_requests_are_parsed_without_torch() -> None:
    code = "import sys, vita.server.api, vita.server.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("field", ["prompt", "prompts", "bias", "messages", "unknown", "turns", "parts"])
def test_an_invalid_body_takes_memory_in_proportion_to_its_length(field: str) -> None:
    """A body is parsed up to its first mistake; a list of all mistakes would take many times the memory of the body."""

    def memory(count: int) -> float:
        turns = [{"role": ("user", "assistant")[index % 2], "content": ""} for index in range(min(count, 4000))]
        model, body = {
            "prompt": (CompletionRequest, {"prompt": [-1] * count}),
            "prompts": (CompletionRequest, {"prompt": [[-1] for _ in range(count // 2)]}),
            "bias": (CompletionRequest, {"logit_bias": {f"x{index}": 1 for index in range(count // 2)}}),
            "messages": (ChatRequest, {"messages": [{"role": "nobody"}] * count}),
            "unknown": (ChatRequest, {"messages": turns, **{f"f{index}": 1 for index in range(count // 2)}}),
            "turns": (ChatRequest, {"messages": turns}),
            "parts": (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}] * 1000}]}),
        }[field]
        content = orjson.dumps({"model": "m", **body})
        tracemalloc.start()
        with contextlib.suppress(ApiError):
            parse(model, content)  # type: ignore[type-var]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak / len(content)

    assert memory(50_000) < 100, "about 25 bytes per byte; a list of all mistakes takes 300 to 600"
