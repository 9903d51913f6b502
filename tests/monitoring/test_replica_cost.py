"""The cost of tokens agrees with values calculated by hand, from the measurement to the figure."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.request_logs import request_row, write_log
from tests.server.fakes import FakeReplica, routes_to
from vita.monitoring.replica_cost import replica_use
from vita.monitoring.request_log import figures
from vita.server.gateway.telemetry import Telemetry
from vita.server.service.measured_drift import export_drift
from vita.server.service.monitoring_thread import MonitoringThread
from vita.server.service.replica_use import ReplicaUse
from vita.spine.ledger import Ledger


def _row(**values: Any) -> dict[str, Any]:
    return {"service": "cat", "version": "cat:1", "model": "m" * 64, "began": 0.0, "until": 3600.0, "seconds": 7200.0,
            "price": 3.0, **values}  # fmt: skip


def test_the_cost_of_a_period_has_the_price_of_its_replica_time(any_ledger: Ledger) -> None:
    tokens = {"seconds": 1.0, "prompt_tokens": 600, "completion_tokens": 400}
    write_log(any_ledger, [request_row(number, figures=tokens, at=1800.0 + number) for number in range(2)])
    with any_ledger.transaction() as database:
        database.execute(sa.insert(replica_use), [_row(), _row(version="cat:2"), _row(service="dog")])
    version_figures = figures(any_ledger, service="cat", since=1800.0, until=3600.0)["cat:1"]
    assert (version_figures["prompt_tokens"], version_figures["completion_tokens"]) == (1200, 800)
    assert version_figures["cost"] == pytest.approx(3.0), "half of two replicas for an hour at 3 per hour"
    assert version_figures["cost_per_1000_tokens"] == pytest.approx(1.5)
    assert version_figures["cost_per_1000_completion_tokens"] == pytest.approx(3.75)


def test_without_a_price_the_cost_is_unknown(any_ledger: Ledger) -> None:
    write_log(any_ledger, [request_row(at=10.0)])
    assert figures(any_ledger)["cat:1"]["cost"] is None
    with any_ledger.transaction() as database:
        database.execute(sa.insert(replica_use), [_row(), _row(price=None)])
    assert figures(any_ledger)["cat:1"]["cost_per_1000_tokens"] is None


def test_the_time_of_replicas_is_measured_and_written_once_per_hour_and_version(any_ledger: Ledger) -> None:
    router, telemetry = routes_to(FakeReplica("a"), FakeReplica("b", down=True)), Telemetry()
    use = ReplicaUse(router, telemetry, any_ledger, price=3.6)
    for now in (100.0, 110.0, 130.0):
        use.measure(now)
        use.write()
    for now in (3690.0, 3710.0):
        use.measure(now)
    use.write()
    use.write()
    with any_ledger.transaction() as database:
        rows = [dict(row) for row in database.execute(sa.select(replica_use)).mappings()]
    assert [(row["version"], row["began"], row["until"], row["seconds"], row["price"]) for row in rows] == [
        ("cat:1", 100.0, 3690.0, 7180.0, 3.6),
        ("cat:1", 3690.0, 3710.0, 40.0, 3.6),
    ]
    exposition = telemetry.render({}).decode()
    assert 'vita_gateway_replica_seconds_total{version="cat:1"} 7220.0' in exposition
    assert float(exposition.split('vita_gateway_cost_total{version="cat:1"} ')[1].split()[0]) == pytest.approx(7.22)


def test_a_locked_ledger_delays_the_end_of_a_service_by_seconds_at_most(ledger_file: Path) -> None:
    ledger, telemetry = Ledger(ledger_file), Telemetry()
    router = routes_to(FakeReplica("a"))
    with closing(sqlite3.connect(ledger_file, isolation_level=None)) as other:
        other.execute("begin exclusive")
        use = ReplicaUse(router, telemetry, ledger, price=None)
        thread = MonitoringThread(use, partial(export_drift, telemetry, ledger, "cat"))
        start = time.monotonic()
        thread.close(seconds=0.5)
        assert time.monotonic() - start < 2
        other.execute("rollback")
    deadline = time.monotonic() + 20
    while not _rows(ledger):
        assert time.monotonic() < deadline, "the rows are written when the ledger is free again"
        time.sleep(0.05)


def _rows(ledger: Ledger) -> list[Any]:
    with ledger.transaction() as database:
        return list(database.execute(sa.select(replica_use)))


@pytest.fixture
def ledger_file(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    Ledger(path).close()
    return path
