"""Requests made from the OpenAPI document, right ones and wrong ones, never find a fault of the server's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.server.serving import tiny_app

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

OPERATIONS = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/embeddings", "POST"),
    ("/tokenize", "POST"),
    ("/detokenize", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{model}", "GET"),
    ("/tokenizer_info", "GET"),
    ("/health", "GET"),
    ("/ready", "GET"),
    ("/metrics", "GET"),
]


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_request_finds_a_fault(path: str, method: str, mode: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    app = tiny_app()
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    (name,) = [one for one in schema if one.split(":")[0].rstrip("}") == path.rstrip("}")]
    operation = schema[name][method]
    if mode == "NEGATIVE" and method == "GET":
        pytest.skip("takes no body that could be wrong")
    statuses = set()

    @seed(0)
    @settings(
        max_examples=25, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
    def ask(case: Any) -> None:
        if isinstance(case.body, dict) and mode == "POSITIVE" and "model" in case.body:
            case.body["model"] = "cat"
        answer = case.call()
        statuses.add(answer.status_code)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    ask()
    app.state.replica.scheduler.close()
    assert statuses
