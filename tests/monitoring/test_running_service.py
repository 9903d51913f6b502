"""The monitoring of a really running service: Prometheus reads its metrics, and evaluates every rule and query."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest

from bench.drift_alarms import texts
from tests.monitoring.prometheus import metrics_of_query, prometheus, query_prometheus
from tests.server.otlp_receiver import Receiver, otlp_receiver
from tests.server.test_fleet import Fleet, fleet
from vita.monitoring.grafana_dashboard import dashboard_queries

__all__ = ["fleet"]

pytestmark = pytest.mark.slow

SILENT = {f"vita_gateway_{name}_total" for name in ("retries", "lost", "refusals", "feedback")} | {
    f"vita_gateway_{name}" for name in ("prompt_drift", "logprob_shift", "drift_p_value")
}
"""Metrics with a reason or a version that appear with the first event."""


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
            assert empty <= SILENT
            for query in queries:
                query_prometheus(client, query)
        code, out = fleet.vita("monitor", "--json")
        assert code == 0, out
        _check_trace(receiver)
    (figures,) = json.loads(out)["versions"].values()
    assert figures["prompt_tokens"] > 0
    with_cost = json.loads(fleet.vita("monitor", "x", "--json")[1])["versions"]
    assert next(iter(with_cost.values()))["cost_per_1000_tokens"] > 0, "written when the service stops"


def test_drift_fires_on_another_domain_and_not_on_the_same_one(fleet: Fleet, shared: Path) -> None:
    usual = texts(shared / "data/instruct/dolly_hhrlhf_small.jsonl.gz", "prompt", most=300, length=60)
    changed = texts(shared / "data/instruct/gsm8k_train.jsonl.gz", "question", most=100, length=60)
    (fleet.folder / "prompts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in usual[:200]))
    assert fleet.vita("adopt", "a", "--life", "x")[0] == 0
    code, out = fleet.vita("drift", "reference", "x/adopt", "--prompts", "prompts.jsonl")
    assert code == 0 and "200 prompts" in out, out
    with fleet.serving("x/adopt", "--name", "x", "--ungated", "a test", "--set", "consent=true"):
        _chat(fleet, usual[200:])
        code, out = fleet.vita("drift", "check", "x")
        assert code == 0 and "from 100 prompts" in out, out
        _chat(fleet, changed)
        code, out = fleet.vita("drift", "check", "x")
        assert code == 20 and "alert" in out, out
        (version,) = json.loads(fleet.vita("monitor", "x", "--json")[1])["versions"].values()
        assert version["drift_p_value"] < 0.01
        deadline = time.monotonic() + 30
        while "vita_gateway_drift_p_value{" not in httpx.get(f"{fleet.url}/metrics", trust_env=False).text:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def _chat(fleet: Fleet, prompts: list[str]) -> None:
    with httpx.Client(base_url=fleet.url, timeout=30, trust_env=False) as client:
        for prompt in prompts:
            body = {"model": "x", "messages": [{"role": "user", "content": prompt}], "max_tokens": 1}
            assert client.post("/v1/chat/completions", json=body).status_code == 200
