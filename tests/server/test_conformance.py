"""Requests made from the OpenAPI document, right and wrong ones, find no fault of a replica, nor of the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from starlette.applications import Starlette

from tests.server.serving import DIGEST, serving, tiny_app
from vita.server.gateway.app import gateway_app
from vita.server.gateway.gateway import Gateway
from vita.server.gateway.routing import Backend, Router, ServedVersion
from vita.server.settings import ServiceSettings
from vita.spine.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

TAKING = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"]
TELLING = ["/v1/models", "/v1/models/{}", "/tokenizer_info", "/health", "/ready", "/metrics"]
OF_REPLICA = [(path, "POST") for path in TAKING] + [(path, "GET") for path in TELLING]
OF_DOOR = [*OF_REPLICA, ("/v1/feedback", "POST"), ("/openapi.json", "GET")]


def with_wrong_ones(operations: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Every operation asked rightly, and wrongly where it takes a body."""
    wrong = [(path, method, "NEGATIVE") for path, method in operations if method == "POST"]
    return [(path, method, "POSITIVE") for path, method in operations] + wrong


@contextmanager
def replica() -> Iterator[Starlette]:
    """It is not asked after its application was shut down, so each test has its own."""
    app = tiny_app()
    try:
        yield app
    finally:
        app.state.replica.scheduler.close()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a gateway before a replica."""
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.db")
    routes = Router("cat")
    backends = [Backend("a", "http://a", ready=True)]
    routes.add(ServedVersion("cat:1", DIGEST, DIGEST, name="cat", created=1.0, share=1.0, backends=backends))
    with replica() as app:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app))
        with serving(gateway_app(Gateway(routes, ledger, ServiceSettings(), client=client))) as url:
            yield url
    ledger.close()


@pytest.mark.parametrize(("path", "method", "mode"), with_wrong_ones(OF_REPLICA))
def test_no_request_finds_a_fault_of_a_replica(path: str, method: str, mode: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    with replica() as app:
        asked(schemathesis.openapi.from_asgi("/openapi.json", app), path, method, mode)


@pytest.mark.parametrize(("path", "method", "mode"), with_wrong_ones(OF_DOOR))
def test_no_request_finds_a_fault_of_the_gateway(door: str, path: str, method: str, mode: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    asked(schemathesis.openapi.from_url(f"{door}/openapi.json"), path, method, mode)


def asked(schema: Any, path: str, method: str, mode: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    (name,) = [one for one in schema if plain(one) == path]
    statuses = set()

    @seed(0)
    @settings(
        max_examples=25, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(case=schema[name][method].as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
    def ask(case: Any) -> None:
        if isinstance(case.body, dict) and mode == "POSITIVE" and "model" in case.body:
            case.body["model"] = "cat"
        answer = case.call()
        statuses.add(answer.status_code)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    ask()
    assert statuses


def plain(path: str) -> str:
    """A path with its parameters unnamed."""
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))
