"""Erasures: documents that must not be read again, by id and by content.

    add_erasure(ledger, document="mail/7", source=None, contents=["9f..."], by_id=True, who="Ada", reason="asked",
                unaffected=[])
    applying(ledger, base_key)      # the erasures that a run with this key must honour

An erasure is part of the key of every run that reads sources, so that results made with the document are no longer
known answers. `unaffected` lists the keys of earlier runs that were looked through and did not hold the document: they
stay known. Contents are hashes; the text is not kept.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from vita.spine.ledger import Ledger
from vita.spine.store import canonical_json

_table = sa.Table(
    "erasures",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.String) for name in ("document", "source")),
    sa.Column("contents", sa.JSON),
    sa.Column("by_id", sa.Boolean),
    *(sa.Column(name, sa.String) for name in ("who", "reason")),
    sa.Column("unaffected", sa.JSON),
    sa.Column("at", sa.Float),
)


@dataclass(frozen=True, slots=True)
class Erasure:
    """A document that must not be read again."""

    id: int
    document: str
    source: str | None
    """Only documents of this source have the id; None for any source."""
    contents: tuple[str, ...]
    """Hashes of its content: copies under other ids go, too."""
    by_id: bool
    """Whether the id alone means the document; False where other documents have it as well."""
    who: str
    reason: str
    at: float


def add_erasure(
    ledger: Ledger,
    *,
    document: str,
    source: str | None,
    contents: Iterable[str],
    by_id: bool,
    who: str,
    reason: str,
    unaffected: Iterable[str],
) -> int:
    """Write an erasure into the ledger; returns its number."""
    row = {"document": document, "source": source, "contents": sorted(contents), "by_id": by_id, "who": who,
           "reason": reason, "unaffected": sorted(unaffected), "at": time.time()}  # fmt: skip
    with ledger.transaction() as database:
        return database.execute(sa.insert(_table).values(row).returning(_table.c.id)).scalar_one()


def applying(ledger: Ledger, base_key: str) -> tuple[Erasure, ...]:
    """The erasures that a run must honour whose key without erasures is `base_key`, oldest first."""
    with ledger.transaction() as database:
        rows = list(database.execute(sa.select(_table).order_by(_table.c.id)).mappings())
    return tuple(
        Erasure(row["id"], row["document"], row["source"], tuple(row["contents"]), row["by_id"], row["who"],
                row["reason"], row["at"])
        for row in rows
        if base_key not in row["unaffected"]
    )  # fmt: skip


def key_with(base_key: str, erasures: Sequence[Erasure]) -> str:
    """The key of a run that honours these erasures."""
    if not erasures:
        return base_key
    listing = [[one.document, one.source, list(one.contents), one.by_id] for one in erasures]
    return hashlib.sha256(canonical_json({"base": base_key, "erasures": listing})).hexdigest()
