"""Figures of the request log agree with figures calculated by hand and are read from indexes only."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from tests.request_logs import feedback_row, request_row, write_log
from vita.monitoring.feedback_export import collect
from vita.monitoring.request_log import FIGURES, figures, quantile
from vita.spine.ledger import Ledger


def _answered_row(number: int, **values: Any) -> dict[str, Any]:
    return request_row(number, figures={"seconds": 1.0, **values}, at=100.0 + number)


def test_figures_per_version_by_hand(any_ledger: Ledger) -> None:
    request_rows = [
        _answered_row(0, completion_tokens=10, refused=False, logprob=-1.0),
        _answered_row(1, completion_tokens=20, refused=True, logprob=-2.0),
        request_row(2, status=503, figures={}, at=102.0),
        request_row(3, status=429, figures={}, at=103.0),
        request_row(4, status=502, figures={"seconds": 9.0}, at=104.0),
    ]
    feedback_rows = [
        feedback_row(0, at=200.0), feedback_row(1, value=-1.0, at=201.0),
        feedback_row(9, kind="flag", value=None, at=202.0),
    ]  # fmt: skip
    write_log(any_ledger, request_rows, feedback_rows)
    version_figures = figures(any_ledger)["cat:1"]
    assert version_figures["requests"] == 5
    assert (version_figures["error_rate"], version_figures["failure_rate"], version_figures["shed_rate"]) == (
        0.4,
        0.2,
        0.4,
    )
    assert (
        version_figures["tokens_per_second"] == 15
        and version_figures["length"] == 15
        and version_figures["refusal_rate"] == 0.5
    )
    assert version_figures["logprob"] == -1.5 and version_figures["latency_p95"] == 1.0, (
        "only answers count, not errors"
    )
    assert (
        version_figures["thumbs_up_rate"] == 0.5
        and version_figures["flags"] == 0
        and version_figures["ttft_p50"] is None
    )
    assert set(version_figures) == set(FIGURES)


def test_percentiles_use_the_nearest_rank(any_ledger: Ledger) -> None:
    values = [float(number * 7 % 101) for number in range(101)]
    rows = [_answered_row(number) | {"figures": {"seconds": value, "ttft": value / 10}}
            for number, value in enumerate(values)]  # fmt: skip
    write_log(any_ledger, rows)
    version_figures = figures(any_ledger)["cat:1"]
    assert version_figures["latency_p50"] == quantile(values, 0.5) and version_figures["latency_p95"] == quantile(
        values, 0.95
    )
    assert version_figures["ttft_p95"] == pytest.approx((quantile(values, 0.95) or 0) / 10)
    assert (quantile([3, 1, 2], 0.5), quantile([1], 0.95), quantile([], 0.5)) == (2, 1, None)


def test_versions_with_the_same_name_and_different_weights_have_separate_figures(any_ledger: Ledger) -> None:
    write_log(any_ledger, [request_row(n, version="cat:0", model=str(n) * 64) for n in range(3)])
    assert set(figures(any_ledger)) == {"cat:0 (00000000)", "cat:0 (11111111)", "cat:0 (22222222)"}


def test_replaced_feedback_counts_until_its_replacement(any_ledger: Ledger) -> None:
    feedback_rows = [
        feedback_row(0, value=1.0, at=200.0, replaced=300.0),
        feedback_row(0, value=-1.0, at=300.0, replaced=None),
    ]
    write_log(any_ledger, [_answered_row(0)], feedback_rows)
    assert figures(any_ledger, until=250.0)["cat:1"]["thumbs_up_rate"] == 1
    assert figures(any_ledger, until=350.0)["cat:1"]["thumbs_up_rate"] == 0
    assert [voice.value for voice in collect(any_ledger)] == [-1.0]


def test_monitoring_and_export_read_from_indexes_and_no_content(tmp_path: Any) -> None:
    ledger, statements = Ledger(tmp_path / "ledger.db"), list[tuple[str, Any]]()

    def record_statement(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            statements.append((statement, parameters))

    write_log(ledger, [request_row(n) for n in range(50)], [feedback_row(n) for n in range(50)])
    event.listen(sa.Engine, "before_cursor_execute", record_statement)
    try:
        figures(ledger, service="cat", since=1.0, until=2e9)
        assert all("asked, " not in statement and "answered" not in statement for statement, _ in statements)
        list(collect(ledger, service="cat", since=1.0))
    finally:
        event.remove(sa.Engine, "before_cursor_execute", record_statement)
    assert len(statements) < 12
    with ledger.transaction() as database:
        for statement, parameters in statements:
            plan = [row[-1] for row in database.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            scans = [step for step in plan if step.startswith("SCAN") and "USING COVERING INDEX" not in step]
            assert not [step for step in scans if "requests" in step or "other" in step], (statement, plan)
            if "GROUP BY requests" not in statement and "asked" in statement and "feedback" not in statement:
                assert any("COVERING INDEX ix_requests_monitored" in step for step in plan), (statement, plan)
    ledger.close()
