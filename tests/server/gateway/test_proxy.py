"""Answers continue when their replica fails, and lost requests are counted separately from refused ones."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.server.fakes import FakeReplica, words_of
from tests.server.gateways import CHAT, async_test, events, lost_requests, service, text_of
from vita.monitoring.request_log import requests_since


@async_test
async def test_a_request_is_answered_with_its_id_and_version(ledger):
    async with service(ledger, FakeReplica("a")) as (gateway, client):
        answer = await client.post("/v1/chat/completions", json={**CHAT, "seed": 7})
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "".join(words_of({"seed": 7}))
        assert answer.headers["x-vita-version"] == "cat:1" and answer.headers["x-request-id"].startswith("req-")
        assert gateway.in_flight == 0 and gateway.admission.bytes_held == 0


@async_test
async def test_an_answer_of_a_failed_replica_comes_from_another_replica(ledger):
    failing_replica, other_replica = FakeReplica("a", break_points=[0]), FakeReplica("b")
    async with service(ledger, failing_replica, other_replica) as (_, client):
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 200
        assert failing_replica.requests[0]["seed"] == other_replica.requests[0]["seed"] is not None, (
            "the gateway sets a seed, so that both answers are equal"
        )
        assert answer.json()["choices"][0]["message"]["content"] == "".join(words_of(other_replica.requests[0]))


@pytest.mark.slow
@pytest.mark.parametrize("per_event", [1, 3])
@pytest.mark.parametrize("break_point", [0, 1, 4, 7])
def test_a_stream_continues_on_another_replica_without_repeats(ledger, break_point, per_event):
    async def run():
        failing_replica, other_replica = (
            FakeReplica("a", break_points=[break_point]),
            FakeReplica("b", per_event=per_event),
        )
        async with service(ledger, failing_replica, other_replica) as (gateway, client):
            body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
            answer = await client.post("/v1/chat/completions", json=body)
            stream_events = events(answer.text)
            assert text_of(stream_events) == "".join(words_of(other_replica.requests[0]))
            assert {event["id"] for event in stream_events} == {"chatcmpl-a"}, "one answer has one id"
            roles = [
                choice["delta"]["role"]
                for event in stream_events
                for choice in event["choices"]
                if "role" in choice["delta"]
            ]
            assert roles == ["assistant"]
            entries = [
                entry
                for event in stream_events
                for choice in event["choices"]
                for entry in (choice.get("logprobs") or {}).get("content", [])
            ]
            assert "".join(entry["token"] for entry in entries) == text_of(stream_events)
            assert [
                choice["finish_reason"]
                for event in stream_events
                for choice in event["choices"]
                if choice.get("finish_reason")
            ] == ["stop"]
            assert stream_events[-1]["usage"]["completion_tokens"] == 8
            assert gateway.telemetry.resumed._value.get() == 1 and gateway.in_flight == 0

    asyncio.run(run())


@async_test
async def test_usage_is_counted_and_sent_only_on_request(ledger):
    async with service(ledger, FakeReplica("a")) as (gateway, client):
        answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        assert not [event for event in events(answer.text) if event.get("usage") or not event["choices"]]
        assert gateway.telemetry.completion_tokens.labels("cat:1")._value.get() == 8


@async_test
async def test_a_request_that_fails_on_three_replicas_is_not_retried(ledger):
    replicas = [FakeReplica(name, break_points=[0, 0, 0]) for name in "abcd"]
    async with service(ledger, *replicas) as (_, client):
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 502 and answer.json()["error"]["code"] == "replica_failed"
        assert sum(len(replica.requests) for replica in replicas) == 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cause", ["", "The version cat:1 was retired, and the request did not finish within 30 s"])
def test_the_error_of_an_unfinished_request_names_the_cause_of_the_end_of_its_replica(ledger, cause, stream):
    async def run():
        replica = FakeReplica("a", break_points=[2], delay=0.1)
        async with service(ledger, replica, patience_again=0.1) as (gateway, client):
            response_task = asyncio.create_task(client.post("/v1/chat/completions", json={**CHAT, "stream": stream}))
            while not replica.requests:
                await asyncio.sleep(0.01)
            ((_, backend),) = gateway.router.backends()
            backend.draining, backend.stop_cause = True, cause
            answer = await response_task
            error = json.loads(answer.text.rpartition("data: ")[2])["error"]
            expected = cause or "The replica that worked on the request died"
            assert error["message"] == f"{expected}. No other replica was available in time"
            assert error["code"] == "replica_failed" and answer.status_code == (200 if stream else 502)

    asyncio.run(asyncio.wait_for(run(), 30))


@async_test
async def test_a_request_moves_past_full_and_stopping_replicas_and_gets_429_if_all_are_full(ledger):
    full_replica, stopping_replica, free_replica = (
        FakeReplica("a", status=429),
        FakeReplica("b", status=503),
        FakeReplica("c"),
    )
    async with service(ledger, full_replica, stopping_replica, free_replica) as (_, client):
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        free_replica.status = 429
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1


async def _start_request_on_failing_replica(
    client: httpx.AsyncClient, failing_replica: FakeReplica, **body: Any
) -> asyncio.Task[httpx.Response]:
    """Start a request whose replica fails during the answer and stays down."""
    response_task = asyncio.create_task(client.post("/v1/chat/completions", json={**CHAT, **body}))
    while not failing_replica.requests:
        await asyncio.sleep(0.01)
    failing_replica.down = True
    await asyncio.sleep(0.4)
    return response_task


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_of_a_failed_replica_waits_for_a_full_one_and_precedes_new_requests(ledger, stream):
    async def run():
        failing_replica, full_replica = FakeReplica("a", break_points=[0], delay=0.2), FakeReplica("b", status=429)
        async with service(ledger, failing_replica, full_replica, patience_again=5.0) as (gateway, client):
            response_task = await _start_request_on_failing_replica(client, failing_replica, stream=stream)
            request_count = len(full_replica.requests)
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 429, "a new request is refused"
            assert len(full_replica.requests) - request_count <= 1, "and takes no place from an accepted request"
            full_replica.status = None
            answer = await response_task
            assert answer.status_code == 200 and not lost_requests(gateway)
            text = text_of(events(answer.text)) if stream else answer.json()["choices"][0]["message"]["content"]
            assert text == "".join(words_of(full_replica.requests[-1]))
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200

    asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.parametrize("stream", [False, True])
def test_an_accepted_request_that_finds_no_free_replica_in_time_is_lost_and_not_refused(ledger, stream):
    async def run():
        failing_replica, full_replica = FakeReplica("a", break_points=[0], delay=0.2), FakeReplica("b", status=429)
        async with service(ledger, failing_replica, full_replica, patience_again=0.5) as (gateway, client):
            answer = await (await _start_request_on_failing_replica(client, failing_replica, stream=stream))
            error = json.loads(answer.text.rpartition("data: ")[2])["error"]
            assert error["code"] == "replica_failed" and lost_requests(gateway) == {"full": 1.0}
            assert answer.status_code == (200 if stream else 502), "the stream had begun"

    asyncio.run(asyncio.wait_for(run(), 30))


@async_test
async def test_a_request_that_no_replica_accepted_is_refused_and_not_lost(ledger):
    down_replica, full_replica = FakeReplica("a", down=True), FakeReplica("b", status=429)
    async with service(ledger, down_replica, full_replica) as (gateway, client):
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 429
        assert not lost_requests(gateway)


@async_test
async def test_an_error_in_a_stream_is_forwarded_once_and_not_retried(ledger):
    faulty_replica, other_replica = FakeReplica("a", faults=["internal_error"]), FakeReplica("b")
    async with service(ledger, faulty_replica, other_replica) as (gateway, client):
        answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        *stream_events, last_event = [
            json.loads(text.removeprefix("data: ")) for text in answer.text.split("\n\n") if text
        ]
        assert last_event["error"]["code"] == "internal_error" and not [
            event for event in stream_events if "error" in event
        ]
        assert not other_replica.requests and lost_requests(gateway) == {"fault": 1.0}
        assert [backend.breaker.failures for _, backend in gateway.router.backends()] == [0, 0]
        gateway.log.flush()
        assert [row["status"] for row in requests_since(ledger)] == [502]


@async_test
async def test_a_stream_continues_on_another_replica_when_its_replica_drains(ledger):
    draining_replica, other_replica = FakeReplica("a", faults=["draining"]), FakeReplica("b")
    async with service(ledger, draining_replica, other_replica) as (gateway, client):
        answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        assert text_of(events(answer.text)) == "".join(words_of(other_replica.requests[0])) and not lost_requests(
            gateway
        )


@async_test
async def test_without_a_replica_requests_get_503_with_retry_after_and_ready_fails(ledger):
    async with service(ledger, FakeReplica("a", down=True)) as (_, client):
        assert (await client.get("/ready")).status_code == 200
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "2"
        assert (await client.get("/ready")).status_code == 503
        assert (await client.get("/health")).json() == {"alive": True}


@async_test
async def test_a_client_that_disconnects_cancels_its_request(ledger):
    slow_replica = FakeReplica("a", delay=0.3)
    async with service(ledger, slow_replica) as (gateway, client):
        for body in (CHAT, {**CHAT, "stream": True}):
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/chat/completions", json=body, timeout=0.15 if body is CHAT else 0.2)
        await asyncio.sleep(0.6)
        assert slow_replica.cancelled == 2
        assert gateway.in_flight == 0 and gateway.router.in_flight == 0
        assert gateway.telemetry.cancelled._value.get() == 2
