"""Outages of an endpoint of the backend `openai`, through the gateway and a replica, and the recovery after them."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.server.backends.test_remote_replica import golden, program_at
from tests.server.serving import DIGEST, serving, tiny_app, tiny_engine
from vita.infer.engine import Engine
from vita.server.backends import programs, remote_scheduler
from vita.server.gateway.app import gateway_app
from vita.server.gateway.gateway import Gateway
from vita.server.gateway.routing import Backend, Router, ServedVersion
from vita.server.replica.app import create_app
from vita.server.replica.request_checks import ServedModel
from vita.server.settings import ServiceSettings
from vita.spine.ledger import Ledger

CHAT: dict[str, Any] = {
    "model": "cat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6, "seed": 3, "temperature": 0,
}  # fmt: skip
TOKEN = {"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0}]}}


@dataclass
class FaultyEndpoint:
    """An endpoint that computes answers, or sends a fault instead."""

    app: ASGIApp
    fault: Response | float | None = None
    """A response, or a number of seconds without a response."""
    num_faulty: int | None = None
    """Number of requests that get the fault; all if it is None."""
    num_requests: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_answer = scope["type"] == "http" and scope["path"].endswith(("/completions", "/embeddings"))
        self.num_requests += is_answer
        is_faulty = self.num_faulty is None or self.num_requests <= self.num_faulty
        if not is_answer or self.fault is None or not is_faulty:
            await self.app(scope, receive, send)
        elif isinstance(self.fault, Response):
            await self.fault(scope, receive, send)
        else:
            await asyncio.sleep(self.fault)


@dataclass
class Chain:
    """A gateway, a replica and an endpoint."""

    url: str
    endpoint: FaultyEndpoint
    backend: Backend
    endpoint_client: httpx.AsyncClient
    """The client of the replica for the endpoint."""

    def ask(self, **fields: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/chat/completions", json={**CHAT, **fields}, timeout=30, trust_env=False)

    def recovers(self) -> bool:
        """Return True if requests are answered after the endpoint has returned, without a restart."""
        self.endpoint.fault = None
        return self.ask().status_code == 200


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine(context=256)


@contextmanager
def chain(engine: Engine, folder: Path, *, port: int, serves_endpoint: bool = True) -> Iterator[Chain]:
    """Run all three; the readiness of the replica is probed as the supervisor of a service probes it."""
    endpoint = FaultyEndpoint(tiny_app(engine, rows=4, queue=16))
    with program_at(f"http://127.0.0.1:{port}", engine) as scheduler:
        replica = create_app(scheduler, ServedModel(names=("cat",), version="cat:1", digest=DIGEST))
        with serving(replica) as replica_url, gateway(replica_url, folder) as (url, backend):
            served = Chain(url, endpoint, backend, scheduler.client.http)
            if not serves_endpoint:
                scheduler.run_until_closed(scheduler.program.watch_endpoint(golden(engine, "a")))
                yield served
                return
            with serving(endpoint, port=port):
                yield served


@contextmanager
def gateway(replica_url: str, folder: Path) -> Iterator[tuple[str, Backend]]:
    """Serve a gateway in front of a replica whose readiness is probed."""
    router, backend = Router("cat"), Backend("replica", replica_url, ready=True)
    router.add(ServedVersion("cat:1", "a" * 64, "a" * 64, name="cat", created=1.0, share=1.0, backends=[backend]))
    ledger = Ledger(folder / "ledger.db")
    core = Gateway(router, ledger, ServiceSettings(patience=0.2, patience_again=0.3))

    async def probe() -> None:
        while True:
            answer = await core.client.get(f"{replica_url}/ready")
            backend.ready, backend.reason = answer.status_code == 200, answer.text
            router.wake()
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(probe())
        yield
        task.cancel()
        await core.close()

    app = gateway_app(core)
    app.router.lifespan_context = lifespan
    with serving(app) as url:
        yield url, backend
    ledger.close()


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_scheduler, "EXIT_SECONDS", 0.02)
    monkeypatch.setattr(programs, "PROBE_SECONDS", 0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with chain(engine, tmp_path_factory.mktemp("service"), port=free_port()) as served:
        yield served


def events(*values: Any, end: str = "") -> Response:
    content = "".join(f"data: {json.dumps(value)}\n\n" for value in values) + end
    return Response(content, media_type="text/event-stream")


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        (Response('{"error": {"message": "oom"}}', 500), 500, "the program fails with status 500: oom"),
        (Response(status_code=204), 500, "the program fails with status 204"),
        (Response("<html>", 503), 503, "The backend of the model is not available: status 503: <html>"),
        (Response("", 503, {"Retry-After": "99"}), 503, "not available: status 503"),
        (0.3, 503, "not available: ReadTimeout"),
        (events({"error": {"message": "oom"}}), 500, "the program reports: oom"),
        *((Response('{"error": "x"}', status), 500, f"with status {status}: x; check `url`") for status in (401, 404)),
        (Response("", 302, {"Location": "/login"}), 500, "with status 302"),
        (Response('{"choices": []}', media_type="application/json"), 500, 'without events: {"choices": []}'),
        (Response("\n<html>login</html>", media_type="text/html"), 500, "without events: <html>login</html>"),
        (events(), 500, "without events"),
        (events(end="data: [DONE]\n\n"), 500, "ends without a `finish_reason`"),
        (events({"choices": []}, end="data: [DONE]\n\n"), 500, "ends without a `finish_reason`"),
    ],
)
def test_a_fault_of_the_endpoint_is_a_defined_error_and_the_next_request_is_answered(
    served: Chain, fault: Any, status: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in (False, True):
        served.endpoint.fault, served.endpoint.num_requests = fault, 0
        with monkeypatch.context() as settings:
            if isinstance(fault, float):
                settings.setattr(served.endpoint_client, "timeout", httpx.Timeout(0.2))
            response = served.ask(stream=stream)
        error = response.json()["error"]
        assert response.status_code == status and message in error["message"]
        assert not error["message"].rstrip().endswith(":"), "an error without a text is named by its type alone"
        assert error["code"] == ("internal_error" if status == 500 else "backend_unavailable")
        is_repeated = isinstance(fault, Response) and fault.status_code == 503 and "retry-after" not in fault.headers
        assert served.endpoint.num_requests == (2 if is_repeated else 1)
        retry_after = fault.headers.get("retry-after", "2") if isinstance(fault, Response) else "2"
        assert response.headers.get("retry-after") == (retry_after if status == 503 else None)
        assert served.backend.ready, "another request can have an answer"
        assert served.recovers()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_answered_after_a_short_outage(served: Chain, stream: bool) -> None:
    fault = Response("busy", 503, {"Retry-After": "0"})
    served.endpoint.fault, served.endpoint.num_faulty, served.endpoint.num_requests = fault, 1, 0
    try:
        assert served.ask(stream=stream).status_code == 200
    finally:
        served.endpoint.num_faulty = None
    assert served.endpoint.num_requests == 2


def test_a_response_of_another_form_is_a_defined_error(served: Chain) -> None:
    faults = {
        "is not JSON": [events(end="data: {x\n\n")],
        "is not a JSON object": [events([1])],
        "of another form than its API states": [
            events({"choices": choices})
            for choices in (
                "x", [None], [{"text": "a", "logprobs": 5}], [{"text": "a", "logprobs": {"tokens": [1]}}],
                [{"text": "a", "logprobs": {"content": [{"bytes": [300]}]}}],
                [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1], "top_logprobs": [7]}}],
                {}, 0, [TOKEN, {**TOKEN, "index": 1}], [{**TOKEN, "index": 1}], [{**TOKEN, "index": False}],
                [{**TOKEN, "text": 5}], *([{**TOKEN, "finish_reason": reason}] for reason in (0, True, ["stop"], {})),
                *(
                    [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": values}}]
                    for values in (["-1"], [True], [[]], [-1, -1], -1)
                ),
                [{"text": "a", "logprobs": {"tokens": ["a"], "top_logprobs": [{"a": "x"}]}}],
                *(
                    [{"text": "a", "logprobs": {"content": [entry]}}]
                    for entry in (
                        {}, {"id": True}, {"id": -1}, {"id": 1.0}, {"id": "1"}, {"token": 5}, {"bytes": "a"},
                        {"id": 97, "logprob": "-1"}, {"id": 97, "top_logprobs": [{"id": False}]},
                    )
                ),
            )
        ],
        "which the model does not have": [
            events({"choices": [{"text": "a", "logprobs": {"content": [entry]}}]})
            for entry in ({"id": 10**9}, {"id": 97, "top_logprobs": [{"id": 10**9}]})
        ],
        "the unknown reason 'abort'": [events({"choices": [{**TOKEN, "finish_reason": "abort"}]})],
    }  # fmt: skip
    for message, responses in faults.items():
        for served.endpoint.fault in responses:
            response = served.ask(logprobs=True, top_logprobs=1)
            assert response.status_code == 500 and message in response.json()["error"]["message"]
    assert served.recovers()


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("eos", "stop"), ("length", "length"), ("content_filter", "content_filter")],
)
def test_the_reason_for_the_end_of_an_answer_is_that_of_the_endpoint(served: Chain, reason: str, finish: str) -> None:
    served.endpoint.fault = events({"choices": [TOKEN]}, {"choices": [{"text": "", "finish_reason": reason}]})
    for stream in (False, True):
        assert f'"finish_reason":"{finish}"' in served.ask(stream=stream).text.replace(" ", "")


def test_an_embedding_of_another_form_is_a_defined_error(served: Chain) -> None:
    for row in ({"embedding": ["1"]}, {"embedding": [True]}, {"embedding": []}, {"embedding": [1], "index": 1}, {}):
        served.endpoint.fault = Response(json.dumps({"data": [row]}))
        body = {"model": "cat", "input": "a"}
        response = httpx.post(f"{served.url}/v1/embeddings", json=body, timeout=30, trust_env=False)
        assert response.status_code == 500 and "of another form than its API states" in response.text


def test_a_stream_of_the_endpoint_that_breaks_ends_with_an_error_event(served: Chain) -> None:
    for end, message in (("", "ends without a `finish_reason`"), ("data: {x\n\n", "is not JSON")):
        served.endpoint.fault, served.endpoint.num_requests = events({"choices": [TOKEN]}, end=end), 0
        lines = [line for line in served.ask(stream=True).text.split("\n\n") if line]
        assert lines[-1].startswith('data: {"error":') and "[DONE]" not in lines and message in lines[-1]
        complete = served.ask()
        assert complete.status_code == 500 and message in complete.text and served.endpoint.num_requests == 2


def test_an_answer_whose_connection_breaks_is_not_repeated(served: Chain) -> None:
    content = f"data: {json.dumps({'choices': [TOKEN]})}\n\n"
    served.endpoint.fault = Response(content, headers={"Content-Length": str(len(content) + 9)})
    served.endpoint.num_requests = 0
    lines = [line for line in served.ask(stream=True).text.split("\n\n") if line]
    assert lines[-1].startswith('data: {"error":') and "backend_unavailable" in lines[-1]
    complete = served.ask()
    assert complete.status_code == 503 and "backend_unavailable" in complete.text
    # The client sees the end of the connection as a close or as a reset, whichever packet arrives first.
    assert "RemoteProtocolError" in complete.text or "ReadError" in complete.text
    assert served.endpoint.num_requests == 2
    assert served.recovers()


@pytest.mark.slow
def test_a_service_is_ready_again_when_its_endpoint_returns_and_has_given_the_golden_answers(
    engine: Engine, tmp_path: Path
) -> None:
    port = free_port()
    with chain(engine, tmp_path, port=port, serves_endpoint=False) as served:
        refused = served.ask()
        assert refused.status_code == 503 and "All connection attempts failed" in refused.text
        served.endpoint.fault = events({"choices": "x"})
        with serving(served.endpoint, port=port):
            wait_until(lambda: "another form than its API" in served.backend.reason)
            served.endpoint.fault = None
            wait_until(lambda: served.backend.ready)
            assert served.ask().status_code == 200
            served.endpoint.fault = Response('{"error": "no such model"}', 404)
            assert served.ask().status_code == 500
            wait_until(lambda: "status 404: no such model" in served.backend.reason)
            served.endpoint.fault = None
            wait_until(lambda: served.backend.ready)
        wait_until(lambda: not served.backend.ready)
        error = served.ask().json()["error"]
        assert error["code"] == "not_ready" and "All connection attempts failed" in error["message"]


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
