"""Declares the tables of the ledger: the columns of each type in one line.

    names = table("names", string="name artifact", real="at")      # and the primary key `id`

The migrations create the tables; a declaration must match them (`tests/spine/test_tables.py`).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

METADATA = sa.MetaData()
"""All declared tables."""


def table(
    name: str,
    *,
    string: str = "",
    text: str = "",
    integer: str = "",
    big_integer: str = "",
    real: str = "",
    boolean: str = "",
    json: str = "",
    primary_key: str = "id",
) -> sa.Table:
    """Declare a table from the names of its columns, separated by spaces; `id` is an integer and need not be listed."""
    types: dict[Any, str] = {
        sa.String: string,
        sa.Text: text,
        sa.Integer: f"id {integer}" if primary_key == "id" else integer,
        sa.BigInteger: big_integer,
        sa.Float: real,
        sa.Boolean: boolean,
        sa.JSON: json,
    }
    keys = primary_key.split()
    columns = [
        sa.Column(column, kind, primary_key=column in keys) for kind, names in types.items() for column in names.split()
    ]
    return sa.Table(name, METADATA, *columns)
