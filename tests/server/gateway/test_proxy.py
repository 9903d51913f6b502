"""Answers survive their replicas: what is begun is finished, and what cannot be is told apart from a refusal."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.server.fakes import FakeReplica, words_of
from tests.server.gateways import CHAT, events, going, lost, service, text_of
from vita.monitoring.request_log import requests_since


@going
async def test_a_request_is_answered_with_its_id_and_version(ledger):
    async with service(ledger, FakeReplica("a")) as (gateway, client):
        answer = await client.post("/v1/chat/completions", json={**CHAT, "seed": 7})
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "".join(words_of({"seed": 7}))
        assert answer.headers["x-vita-version"] == "cat:1" and answer.headers["x-request-id"].startswith("req-")
        assert gateway.in_flight == 0 and gateway.admission.bytes_held == 0


@going
async def test_a_replica_that_dies_in_the_middle_of_an_answer_costs_nothing(ledger):
    dying, other = FakeReplica("a", dies=[0]), FakeReplica("b")
    async with service(ledger, dying, other) as (_, client):
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 200
        assert dying.asked[0]["seed"] == other.asked[0]["seed"] is not None, (
            "a seed is fixed, so that both answer alike"
        )
        assert answer.json()["choices"][0]["message"]["content"] == "".join(words_of(other.asked[0]))


@pytest.mark.slow
@pytest.mark.parametrize("per_event", [1, 3])
@pytest.mark.parametrize("dies_at", [0, 1, 4, 7])
def test_a_stream_goes_on_from_another_replica_without_a_word_twice(ledger, dies_at, per_event):
    async def run():
        dying, other = FakeReplica("a", dies=[dies_at]), FakeReplica("b", per_event=per_event)
        async with service(ledger, dying, other) as (gateway, client):
            body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
            answer = await client.post("/v1/chat/completions", json=body)
            told = events(answer.text)
            assert text_of(told) == "".join(words_of(other.asked[0]))
            assert {event["id"] for event in told} == {"chatcmpl-a"}, "one answer has one id"
            roles = [c["delta"]["role"] for e in told for c in e["choices"] if "role" in c["delta"]]
            assert roles == ["assistant"]
            entries = [e for t in told for c in t["choices"] for e in (c.get("logprobs") or {}).get("content", [])]
            assert "".join(entry["token"] for entry in entries) == text_of(told)
            assert [c["finish_reason"] for e in told for c in e["choices"] if c.get("finish_reason")] == ["stop"]
            assert told[-1]["usage"]["completion_tokens"] == 8
            assert gateway.telemetry.resumed._value.get() == 1 and gateway.in_flight == 0

    asyncio.run(run())


@going
async def test_usage_is_counted_but_shown_only_when_it_was_asked_for(ledger):
    async with service(ledger, FakeReplica("a")) as (gateway, client):
        answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        assert not [event for event in events(answer.text) if event.get("usage") or not event["choices"]]
        assert gateway.telemetry.completion_tokens.labels("cat:1")._value.get() == 8


@going
async def test_a_request_that_kills_every_replica_is_given_up(ledger):
    replicas = [FakeReplica(name, dies=[0, 0, 0]) for name in "abcd"]
    async with service(ledger, *replicas) as (_, client):
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 502 and answer.json()["error"]["code"] == "replica_failed"
        assert sum(len(replica.asked) for replica in replicas) == 3


@going
async def test_full_and_stopping_replicas_hand_a_request_on_and_all_full_is_429(ledger):
    full, stopping, free = FakeReplica("a", status=429), FakeReplica("b", status=503), FakeReplica("c")
    async with service(ledger, full, stopping, free) as (_, client):
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        free.status = 429
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1


async def _orphaned(client: httpx.AsyncClient, dying: FakeReplica, **body: Any) -> asyncio.Task[httpx.Response]:
    """A request whose replica dies while it answers, and does not come back."""
    asking = asyncio.create_task(client.post("/v1/chat/completions", json={**CHAT, **body}))
    while not dying.asked:
        await asyncio.sleep(0.01)
    dying.down = True
    await asyncio.sleep(0.4)
    return asking


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_whose_replica_died_waits_until_a_full_one_has_room_and_goes_first(ledger, stream):
    async def run():
        dying, full = FakeReplica("a", dies=[0], delay=0.2), FakeReplica("b", status=429)
        async with service(ledger, dying, full, patience_again=5.0) as (gateway, client):
            asking = await _orphaned(client, dying, stream=stream)
            asked = len(full.asked)
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 429, "a new one is refused"
            assert len(full.asked) - asked <= 1, "and takes no room from one that is owed an answer"
            full.status = None
            answer = await asking
            assert answer.status_code == 200 and not lost(gateway)
            text = text_of(events(answer.text)) if stream else answer.json()["choices"][0]["message"]["content"]
            assert text == "".join(words_of(full.asked[-1]))
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200

    asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_was_begun_and_finds_no_room_in_time_is_lost_and_not_refused(ledger, stream):
    async def run():
        dying, full = FakeReplica("a", dies=[0], delay=0.2), FakeReplica("b", status=429)
        async with service(ledger, dying, full, patience_again=0.5) as (gateway, client):
            answer = await (await _orphaned(client, dying, stream=stream))
            told = json.loads(answer.text.rpartition("data: ")[2])["error"]
            assert told["code"] == "replica_failed" and lost(gateway) == {"full": 1.0}
            assert answer.status_code == (200 if stream else 502), "the stream had begun"

    asyncio.run(asyncio.wait_for(run(), 30))


@going
async def test_a_request_that_no_replica_had_begun_is_refused_and_not_lost(ledger):
    gone, full = FakeReplica("a", down=True), FakeReplica("b", status=429)
    async with service(ledger, gone, full) as (gateway, client):
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 429
        assert not lost(gateway)


@going
async def test_an_error_in_a_stream_is_passed_on_once_and_asked_of_nobody_else(ledger):
    faulty, other = FakeReplica("a", faults=["internal_error"]), FakeReplica("b")
    async with service(ledger, faulty, other) as (gateway, client):
        answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        *parts, last = [json.loads(one.removeprefix("data: ")) for one in answer.text.split("\n\n") if one]
        assert last["error"]["code"] == "internal_error" and not [one for one in parts if "error" in one]
        assert not other.asked and lost(gateway) == {"fault": 1.0}
        assert [backend.breaker.failures for _, backend in gateway.router.backends()] == [0, 0]
        gateway.log.flush()
        assert [row["status"] for row in requests_since(ledger)] == [502]


@going
async def test_a_stream_goes_on_elsewhere_when_its_replica_says_that_it_stops(ledger):
    stopping, other = FakeReplica("a", faults=["draining"]), FakeReplica("b")
    async with service(ledger, stopping, other) as (gateway, client):
        answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        assert text_of(events(answer.text)) == "".join(words_of(other.asked[0])) and not lost(gateway)


@going
async def test_no_replica_is_503_with_retry_after_and_ready_says_so(ledger):
    async with service(ledger, FakeReplica("a", down=True)) as (_, client):
        assert (await client.get("/ready")).status_code == 200
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "2"
        assert (await client.get("/ready")).status_code == 503
        assert (await client.get("/health")).json() == {"alive": True}


@going
async def test_a_client_that_leaves_stops_the_work_streaming_or_not(ledger):
    slow = FakeReplica("a", delay=0.3)
    async with service(ledger, slow) as (gateway, client):
        for body in (CHAT, {**CHAT, "stream": True}):
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/chat/completions", json=body, timeout=0.15 if body is CHAT else 0.2)
        await asyncio.sleep(0.6)
        assert slow.cancelled == 2
        assert gateway.in_flight == 0 and gateway.router.in_flight == 0
        assert gateway.telemetry.cancelled._value.get() == 2
