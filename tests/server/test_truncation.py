"""A dialogue longer than the context, over HTTP: refused as OpenAI does, or cut by `truncation: "auto"`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.server.serving import serving, tiny_app, tiny_engine


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving(tiny_app(tiny_engine(context=256))) as url, httpx.Client(base_url=url, timeout=60) as opened:
        yield opened


def _dialogue(turns: int) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": "Be kind."}]
    for number in range(turns):
        messages += [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "an answer"}]
    return [*messages, {"role": "user", "content": "the last question"}]


def _chat(client: httpx.Client, messages: list[dict[str, str]], **more: object) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": "cat", "messages": messages, "max_tokens": 16, **more})


def test_a_dialogue_that_does_not_fit_is_refused_unless_truncation_is_asked_for(client: httpx.Client) -> None:
    for more in ({}, {"truncation": "disabled"}):
        refused = _chat(client, _dialogue(30), **more)
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"
    wrong = _chat(client, _dialogue(1), truncation="always")
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "truncation"


def test_automatic_truncation_drops_whole_turns_and_says_how_many_messages(client: httpx.Client) -> None:
    answered = _chat(client, _dialogue(30), truncation="auto", temperature=0).json()
    dropped = answered["dropped_messages"]
    assert dropped % 2 == 0 and 0 < dropped < 60
    assert answered["usage"]["prompt_tokens"] <= 256 - 16
    rest = [_dialogue(30)[0], *_dialogue(30)[1 + dropped :]]
    assert rest[1]["role"] == "user"
    same = _chat(client, rest, temperature=0).json()
    assert same["choices"][0]["message"] == answered["choices"][0]["message"], "the system message and the rest stay"
    assert "dropped_messages" not in same


def test_a_dialogue_that_fits_is_answered_alike_with_truncation(client: httpx.Client) -> None:
    plain = _chat(client, _dialogue(1), temperature=0).json()
    auto = _chat(client, _dialogue(1), temperature=0, truncation="auto").json()
    assert plain["choices"] == auto["choices"] and "dropped_messages" not in auto


def test_a_stream_tells_what_was_dropped_in_its_first_event(client: httpx.Client) -> None:
    lines = _chat(client, _dialogue(30), truncation="auto", stream=True).text.split("\n\n")
    first = json.loads(lines[0].removeprefix("data: "))
    assert first["dropped_messages"] > 0


@pytest.mark.parametrize("length", [400, 60_000])
def test_a_last_message_that_never_fits_is_refused(client: httpx.Client, length: int) -> None:
    messages = [*_dialogue(3)[:-1], {"role": "user", "content": "x" * length}]
    refused = _chat(client, messages, truncation="auto")
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"


def test_thousands_of_turns_are_cut_quickly(client: httpx.Client) -> None:
    answered = _chat(client, _dialogue(2000), truncation="auto")
    assert answered.status_code == 200 and answered.json()["dropped_messages"] > 3900
