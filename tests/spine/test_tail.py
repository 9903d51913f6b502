"""A table tail gives each row once, including rows whose transaction commits late."""

from __future__ import annotations

import sqlalchemy as sa

from vita.spine.ledger import Ledger, names
from vita.spine.tail import PATIENCE_SECONDS, Tail


def insert_names(database: sa.Connection, *labels: str) -> None:
    database.execute(sa.insert(names), [{"name": label, "artifact": "a", "at": 1.0} for label in labels])


def read_names(ledger: Ledger, tail: Tail, **options: int) -> list[str]:
    with ledger.transaction() as database:
        rows = tail.read(database, **options)
    tail.advance(rows)
    return [row["name"] for row in rows]


def test_a_tail_gives_each_added_row_once(any_ledger: Ledger) -> None:
    tail = Tail(names, names.c.name)
    assert read_names(any_ledger, tail) == []
    with any_ledger.transaction() as database:
        insert_names(database, "one", "two", "three")
    assert read_names(any_ledger, tail, limit=2) == ["one", "two"]
    assert read_names(any_ledger, tail, limit=2) == ["three"] and read_names(any_ledger, tail) == []
    with any_ledger.transaction() as database:
        insert_names(database, "four")
        later_tail = Tail(names, names.c.name)
        later_tail.skip(database)
        assert [row["name"] for row in tail.read(database)] == ["four"]  # not marked as read, so the row is given again
    assert read_names(any_ledger, tail) == ["four"] and read_names(any_ledger, later_tail) == []


def test_a_row_whose_transaction_commits_after_a_later_one_is_not_missed(any_ledger: Ledger) -> None:
    """Rows are written by id as a slow transaction on PostgreSQL would: ids 2 and 3 appear after 4."""
    clock_seconds = [0.0]
    tail = Tail(names, names.c.name, clock=lambda: clock_seconds[0])

    def write(number: int) -> None:
        with any_ledger.transaction() as database:
            database.execute(sa.insert(names).values(id=number, name=f"n{number}", artifact="a", at=1.0))

    write(1)
    assert read_names(any_ledger, tail) == ["n1"]
    write(4)
    assert read_names(any_ledger, tail) == ["n4"]
    write(2)
    assert read_names(any_ledger, tail) == ["n2"] and read_names(any_ledger, tail) == []
    clock_seconds[0] = PATIENCE_SECONDS + 1
    assert read_names(any_ledger, tail) == []  # from now on id 3 counts as rolled back
    write(3)
    assert read_names(any_ledger, tail) == []
