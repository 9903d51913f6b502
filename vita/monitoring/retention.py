"""Retention of the request log, feedback and transient events, and their removal in small batches.

    for removed in prune(ledger, Retention()): ...      # one short transaction each: category -> number of rows

Content is removed first, the figures of a request later. Events that an audit needs (runs, approvals, state changes,
findings, erasures) are never removed. Of transient events, only superseded ones are removed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from pydantic import ConfigDict, Field

from vita.monitoring.replica_cost import replica_use
from vita.monitoring.request_log import feedback, requests
from vita.spine.config import Settings
from vita.spine.ledger import Ledger, events

BATCH = 500
"""Rows per transaction."""
PASSING = ("lived", "retested", "feedback collected")
"""Transient events: only the newest of a subject is used."""
_DAY = 86_400.0


class Retention(Settings):
    """The retention periods of the ledger."""

    model_config = ConfigDict(allow_inf_nan=False)

    content_days: float | None = Field(default=90.0, ge=0)
    """Retention of prompts, answers and feedback texts in days; no limit if absent."""
    request_days: float | None = Field(default=400.0, ge=0)
    """Retention of the figures and verdicts of a request in days; no limit if absent."""
    request_rows: int | None = Field(default=None, ge=0)
    """The maximum number of requests; the newest are kept. No limit if absent."""
    event_days: float | None = Field(default=400.0, ge=0)
    """Retention of superseded transient events in days; no limit if absent."""


def prune(ledger: Ledger, retention: Retention, *, now: float | None = None) -> Iterator[dict[str, int]]:
    """Remove outdated rows in batches, and yield the category and the number of rows of each batch."""
    moment = time.time() if now is None else now
    for what, find, change in _works(ledger, retention, moment):
        while True:
            with ledger.transaction() as database:
                numbers = list(database.execute(find.limit(BATCH)).scalars())
                if numbers:
                    change(database, numbers)
            if numbers:
                yield {what: len(numbers)}
            if len(numbers) < BATCH:
                break


def outdated(ledger: Ledger, retention: Retention, *, now: float | None = None) -> dict[str, int]:
    """Return the number of rows per category that `prune` would change now."""
    moment = time.time() if now is None else now
    row_counts: dict[str, int] = {}
    with ledger.transaction() as database:
        for category, find, _ in _works(ledger, retention, moment):
            count = sa.select(sa.func.count()).select_from(find.order_by(None).subquery())
            row_counts[category] = int(database.execute(count).scalar_one())
    return row_counts


# -- helpers


def _works(ledger: Ledger, retention: Retention, now: float) -> Iterator[tuple[str, Any, Any]]:
    """Yield (category, query for the row ids, function that changes the rows), the least valuable data first."""
    if retention.content_days is not None:
        before = now - retention.content_days * _DAY
        find = sa.select(requests.c.id).where(requests.c.has_content.is_(True), requests.c.at < before)
        yield "contents of requests", find.order_by(requests.c.at), _forget_content
        content_text = sa.cast(feedback.c.content, sa.Text)
        worded = sa.or_(content_text.like('%"better"%'), content_text.like('%"reason"%'))
        find = sa.select(feedback.c.id).where(feedback.c.at < before, worded).order_by(feedback.c.at)
        yield "words of users", find, _delete_feedback_texts
    if retention.request_days is not None:
        before = now - retention.request_days * _DAY
        yield (
            "feedback",
            sa.select(feedback.c.id).where(feedback.c.at < before).order_by(feedback.c.at),
            _deletion(feedback),
        )
        yield (
            "requests",
            sa.select(requests.c.id).where(requests.c.at < before).order_by(requests.c.at),
            _deletion(requests),
        )
        yield (
            "replica time",
            sa.select(replica_use.c.id).where(replica_use.c.until < before).order_by(replica_use.c.until),
            _deletion(replica_use),
        )
    if retention.request_rows is not None:
        with ledger.transaction() as database:
            newest = database.execute(sa.select(sa.func.max(requests.c.id))).scalar() or 0
        find = sa.select(requests.c.id).where(requests.c.id <= newest - retention.request_rows).order_by(requests.c.id)
        yield "requests over the number", find, _deletion(requests)
    if retention.event_days is not None:
        before, newer = now - retention.event_days * _DAY, events.alias("newer")
        again = sa.exists().where(newer.c.subject == events.c.subject, newer.c.event == events.c.event,
                                  newer.c.id > events.c.id)  # fmt: skip
        find = sa.select(events.c.id).where(events.c.event.in_(PASSING), events.c.at < before, again)
        yield "events", find, _deletion(events)


def _deletion(table: sa.Table) -> Any:
    def delete(database: sa.Connection, numbers: list[int]) -> None:
        database.execute(sa.delete(table).where(table.c.id.in_(numbers)))

    return delete


def _forget_content(database: sa.Connection, numbers: list[int]) -> None:
    empty = {"asked": {}, "answered": {}, "has_content": False}
    database.execute(sa.update(requests).where(requests.c.id.in_(numbers)).values(empty))


def _delete_feedback_texts(database: sa.Connection, numbers: list[int]) -> None:
    """Delete the texts of feedback; the verdict and the other request of a vote are kept."""
    query = sa.select(feedback.c.id, feedback.c.content).where(feedback.c.id.in_(numbers))
    for number, content in list(database.execute(query)):
        remaining = {name: value for name, value in content.items() if name == "rejected_request_id"}
        database.execute(sa.update(feedback).where(feedback.c.id == number).values(content=remaining))
