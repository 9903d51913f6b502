"""Incremental reads of an append-only table: each read returns only the rows that were added since the last one.

    tail = Tail(table)
    rows = tail.read(database); tail.advance(rows)        # all rows, then only new rows

On PostgreSQL a transaction may commit after another one with a later id. Skipped ids are therefore queried again for
`PATIENCE_SECONDS`; after that they count as rolled back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

PATIENCE_SECONDS = 300.0
"""Time during which a skipped id may still appear: longer than any transaction that appends rows."""
LATE_IDS = 64
"""Number of the newest ids that the first read checks for skipped ids."""
MOST_SKIPPED = 1000
"""Maximum number of skipped ids per query, the newest."""


class Tail:
    """A reader of a table with an increasing integer `id`; a row is returned until it is marked as read."""

    def __init__(self, table: sa.Table, *columns: sa.Column[Any], clock: Callable[[], float] = time.monotonic) -> None:
        """Read `columns` in addition to `id`, or all columns if none is named."""
        self._id = table.c.id
        self._columns = [self._id, *columns] if columns else list(table.c)
        self._clock = clock
        self._last: int | None = None
        self._skipped: dict[int, float] = {}

    def skip(self, database: sa.Connection) -> None:
        """Mark all current rows of the table as read."""
        self.advance(database.execute(sa.select(self._id).order_by(self._id.desc()).limit(LATE_IDS)).mappings().all())

    def read(self, database: sa.Connection, *, limit: int | None = None) -> Sequence[sa.RowMapping]:
        """Return the rows that were added since the last `advance`, ordered by id; at most `limit`."""
        query = sa.select(*self._columns).order_by(self._id).limit(limit)
        if self._last is not None:
            skipped_ids = sorted(self._skipped)[-MOST_SKIPPED:]
            new = self._id > self._last
            query = query.where(sa.or_(new, self._id.in_(skipped_ids)) if skipped_ids else new)
        return database.execute(query).mappings().all()

    def advance(self, rows: Sequence[sa.RowMapping]) -> None:
        """Mark rows as read; until then `read` returns them again, so that a failure loses no rows."""
        ids, now = [row["id"] for row in rows], self._clock()
        for number in ids:
            self._skipped.pop(number, None)
        newest = max(ids, default=0)
        if self._last is None:
            first = max(1, newest - LATE_IDS)
        else:
            first = max(self._last + 1, newest - MOST_SKIPPED)
        present = set(ids)
        self._skipped |= {number: now for number in range(first, newest) if number not in present}
        self._skipped = {number: since for number, since in self._skipped.items() if now - since < PATIENCE_SECONDS}
        self._last = max(self._last or 0, newest)
