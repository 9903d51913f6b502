"""Measures the time of the replicas of each version, for the cost of tokens.

The ledger receives one row per version and hour; a failed write is repeated with the next one.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from vita.monitoring.replica_cost import replica_use
from vita.server.gateway.routing import Router
from vita.server.gateway.telemetry import Telemetry
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger

ROW_SECONDS = 3600.0
"""Maximum time of one row."""


@dataclass
class _Row:
    """The replica time of one version since `began`, and the id of its row in the ledger."""

    version: str
    model: str
    began: float
    until: float
    seconds: float = 0.0
    number: int | None = None


class ReplicaUse:
    """The replica time of one service."""

    def __init__(self, router: Router, telemetry: Telemetry, ledger: Ledger, *, price: float | None) -> None:
        """`price` is that of one replica for one hour."""
        self._router, self._telemetry, self._ledger, self._price = router, telemetry, ledger, price
        self._rows: dict[str, _Row] = {}
        self._full: list[_Row] = []
        self._last: float | None = None

    def measure(self, now: float) -> None:
        """Count the time since the last call for every replica that belongs to the service now."""
        passed = 0.0 if self._last is None else max(0.0, now - self._last)
        start, self._last = now - passed, now
        for version in list(self._router.versions.values()):
            seconds = passed * len(version.backends)
            self._telemetry.replica_seconds.labels(version.id).inc(seconds)
            if self._price is not None:
                self._telemetry.cost.labels(version.id).inc(seconds / 3600 * self._price)
            row = self._rows.get(version.id)
            if row is None or row.model != version.model or now - row.began > ROW_SECONDS:
                if row is not None:
                    self._full.append(row)
                row = self._rows[version.id] = _Row(version.id, version.model, start, now)
            row.seconds += seconds
            row.until = now

    def write(self) -> None:
        """Write all rows; rows that cannot be written now are written with the next call."""
        rows = [*self._full, *self._rows.values()]
        try:
            with self._ledger.transaction() as database:
                numbers = [self._write_row(database, row) for row in rows]
        except VitaError:
            return
        for row, number in zip(rows, numbers, strict=True):
            row.number = number
        self._full = [row for row in self._full if row not in rows]

    def _write_row(self, database: sa.Connection, row: _Row) -> int:
        """Insert or update a row; returns its id."""
        values = {"until": row.until, "seconds": row.seconds}
        if row.number is not None:
            database.execute(sa.update(replica_use).where(replica_use.c.id == row.number).values(values))
            return row.number
        values |= {"began": row.began, "price": self._price}
        identity = {"service": self._router.service, "version": row.version, "model": row.model}
        inserted = sa.insert(replica_use).values(**identity, **values).returning(replica_use.c.id)
        return int(database.execute(inserted).scalar_one())
