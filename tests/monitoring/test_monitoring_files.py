"""`vita monitor --write` writes rules that promtool accepts, and queries over metrics that a service exports."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import yaml

from tests.cli.test_cli import Vita, vita
from tests.monitoring.grafana_schema import Dashboard
from tests.monitoring.prometheus import metrics_of_exposition, metrics_of_query, promtool
from vita.monitoring.grafana_dashboard import dashboard_queries
from vita.server.gateway.telemetry import Telemetry
from vita.server.replica.metrics import Metrics

__all__ = ["vita"]


def _write(vita: Vita, *options: str) -> Path:
    code, out, err = vita("monitor", "cat", "--write", "files", *options)
    assert code == 0, err
    assert "wrote files/rules.yml" in out
    return Path("files")


def _queries(folder: Path) -> tuple[list[str], set[str]]:
    """Return all expressions of the rules and of the dashboard, and the names of the recording rules."""
    rules = [rule for group in yaml.safe_load((folder / "rules.yml").read_text())["groups"] for rule in group["rules"]]
    expressions = [rule["expr"] for rule in rules]
    expressions += dashboard_queries(json.loads((folder / "dashboard.json").read_text()))
    return expressions, {rule["record"] for rule in rules if "record" in rule}


def test_every_query_reads_metrics_that_a_service_exports(vita: Vita) -> None:
    expressions, recorded = _queries(_write(vita))
    telemetry, replica = Telemetry(), Metrics(model="cat", version="cat:1").render().decode()
    exported = metrics_of_exposition(telemetry.render({"r1": replica}).decode())
    assert len(expressions) > 50 and len(recorded) > 15
    unknown = {name for query in expressions for name in metrics_of_query(query)} - exported - recorded - {"up"}
    assert not unknown


def test_the_rules_and_the_configuration_pass_promtool(vita: Vita) -> None:
    folder = _write(vita)
    promtool("check", "rules", folder / "rules.yml")
    promtool("check", "config", folder / "prometheus.yml")
    vita("keys", "create", "prometheus", "--scope", "admin")
    folder = _write(vita, "--target", "host:9000")
    (folder / "metrics.key").write_text("key")
    promtool("check", "config", folder / "prometheus.yml")
    job = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"][0]
    assert job["static_configs"] == [{"targets": ["host:9000"]}] and "authorization" in job


def _series(name: str, values: str, **labels: str) -> dict[str, str]:
    text = ", ".join(f'{label}="{value}"' for label, value in {"job": "cat", **labels}.items())
    return {"series": f"{name}{{{text}}}", "values": values}


def _alert_test(name: str, at: str, *alerts: dict[str, Any]) -> dict[str, Any]:
    return {"eval_time": at, "alertname": name, "exp_alerts": list(alerts)}


def test_the_rules_compute_the_figures_and_fire_only_beyond_their_limits(vita: Vita) -> None:
    folder = _write(vita)
    chat = {"route": "/v1/chat/completions", "version": "cat:1"}
    requests = "vita_gateway_requests_total"
    version = {"version": "cat:1"}
    series = [
        _series(requests, "0+57x30", status="200", **chat),
        _series(requests, "0+3x30", status="502", **chat),
        _series(requests, "0+60x30", status="200", route="/v1/models", version="none"),
        _series(requests, "0+10x30", status="429", route="/v1/chat/completions", version="none"),
        _series("vita_gateway_request_seconds_count", "0+57x30", **version),
        _series("vita_gateway_request_seconds_sum", "0+114x30", **version),
        _series("vita_gateway_prompt_tokens_total", "0+600x90", **version),
        _series("vita_gateway_completion_tokens_total", "0+400x90", **version),
        _series("vita_gateway_cost_total", "0+0.05x90", **version),
        _series("vita_gateway_lost_total", "_x9 1x30", reason="died"),
        _series("vita_gateway_replica_up", "1x30", replica="r1", **version),
        _series("up", "1x30"),
    ]
    values = {"vita:failure_rate": 0.05, "vita:shed_rate": 0.0, "vita:cost_per_1000_tokens": 0.05,
              "vita:tokens_per_second": 400 / 114}  # fmt: skip
    expected = [
        {"expr": f'abs({name}{{version="cat:1"}} - {value}) < bool 1e-9', "eval_time": "20m",
         "exp_samples": [{"labels": '{job="cat", version="cat:1"}', "value": 1}]}
        for name, value in values.items()
    ]  # fmt: skip
    failing = {
        "exp_labels": {"severity": "page", **version, "job": "cat"},
        "exp_annotations": {"summary": "failure_rate of cat:1 is 0.05, above 0.01"},
    }
    lost = {"exp_labels": {"severity": "page", "job": "cat"},
            "exp_annotations": {"summary": "1 accepted requests failed"}}  # fmt: skip
    rejected = {
        "exp_labels": {"severity": "warn", "version": "none", "job": "cat"},
        "exp_annotations": {"summary": "shed_rate of none is 1, above 0.05"},
    }
    alerts = [
        _alert_test("failures", "20m", failing), _alert_test("failures", "2m"),
        _alert_test("rejections", "20m", rejected),
        _alert_test("accepted requests lost", "11m", lost), _alert_test("accepted requests lost", "20m"),
        _alert_test("no replica ready", "20m"), _alert_test("service down", "20m"), _alert_test("slow", "20m"),
    ]  # fmt: skip
    test = {"interval": "1m", "input_series": series, "promql_expr_test": expected, "alert_rule_test": alerts}
    none = {"exp_labels": {"severity": "page", "job": "cat"}, "exp_annotations": {"summary": "no replica is ready"}}
    removed = [_series("vita_gateway_replica_up", "1x5 stale", replica="r1", **version), _series("up", "1x30")]
    outage_alerts = [_alert_test("no replica ready", "4m"), _alert_test("no replica ready", "20m", none)]
    outage = {"interval": "1m", "input_series": removed, "alert_rule_test": outage_alerts}
    (folder / "test.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "30s", "tests": [test, outage]})
    )
    promtool("test", "rules", folder / "test.yml")


def test_a_file_of_alert_rules_becomes_alerts_of_prometheus(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(
        'alerts:\n  - {name: rude, figure: refusal_rate, above: 0.5, for: 5 min, version: "cat:2", at_least: 20}\n'
    )
    folder = _write(vita, "--alerts", "alerts.yaml")
    promtool("check", "rules", folder / "rules.yml")
    groups = yaml.safe_load((folder / "rules.yml").read_text())["groups"]
    alerts = {rule["alert"]: rule for rule in groups[1]["rules"]}
    assert "slow" not in alerts and alerts["rude"]["for"] == "300s"
    assert 'vita:refusal_rate{job="cat", version="cat:2"} > 0.5' in alerts["rude"]["expr"]
    (tmp_path / "alerts.yaml").write_text("alerts: [{name: odd, figure: logprob, below: -3}]")
    code, _, err = vita("monitor", "cat", "--write", "files", "--alerts", "alerts.yaml")
    assert code == 2 and "`logprob` has no metric in Prometheus" in err


def test_the_dashboard_follows_the_model_of_grafana(vita: Vita) -> None:
    document = (_write(vita) / "dashboard.json").read_text()
    board = Dashboard.model_validate_json(document)
    assert len({panel.id for panel in board.panels}) == len(board.panels)
    boxes = [panel.grid_pos for panel in board.panels]
    assert all(box.x + box.w <= 24 for box in boxes)
    assert not any(
        a.x < b.x + b.w and b.x < a.x + a.w and a.y < b.y + b.h and b.y < a.y + a.h
        for a, b in itertools.combinations(boxes, 2)
    ), "panels overlap"


def test_a_service_that_does_not_run_must_be_named(vita: Vita) -> None:
    code, _, err = vita("monitor", "--write", "files")
    assert code == 2 and "no service runs with this store" in err and "vita monitor NAME --write FOLDER" in err
    code, _, err = vita("monitor", "--target", "host:1")
    assert code == 2 and "--write" in err
