"""A dialogue longer than the context over HTTP is refused as by OpenAI, or truncated with `truncation: "auto"`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.server.serving import serving, tiny_app, tiny_engine


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving(tiny_app(tiny_engine(context=256))) as url, httpx.Client(base_url=url, timeout=60) as http_client:
        yield http_client


def _dialogue(turns: int) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": "Be kind."}]
    for number in range(turns):
        messages += [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "an answer"}]
    return [*messages, {"role": "user", "content": "the last question"}]


def _chat(client: httpx.Client, messages: list[dict[str, str]], **options: object) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": "cat", "messages": messages, "max_tokens": 16, **options})


def test_a_dialogue_that_does_not_fit_is_refused_without_truncation(client: httpx.Client) -> None:
    for options in ({}, {"truncation": "disabled"}):
        response = _chat(client, _dialogue(30), **options)
        assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"
    invalid_response = _chat(client, _dialogue(1), truncation="always")
    assert invalid_response.status_code == 400 and invalid_response.json()["error"]["param"] == "truncation"


def test_automatic_truncation_drops_whole_turns_and_reports_the_number_of_messages(client: httpx.Client) -> None:
    truncated_answer = _chat(client, _dialogue(30), truncation="auto", temperature=0).json()
    dropped_count = truncated_answer["dropped_messages"]
    assert dropped_count % 2 == 0 and 0 < dropped_count < 60
    assert truncated_answer["usage"]["prompt_tokens"] <= 256 - 16
    remaining = [_dialogue(30)[0], *_dialogue(30)[1 + dropped_count :]]
    assert remaining[1]["role"] == "user"
    expected_answer = _chat(client, remaining, temperature=0).json()
    assert expected_answer["choices"][0]["message"] == truncated_answer["choices"][0]["message"], (
        "the system message and the later turns remain"
    )
    assert "dropped_messages" not in expected_answer


def test_truncation_does_not_change_the_answer_to_a_dialogue_that_fits(client: httpx.Client) -> None:
    plain_answer = _chat(client, _dialogue(1), temperature=0).json()
    auto_answer = _chat(client, _dialogue(1), temperature=0, truncation="auto").json()
    assert plain_answer["choices"] == auto_answer["choices"] and "dropped_messages" not in auto_answer


def test_the_first_event_of_a_stream_reports_the_dropped_messages(client: httpx.Client) -> None:
    lines = _chat(client, _dialogue(30), truncation="auto", stream=True).text.split("\n\n")
    first_event = json.loads(lines[0].removeprefix("data: "))
    assert first_event["dropped_messages"] > 0


@pytest.mark.parametrize("length", [400, 60_000])
def test_a_last_message_that_never_fits_is_refused(client: httpx.Client, length: int) -> None:
    messages = [*_dialogue(3)[:-1], {"role": "user", "content": "x" * length}]
    response = _chat(client, messages, truncation="auto")
    assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"


def test_thousands_of_turns_are_truncated(client: httpx.Client) -> None:
    response = _chat(client, _dialogue(2000), truncation="auto")
    assert response.status_code == 200 and response.json()["dropped_messages"] > 3900
