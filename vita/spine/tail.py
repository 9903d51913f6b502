"""Reads an append-only table from where the last read ended, so that a watcher pays for new rows alone.

    tail = Tail(table)
    rows = tail.read(database); tail.advance(rows)        # everything, then only what was added since

On PostgreSQL a transaction may commit after another one that took a later id. Ids that were skipped are therefore
asked for again for `PATIENCE_SECONDS`; after that they count as rolled back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

PATIENCE_SECONDS = 300.0
"""How long a skipped id may still appear: longer than any transaction that appends takes."""
LATE_IDS = 64
"""How many of the newest ids are checked for skipped ones at the first read."""
MOST_SKIPPED = 1000
"""How many skipped ids are asked for at a time, the newest."""


class Tail:
    """The rows of a table with an increasing integer `id`, each given until it is marked as read."""

    def __init__(self, table: sa.Table, *columns: sa.Column[Any], clock: Callable[[], float] = time.monotonic) -> None:
        """`columns` are read besides `id`; all of them when none is named."""
        self._id = table.c.id
        self._columns = [self._id, *columns] if columns else list(table.c)
        self._clock = clock
        self._last: int | None = None
        self._skipped: dict[int, float] = {}

    def skip(self, database: sa.Connection) -> None:
        """Leave out all rows that the table has now."""
        self.advance(database.execute(sa.select(self._id).order_by(self._id.desc()).limit(LATE_IDS)).mappings().all())

    def read(self, database: sa.Connection, *, limit: int | None = None) -> Sequence[sa.RowMapping]:
        """The rows that were added since the last `advance`, in the order of their ids; at most `limit`."""
        query = sa.select(*self._columns).order_by(self._id).limit(limit)
        if self._last is not None:
            late = sorted(self._skipped)[-MOST_SKIPPED:]
            new = self._id > self._last
            query = query.where(sa.or_(new, self._id.in_(late)) if late else new)
        return database.execute(query).mappings().all()

    def advance(self, rows: Sequence[sa.RowMapping]) -> None:
        """Mark rows as read; until then `read` gives them again, so that a failure in between loses none."""
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
