"""The declared tables match the tables that the migrations create."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from vita.gates import approvals, decisions, people, proposals, services, weights
from vita.monitoring import drift_checks, request_log
from vita.redteam import findings
from vita.review import desk
from vita.server.gateway import keys
from vita.server.sites import idempotency
from vita.spine import erasures
from vita.spine.ledger import Ledger
from vita.spine.tables import METADATA, table

MODULES = (
    approvals,
    decisions,
    desk,
    drift_checks,
    erasures,
    findings,
    idempotency,
    keys,
    people,
    proposals,
    request_log,
    services,
    weights,
)
"""Modules that declare tables, beside the ledger."""


def test_every_declared_column_exists_with_its_type_in_a_new_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path).close()
    inspector = sa.inspect(sa.create_engine(f"sqlite:///{path}"))
    assert len(METADATA.tables) >= 24
    for name, declared_table in METADATA.tables.items():
        columns = {column["name"]: column["type"] for column in inspector.get_columns(name)}
        assert set(columns) == {column.name for column in declared_table.columns}, name
        for column in declared_table.columns:
            assert columns[column.name]._type_affinity is column.type._type_affinity, (name, column.name)
        keys_created = inspector.get_pk_constraint(name)["constrained_columns"]
        assert sorted(keys_created) == sorted(column.name for column in declared_table.primary_key), name


def test_texts_of_any_length_can_be_stored(any_ledger: Ledger) -> None:
    long = "x" * 5000
    with any_ledger.transaction() as database:
        for declared_table in METADATA.tables.values():
            texts = [column.name for column in declared_table.columns if isinstance(column.type, sa.String)]
            columns = {column["name"]: column for column in sa.inspect(database).get_columns(declared_table.name)}
            limits = {name: getattr(columns[name]["type"], "length", None) for name in texts}
            assert database.dialect.name == "sqlite" or not any(limits.values()), (declared_table.name, limits)
        row = {"gate": long, "artifact": long, "kind": long, "who": long, "reason": "", "at": 0.0}
        others = dict.fromkeys(("policy", "verdict", "key", "signature"), long)
        database.execute(sa.insert(approvals.approvals).values(row | others))


def test_a_table_has_an_integer_id_unless_it_names_another_key() -> None:
    example = table("example", string="name", big_integer="size", primary_key="name")
    METADATA.remove(example)
    assert [(column.name, column.primary_key) for column in example.columns] == [("name", True), ("size", False)]
