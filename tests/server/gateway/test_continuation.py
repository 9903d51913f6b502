"""A stream with reasoning and calls continues on another replica without repeats."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vita.server.gateway.continuation import Diverged, StreamContinuation


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return json.dumps({"id": "x", "created": 1, "choices": [choice]}).encode()


def call_deltas(id: str) -> list[dict[str, Any]]:
    head = {"index": 0, "id": id, "type": "function", "function": {"name": "f", "arguments": ""}}
    return [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm"},
        {"reasoning_content": ", so."},
        {"content": "I look."},
        {"tool_calls": [head]},
        *({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in ('{"a": ', '"b', 'c"}')),
    ]


@pytest.mark.parametrize("sent", range(9))
def test_each_delta_is_sent_once_over_two_replicas(sent: int) -> None:
    stream = StreamContinuation(wants_usage=False)
    first_deltas, second_deltas = call_deltas("call_a"), call_deltas("call_b")
    events = [stream.forward(event(delta)) for delta in first_deltas[:sent]]
    stream.restart()
    events += [stream.forward(event(delta)) for delta in second_deltas]
    events.append(stream.forward(event({}, "tool_calls")))
    forwarded = [json.loads(data[6:])["choices"][0] for data in events if data is not None]
    assert [choice["delta"] for choice in forwarded if choice["delta"]] == [*first_deltas[:sent], *second_deltas[sent:]]
    assert forwarded[-1]["finish_reason"] == "tool_calls"


def test_a_different_call_or_reasoning_on_the_second_replica_ends_the_stream() -> None:
    for other_delta in ({"reasoning_content": "No"}, {"tool_calls": [{"index": 0, "function": {"name": "g"}}]}):
        stream = StreamContinuation(wants_usage=False)
        for delta in call_deltas("call_a"):
            stream.forward(event(delta))
        stream.restart()
        with pytest.raises(Diverged):
            stream.forward(event(other_delta))


@pytest.mark.parametrize("length", [1, 4, 100])
@pytest.mark.parametrize("sent", range(9))
def test_a_call_continues_in_the_pieces_of_another_replica(sent: int, length: int) -> None:
    stream = StreamContinuation(wants_usage=False)
    events = [stream.forward(event(delta)) for delta in call_deltas("call_a")[:sent]]
    stream.restart()
    arguments = '{"a": "bc"}'
    pieces = [arguments[start : start + length] for start in range(0, len(arguments), length)]
    deltas = [
        *call_deltas("call_b")[:5],
        *({"tool_calls": [{"index": 0, "function": {"arguments": p}}]} for p in pieces),
    ]
    events += [stream.forward(event(delta)) for delta in deltas]
    choices = [json.loads(data[6:])["choices"][0]["delta"] for data in events if data is not None]
    calls = [call for delta in choices for call in delta.get("tool_calls", ())]
    assert [call["id"] for call in calls if "id" in call] == ["call_a" if sent > 4 else "call_b"]
    assert "".join(call["function"]["arguments"] for call in calls) == arguments
