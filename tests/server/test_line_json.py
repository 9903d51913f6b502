"""Texts with unusual line separators through the service, read by clients that end lines at all separators."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.server.serving import serving, tiny_app, tiny_engine
from tests.server.test_dialects import gateway_url
from vita.server.json_response import json_response
from vita.server.line_json import json_event, json_line

SEPARATORS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""The characters at which `str.splitlines` ends a line."""
TEXT = "".join(f"a{separator}" for separator in SEPARATORS) + "é–😀"
JSON_TEXT = "a\x85b\u2028c\u2029d"
HELLO: Any = [{"role": "user", "content": "Hi"}]
ONLY_TEXT: Any = {"model": "cat", "max_tokens": 100, "structured_outputs": {"choice": [TEXT]}}
SCHEMA: Any = {"const": JSON_TEXT}


@pytest.fixture(scope="module")
def replica_url() -> Iterator[str]:
    with serving(tiny_app(tiny_engine(context=256))) as url:
        yield url


@pytest.fixture(scope="module")
def url(replica_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with gateway_url(replica_url, tmp_path_factory.mktemp("service")) as url:
        yield url


def test_half_of_a_surrogate_pair_does_not_end_a_stream() -> None:
    assert json_line({"text": "a\ud800b", "line": "c\u2028d"}) == b'{"text":"a?b","line":"c\\u2028d"}'


def test_json_is_one_line_for_every_client() -> None:
    for character in map(chr, (*range(0x20), 0x7F, *range(0x80, 0x100), 0x2028, 0x2029, 0x10FFFF)):
        line = json_line({"text": character}).decode()
        assert len(line.splitlines()) == 1 and json.loads(line) == {"text": character}
    assert json_event({"a": 1}, name="ping") == b'event: ping\ndata: {"a":1}\n\n'


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {**ONLY_TEXT, "messages": HELLO}),
        ("completions", {**ONLY_TEXT, "prompt": "Hi"}),
        ("responses", {"model": "cat", "input": "Hi", "text": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
        (
            "messages",
            {"model": "cat", "messages": HELLO, "max_tokens": 100,
             "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        ),
    ],
)  # fmt: skip
def test_each_event_has_one_line_of_data(url: str, replica_url: str, path: str, body: dict[str, Any]) -> None:
    for base in (url, replica_url) if "completions" in path else (url,):
        address = f"{base}/v1/{path}"
        with httpx.stream("POST", address, json={**body, "stream": True}, trust_env=False) as response:
            lines = [line for line in response.iter_lines() if line]
        data = [line.removeprefix("data: ") for line in lines if not line.startswith("event: ")]
        events = [json.loads(line) for line in data if line != "[DONE]"]
        assert all(line.startswith(("data: ", "event: ")) for line in lines)
        text = "".join(map(_text, events))
        assert text == TEXT if "completions" in path else json.loads(text) == JSON_TEXT


def _text(event: dict[str, Any]) -> str:
    """Return the new text of an event of any of the four routes."""
    delta = event.get("delta")
    if event.get("type") == "response.output_text.delta":
        return event["delta"]
    if isinstance(delta, dict):
        return delta.get("text", "")
    choices = event.get("choices", ())
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


def test_the_clients_of_openai_and_anthropic_read_the_same_texts(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        format: Any = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}
        with client.responses.stream(model="cat", input="Hi", text=format) as responses:
            assert json.loads(responses.get_final_response().output_text) == JSON_TEXT
        options: Any = {"model": "cat", "messages": HELLO, "max_tokens": 100, "stream": True}
        chunks = client.chat.completions.create(**options, extra_body={"structured_outputs": {"choice": [TEXT]}})
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    config: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as claude:
        with claude.messages.stream(model="cat", max_tokens=100, messages=HELLO, output_config=config) as messages:
            assert json.loads(messages.get_final_text()) == JSON_TEXT


def test_responses_of_other_programs_with_half_of_a_surrogate_pair_are_sent() -> None:
    assert json_response({"content": "a\ud800"}).body == b'{"content":"a?"}'
