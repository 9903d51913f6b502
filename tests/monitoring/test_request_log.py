"""Figures of the request log: worked out by hand, and read from indexes alone."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from tests.request_logs import feedback_row, request_row, write_log
from vita.monitoring.feedback_export import collect
from vita.monitoring.request_log import FIGURES, figures, quantile
from vita.spine.ledger import Ledger


def _answered(number: int, **values: Any) -> dict[str, Any]:
    return request_row(number, figures={"seconds": 1.0, **values}, at=100.0 + number)


def test_figures_per_version_by_hand(any_ledger: Ledger) -> None:
    asked = [
        _answered(0, completion_tokens=10, refused=False, logprob=-1.0),
        _answered(1, completion_tokens=20, refused=True, logprob=-2.0),
        request_row(2, status=503, figures={}, at=102.0),
        request_row(3, status=429, figures={}, at=103.0),
        request_row(4, status=502, figures={"seconds": 9.0}, at=104.0),
    ]
    said = [
        feedback_row(0, at=200.0), feedback_row(1, value=-1.0, at=201.0),
        feedback_row(9, kind="flag", value=None, at=202.0),
    ]  # fmt: skip
    write_log(any_ledger, asked, said)
    found = figures(any_ledger)["cat:1"]
    assert found["requests"] == 5
    assert (found["error_rate"], found["failure_rate"], found["shed_rate"]) == (0.4, 0.2, 0.4)
    assert found["tokens_per_second"] == 15 and found["length"] == 15 and found["refusal_rate"] == 0.5
    assert found["logprob"] == -1.5 and found["latency_p95"] == 1.0, "only answers count, not errors"
    assert found["thumbs_up_rate"] == 0.5 and found["flags"] == 0 and found["ttft_p50"] is None
    assert set(found) == set(FIGURES)


def test_percentiles_are_those_of_the_nearest_rank(any_ledger: Ledger) -> None:
    values = [float(number * 7 % 101) for number in range(101)]
    rows = [_answered(number) | {"figures": {"seconds": value, "ttft": value / 10}}
            for number, value in enumerate(values)]  # fmt: skip
    write_log(any_ledger, rows)
    found = figures(any_ledger)["cat:1"]
    assert found["latency_p50"] == quantile(values, 0.5) and found["latency_p95"] == quantile(values, 0.95)
    assert found["ttft_p95"] == pytest.approx((quantile(values, 0.95) or 0) / 10)
    assert (quantile([3, 1, 2], 0.5), quantile([1], 0.95), quantile([], 0.5)) == (2, 1, None)


def test_versions_of_one_name_and_different_weights_are_kept_apart(any_ledger: Ledger) -> None:
    write_log(any_ledger, [request_row(n, version="cat:0", model=str(n) * 64) for n in range(3)])
    assert set(figures(any_ledger)) == {"cat:0 (00000000)", "cat:0 (11111111)", "cat:0 (22222222)"}


def test_what_was_said_before_a_change_of_mind_counts_until_then(any_ledger: Ledger) -> None:
    said = [feedback_row(0, value=1.0, at=200.0, replaced=300.0), feedback_row(0, value=-1.0, at=300.0, replaced=None)]
    write_log(any_ledger, [_answered(0)], said)
    assert figures(any_ledger, until=250.0)["cat:1"]["thumbs_up_rate"] == 1
    assert figures(any_ledger, until=350.0)["cat:1"]["thumbs_up_rate"] == 0
    assert [voice.value for voice in collect(any_ledger)] == [-1.0]


def test_monitoring_and_collecting_read_through_indexes_and_no_content(tmp_path: Any) -> None:
    ledger, statements = Ledger(tmp_path / "ledger.db"), list[tuple[str, Any]]()

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            statements.append((statement, parameters))

    write_log(ledger, [request_row(n) for n in range(50)], [feedback_row(n) for n in range(50)])
    event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        figures(ledger, service="cat", since=1.0, until=2e9)
        assert all("asked, " not in statement and "answered" not in statement for statement, _ in statements)
        list(collect(ledger, service="cat", since=1.0))
    finally:
        event.remove(sa.Engine, "before_cursor_execute", note)
    assert len(statements) < 12
    with ledger.transaction() as database:
        for statement, parameters in statements:
            plan = [row[-1] for row in database.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            scans = [step for step in plan if step.startswith("SCAN") and "USING COVERING INDEX" not in step]
            assert not [step for step in scans if "requests" in step or "other" in step], (statement, plan)
            if "GROUP BY requests" not in statement and "asked" in statement and "feedback" not in statement:
                assert any("COVERING INDEX ix_requests_monitored" in step for step in plan), (statement, plan)
    ledger.close()
