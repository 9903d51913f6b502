"""A tail of a table gives each row once, also those whose transaction commits late."""

from __future__ import annotations

import sqlalchemy as sa

from vita.spine.ledger import Ledger, names
from vita.spine.tail import PATIENCE_SECONDS, Tail


def put(database: sa.Connection, *labels: str) -> None:
    database.execute(sa.insert(names), [{"name": label, "artifact": "a", "at": 1.0} for label in labels])


def read(ledger: Ledger, tail: Tail, **how: int) -> list[str]:
    with ledger.transaction() as database:
        rows = tail.read(database, **how)
    tail.advance(rows)
    return [row["name"] for row in rows]


def test_a_tail_gives_what_was_added_since_and_only_that(any_ledger: Ledger) -> None:
    tail = Tail(names, names.c.name)
    assert read(any_ledger, tail) == []
    with any_ledger.transaction() as database:
        put(database, "one", "two", "three")
    assert read(any_ledger, tail, limit=2) == ["one", "two"]
    assert read(any_ledger, tail, limit=2) == ["three"] and read(any_ledger, tail) == []
    with any_ledger.transaction() as database:
        put(database, "four")
        later = Tail(names, names.c.name)
        later.skip(database)
        assert [row["name"] for row in tail.read(database)] == ["four"]  # not marked as read: it comes again
    assert read(any_ledger, tail) == ["four"] and read(any_ledger, later) == []


def test_a_row_whose_transaction_commits_after_a_later_one_is_not_missed(any_ledger: Ledger) -> None:
    """Written by id, as a slow transaction on PostgreSQL leaves them: ids 2 and 3 appear after 4."""
    now = [0.0]
    tail = Tail(names, names.c.name, clock=lambda: now[0])

    def write(number: int) -> None:
        with any_ledger.transaction() as database:
            database.execute(sa.insert(names).values(id=number, name=f"n{number}", artifact="a", at=1.0))

    write(1)
    assert read(any_ledger, tail) == ["n1"]
    write(4)
    assert read(any_ledger, tail) == ["n4"]
    write(2)
    assert read(any_ledger, tail) == ["n2"] and read(any_ledger, tail) == []
    now[0] = PATIENCE_SECONDS + 1
    assert read(any_ledger, tail) == []  # from now on id 3 counts as rolled back
    write(3)
    assert read(any_ledger, tail) == []
