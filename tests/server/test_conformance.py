"""Valid and invalid requests from the OpenAPI document find no fault in a replica or the gateway."""

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

POST_PATHS = [
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize",
    "/v1/rerank", "/rerank", "/v1/classify", "/v1/fill-mask",
]  # fmt: skip
GET_PATHS = ["/v1/models", "/v1/models/{}", "/tokenizer_info", "/health", "/ready", "/metrics", "/openapi.json"]
COMMON_OPERATIONS = [(path, "POST") for path in POST_PATHS] + [(path, "GET") for path in GET_PATHS]
REPLICA_OPERATIONS = [*COMMON_OPERATIONS, ("/adapters", "POST"), ("/adapters/remove", "POST")]
DRAIN = ("/drain", "POST")
"""After this request a replica refuses every other, so that it has tests of its own."""
TRANSLATED_PATHS = ["/v1/responses", "/v1/messages", "/v1/messages/count_tokens"]
BATCH_OPERATIONS = [
    ("/v1/files", "POST"), ("/v1/files", "GET"), ("/v1/files/{}", "GET"), ("/v1/files/{}/content", "GET"),
    ("/v1/files/{}", "DELETE"), ("/v1/batches", "POST"), ("/v1/batches", "GET"), ("/v1/batches/{}", "GET"),
    ("/v1/batches/{}/cancel", "POST"), ("/v1/messages/batches", "POST"), ("/v1/messages/batches", "GET"),
    ("/v1/messages/batches/{}", "GET"), ("/v1/messages/batches/{}", "DELETE"),
    ("/v1/messages/batches/{}/cancel", "POST"), ("/v1/messages/batches/{}/results", "GET"),
]  # fmt: skip
GATEWAY_OPERATIONS = [
    *COMMON_OPERATIONS,
    *((path, "POST") for path in (*TRANSLATED_PATHS, "/v1/feedback")),
    *BATCH_OPERATIONS,
    ("/", "GET"),
]


def with_invalid_requests(operations: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Return every operation with valid requests, and with invalid requests if it takes a body."""
    with_body = [(path, method) for path, method in operations if method == "POST" and not path.endswith("/cancel")]
    invalid = [(path, method, "NEGATIVE") for path, method in with_body]
    return [(path, method, "POSITIVE") for path, method in operations] + invalid


@contextmanager
def replica() -> Iterator[Starlette]:
    app = tiny_app()
    try:
        yield app
    finally:
        app.state.replica.scheduler.close()


@pytest.fixture(scope="module")
def replica_schema() -> Iterator[Any]:
    """Yield the OpenAPI document of a replica, whose requests are sent to it."""
    schemathesis = pytest.importorskip("schemathesis")
    with replica() as app, serving(app) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.fixture(scope="module")
def gateway_schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yield the OpenAPI document of a gateway in front of a replica, whose requests are sent to it."""
    schemathesis = pytest.importorskip("schemathesis")
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.db")
    routes = Router("cat")
    backends = [Backend("a", "http://a", ready=True)]
    routes.add(ServedVersion("cat:1", DIGEST, DIGEST, name="cat", created=1.0, share=1.0, backends=backends))
    with replica() as app:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app))
        folder = tmp_path_factory.mktemp("batches")
        gateway = Gateway(routes, ledger, ServiceSettings(), client=client, batches=folder)
        with serving(gateway_app(gateway)) as url:
            yield schemathesis.openapi.from_url(f"{url}/openapi.json")
    ledger.close()


@pytest.mark.parametrize(("path", "method", "mode"), with_invalid_requests(REPLICA_OPERATIONS))
def test_no_request_finds_a_fault_in_a_replica(replica_schema: Any, path: str, method: str, mode: str) -> None:
    check_operation(replica_schema, path, method, mode)


@pytest.mark.parametrize(("path", "method", "mode"), with_invalid_requests(GATEWAY_OPERATIONS))
def test_no_request_finds_a_fault_in_the_gateway(gateway_schema: Any, path: str, method: str, mode: str) -> None:
    check_operation(gateway_schema, path, method, mode)


def test_every_operation_of_the_documents_is_checked(replica_schema: Any, gateway_schema: Any) -> None:
    assert document_operations(replica_schema.raw_schema) == {*REPLICA_OPERATIONS, DRAIN}
    assert document_operations(gateway_schema.raw_schema) == set(GATEWAY_OPERATIONS)


def document_operations(document: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the operations of an OpenAPI document as pairs of path and method."""
    items = document["paths"].items()
    return {(without_parameter_names(path), method.upper()) for path, methods in items for method in methods}


def check_operation(schema: Any, path: str, method: str, mode: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    (name,) = [template for template in schema if without_parameter_names(template) == path]
    statuses = set()

    @seed(0)
    @settings(
        max_examples=25, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(case=schema[name][method].as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
    def check_case(case: Any) -> None:
        if isinstance(case.body, dict) and mode == "POSITIVE" and "model" in case.body:
            case.body["model"] = "cat"
        answer = case.call()
        statuses.add(answer.status_code)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            fields = {"message", "type"} if path.startswith("/v1/messages") else {"message", "type", "param", "code"}
            assert set(answer.json()["error"]) == fields

    check_case()
    assert statuses


def without_parameter_names(path: str) -> str:
    """Return a path without the names of its parameters."""
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))
