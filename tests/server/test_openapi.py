"""Both servers publish a valid OpenAPI document that lists exactly the routes they have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette import routing
from starlette.applications import Starlette

from tests.server.fakes import FakeReplica, Network, routes_to
from tests.server.serving import serving, tiny_app
from vita.server.gateway.app import gateway_app
from vita.server.gateway.gateway import Gateway
from vita.server.routes import MODEL_ROUTES, STATUS_ROUTES
from vita.server.settings import ServiceSettings
from vita.spine.ledger import Ledger


@pytest.fixture(params=["gateway", "replica"])
def app(request: pytest.FixtureRequest, ledger: Ledger) -> Starlette:
    if request.param == "replica":
        return tiny_app()
    client = httpx.AsyncClient(transport=Network(FakeReplica("a")))
    return gateway_app(Gateway(routes_to(FakeReplica("a")), ledger, ServiceSettings(), client=client))


@pytest.fixture
def url(app: Starlette) -> Iterator[str]:
    with serving(app) as url:
        yield url


@pytest.fixture
def document(url: str) -> dict[str, Any]:
    return httpx.get(f"{url}/openapi.json").json()


def operations_of(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, item in document["paths"].items() for method in item}


def test_the_published_document_is_valid_openapi(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] for operation in operations)


def test_the_document_lists_exactly_the_routes_of_the_application(app: Starlette, document: dict[str, Any]) -> None:
    routes = [route for route in app.routes if isinstance(route, routing.Route)]
    assert len(routes) == len(app.routes), "the application has only plain routes, no mounts"
    application_operations = {
        (method, re.sub(r":\w+\}", "}", route.path))
        for route in routes
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert operations_of(document) == application_operations
    assert {(route.method, route.template) for route in (*MODEL_ROUTES, *STATUS_ROUTES)} <= application_operations


def test_every_listed_operation_exists_and_every_other_method_is_refused(url: str, document: dict[str, Any]) -> None:
    operations = operations_of(document)
    paths = {path for _, path in operations}
    with httpx.Client(base_url=url, timeout=30) as http:
        for path in sorted(paths):
            for method in ("GET", "POST", "PUT", "DELETE"):
                answer = http.request(method, path.replace("{id}", "cat"))
                listed = (method, path) in operations
                assert (answer.status_code != 405) == listed, (method, path, answer.text)
                assert listed or answer.json()["error"]["code"] == "method_not_allowed"
                assert answer.headers["x-request-id"]
        assert http.get("/docs").json()["error"]["code"] == "unknown_url"


def test_both_documents_describe_the_shared_routes_with_the_same_schemas(ledger: Ledger) -> None:
    client = httpx.AsyncClient(transport=Network(FakeReplica("a")))
    gateway = gateway_app(Gateway(routes_to(FakeReplica("a")), ledger, ServiceSettings(), client=client))
    documents = []
    for app in (gateway, tiny_app()):
        with serving(app) as url:
            documents.append(httpx.get(f"{url}/openapi.json").json())
    for route in MODEL_ROUTES:
        bodies = [document["paths"][route.template][route.method.lower()].get("requestBody") for document in documents]
        assert bodies[0] == bodies[1]
        assert (bodies[0] is None) == (route.request is None)
        if route.request is not None:
            schemas = [document["components"]["schemas"][route.request.__name__] for document in documents]
            assert schemas[0] == schemas[1]


def test_an_unexpected_exception_is_a_500_with_the_id_of_its_request(
    app: Starlette, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("vita.server.gateway.gateway.Gateway.ready", fail)
    monkeypatch.setattr("vita.server.replica.app.ReplicaRoutes.check_model", fail)
    with serving(app) as url, httpx.Client(base_url=url) as http:
        answers = [http.get("/ready"), http.get("/v1/models/cat")]
        (error_response,) = [answer for answer in answers if answer.status_code != 200]
        assert (error_response.status_code, error_response.json()["error"]["code"]) == (500, "internal_error")
        assert "secret" not in error_response.text and error_response.headers["x-request-id"] in caplog.text
        assert http.get("/health").status_code == 200
