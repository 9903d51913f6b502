"""Traces reach a real OTLP receiver with the names of the GenAI conventions, and never delay or fail a request."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.fakes import FakeReplica
from tests.server.gateways import CHAT, service
from tests.server.otlp_receiver import ReceivedSpan, Receiver, otlp_receiver
from tests.server.serving import serving, tiny_app
from vita.server.replica.traced_requests import TracedRequests
from vita.server.tracing import Attribute, open_tracing
from vita.spine.ledger import Ledger

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLIENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with otlp_receiver() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield running


def _send(ledger: Ledger, *replicas: FakeReplica, body: dict | None = None, headers: dict | None = None, **settings):
    """Send one chat request and return (its response, the seconds it took)."""

    async def run() -> tuple[httpx.Response, float]:
        async with service(ledger, *replicas, **settings) as (_, client):
            start = time.monotonic()
            response = await client.post("/v1/chat/completions", json={**CHAT, **(body or {})}, headers=headers)
            return response, time.monotonic() - start

    return asyncio.run(asyncio.wait_for(run(), 30))


def _by_kind(spans: list[ReceivedSpan], kind: str) -> list[ReceivedSpan]:
    return [span for span in spans if span.kind == kind]


def test_a_request_is_a_span_with_the_attributes_of_the_genai_conventions(ledger: Ledger, receiver: Receiver) -> None:
    body = {"temperature": 0.5, "max_tokens": 9, "stop": ["x"], "seed": 3, "n": 1}
    response, _ = _send(ledger, FakeReplica("a"), body=body, headers=CLIENT)
    assert response.status_code == 200
    attempt, request = sorted(receiver.wait_for(2), key=lambda span: span.kind)
    assert (request.name, request.kind, request.service) == ("chat", "server", "cat")
    assert (request.trace, request.parent) == (TRACE, PARENT), "the trace of the client continues"
    assert (attempt.kind, attempt.trace, attempt.parent) == ("client", TRACE, request.id)
    assert attempt.attributes == {"vita.replica": "a", "http.response.status_code": 200}
    expected = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "vita", "gen_ai.request.model": "cat",
        "gen_ai.request.temperature": 0.5, "gen_ai.request.max_tokens": 9,
        "gen_ai.request.seed": 3, "gen_ai.request.choice.count": 1, "gen_ai.response.model": "cat:1",
        "gen_ai.response.id": "chatcmpl-1", "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 8, "http.route": "/v1/chat/completions",
        "http.response.status_code": 200, "vita.request.id": response.headers["x-request-id"],
        "vita.service": "cat", "vita.model.digest": "a" * 64, "vita.replica": "a", "vita.response.refused": False,
    }  # fmt: skip
    assert request.attributes == expected
    assert set(expected) <= set(Attribute)


def test_each_attempt_is_a_span_and_failures_are_marked(ledger: Ledger, receiver: Receiver) -> None:
    broken, works = FakeReplica("a", break_points=[0]), FakeReplica("b")
    assert _send(ledger, broken, works)[0].status_code == 200
    attempts = _by_kind(receiver.wait_for(3), "client")
    assert sorted(span.attributes["vita.replica"] for span in attempts) == ["a", "b"]
    failed = next(span for span in attempts if span.attributes["vita.replica"] == "a")
    assert failed.is_error and failed.attributes["error.type"] == "ReadError"


def test_a_stream_is_one_span_until_its_end(ledger: Ledger, receiver: Receiver) -> None:
    assert _send(ledger, FakeReplica("a"), body={"stream": True})[0].status_code == 200
    (request,) = _by_kind(receiver.wait_for(2), "server")
    assert request.attributes["gen_ai.usage.output_tokens"] == 8 and request.attributes["vita.time_to_first_byte"] > 0


@pytest.mark.parametrize(
    ("consent", "content", "exported"), [("yes", True, True), ("no", True, False), ("yes", False, False)]
)
def test_content_is_exported_only_by_choice_with_consent_and_redacted(
    ledger: Ledger, receiver: Receiver, consent: str, content: bool, exported: bool
) -> None:
    body = {"messages": [{"role": "user", "content": "I am ann@example.org"}]}
    _send(ledger, FakeReplica("a"), body=body, headers={"X-Vita-Consent": consent}, trace_content=content)
    (request,) = _by_kind(receiver.wait_for(2), "server")
    assert "ann@example.org" not in str(request.attributes)
    assert ("gen_ai.input.messages" in request.attributes) == exported
    if exported:
        (message,) = json.loads(request.attributes["gen_ai.input.messages"])
        assert message == {"role": "user", "parts": [{"type": "text", "content": "I am [email]"}]}
        (answer,) = json.loads(request.attributes["gen_ai.output.messages"])
        assert answer["role"] == "assistant" and answer["parts"][0]["content"]


@pytest.mark.parametrize(
    "problem", ["refused", "error", *(pytest.param(name, marks=pytest.mark.slow) for name in ("slow", "closed"))]
)
def test_a_collector_that_fails_delays_no_request(
    ledger: Ledger, receiver: Receiver, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.status = {"refused": 404, "error": 503}.get(problem, 200)
    receiver.seconds = 3.0 if problem == "slow" else 0.0
    if problem == "closed":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    response, seconds = _send(ledger, FakeReplica("a"))
    assert response.status_code == 200 and seconds < 2


def test_a_replica_continues_the_trace_of_its_caller(receiver: Receiver) -> None:
    tracing = open_tracing("m")
    body = {"model": "cat", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
    with serving(TracedRequests(tiny_app(), tracing)) as url:
        httpx.get(f"{url}/ready", trust_env=False)
        assert httpx.post(f"{url}/v1/chat/completions", json=body, headers=CLIENT, trust_env=False).status_code == 200
    tracing.close()
    (span,) = receiver.wait_for(1)
    assert (span.trace, span.parent, span.kind, span.events) == (TRACE, PARENT, "server", ["first byte"])
    assert span.attributes["http.response.status_code"] == 200


def test_without_an_endpoint_nothing_is_recorded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not open_tracing("cat").is_on
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    assert not open_tracing("cat").is_on
    assert _send(ledger, FakeReplica("a"), headers=CLIENT)[0].status_code == 200


def test_the_names_of_the_conventions_are_in_one_file() -> None:
    files = [path for path in Path("vita").rglob("*.py") if '"gen_ai.' in path.read_text()]
    assert [path.name for path in files] == ["tracing.py"]
    assert not [path for path in Path("vita").rglob("*.py") if "_incubating" in path.read_text()]
