"""The monitoring of a really running service: Prometheus reads its metrics, and evaluates every rule and query."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest

from tests.monitoring.prometheus import metrics_of_query, prometheus, query_prometheus
from tests.server.otlp_receiver import Receiver, otlp_receiver
from tests.server.test_fleet import Fleet, fleet
from vita.monitoring.grafana_dashboard import dashboard_queries

__all__ = ["fleet"]

pytestmark = pytest.mark.slow

SILENT = {"vita_gateway_retries_total", "vita_gateway_lost_total", "vita_gateway_refusals_total"}
"""Counters with a reason or a version that appear with the first event."""


def _write_files(fleet: Fleet) -> Path:
    """Write the files for Prometheus, with a short interval."""
    code, out = fleet.vita("monitor", "--write", "files")
    assert code == 0, out
    folder = fleet.folder / "files"
    configuration = (folder / "prometheus.yml").read_text().replace("15s", "1s")
    (folder / "prometheus.yml").write_text(configuration)
    rules = (folder / "rules.yml").read_text().replace("interval: 30s", "interval: 1s")
    (folder / "rules.yml").write_text(rules)
    return folder


def _check_trace(receiver: Receiver) -> None:
    """Check that the spans of the gateway and of the replica process form one trace."""
    spans = {span.id: span for span in receiver.wait_for(6)}
    replica_span = next(span for span in spans.values() if "first byte" in span.events)
    attempt = spans[replica_span.parent]
    request = spans[attempt.parent]
    assert [span.kind for span in (request, attempt, replica_span)] == ["server", "client", "server"]
    assert request.name == "chat" and not request.parent and request.trace == replica_span.trace


def test_prometheus_evaluates_every_rule_and_query_over_a_running_service(fleet: Fleet) -> None:
    options = ("--name", "x", "--ungated", "a test", "--set", "price_per_replica_hour=2")
    with otlp_receiver() as receiver, fleet.serving("a", *options, "--set", f"trace_endpoint={receiver.url}/v1/traces"):
        folder = _write_files(fleet)
        with prometheus(folder) as client:
            stream = {"model": "x", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2, "stream": True}
            url = f"{fleet.url}/v1/chat/completions"
            assert httpx.post(url, json=stream, timeout=30, trust_env=False).status_code == 200
            deadline = time.monotonic() + 40
            while not query_prometheus(client, "vita:cost_per_1000_tokens > 0") and time.monotonic() < deadline:
                assert fleet.send_request() == 200
                time.sleep(1)
            (sample,) = query_prometheus(client, "vita:cost_per_1000_tokens")
            assert float(sample["value"][1]) > 0
            assert sample["metric"]["version"].startswith("x:") and sample["metric"]["job"] == "x"
            (sample,) = query_prometheus(client, 'vita:failure_rate{version!="none"}')
            assert float(sample["value"][1]) == 0
            groups = client.get("/rules").json()["data"]["groups"]
            assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}, groups
            queries = list(dashboard_queries(json.loads((folder / "dashboard.json").read_text())))
            empty = {
                name for query in queries for name in metrics_of_query(query) if not query_prometheus(client, name)
            }
            assert empty <= SILENT | {"vita_gateway_feedback_total"}
            for query in queries:
                query_prometheus(client, query)
        code, out = fleet.vita("monitor", "--json")
        assert code == 0, out
        _check_trace(receiver)
    (figures,) = json.loads(out)["versions"].values()
    assert figures["prompt_tokens"] > 0
    with_cost = json.loads(fleet.vita("monitor", "x", "--json")[1])["versions"]
    assert next(iter(with_cost.values()))["cost_per_1000_tokens"] > 0, "written when the service stops"
