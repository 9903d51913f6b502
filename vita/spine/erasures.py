"""Erasures: records that must not be read again: a document, by id and by content, a source or a licence.

    add_erasure(ledger, document="mail/7", source=None, licence=None, contents=["9f..."], by_id=True, who="Ada",
                reason="asked", unaffected=[])
    active_erasures(ledger, base_key)      # the erasures that a run with this key must apply
    withdraw_erasure(ledger, 1, who="Ada", reason="the wrong id")

An erasure is part of the key of every run that reads sources, so that cached results that used the document are not
reused. `unaffected` lists the keys of earlier runs that were searched and do not contain the document: their results
stay valid. Contents are hashes; the text is not stored. A withdrawn erasure is inactive, and stays in the ledger.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import RowMapping

from vita.spine.errors import GateError
from vita.spine.ledger import Ledger, add_event
from vita.spine.store import canonical_json
from vita.spine.tables import table
from vita.spine.url_secrets import mask_reference_secrets

NOT_STATED = "not stated"
"""The name of the licence of records without a licence."""

_table = table(
    "erasures",
    string="document source licence who reason withdrawn_by withdrawn_why",
    real="at withdrawn_at",
    boolean="by_id",
    json="contents unaffected",
)


def licence_key(licence: str | None) -> str:
    """Return a form of a licence that is equal for equal licences: without case, repeated spaces and secrets of URLs.

    Curation masks the secrets of a licence that is a URL; an erasure can name it as it is in the data.
    """
    return " ".join(mask_reference_secrets(licence or NOT_STATED).split()).casefold()


@lru_cache(maxsize=1024)
def source_key(source: str) -> str:
    """Return the name of a source without the secrets of URLs, as curation records it."""
    return mask_reference_secrets(source)


def is_source(named: str | None, source: str) -> bool:
    """Return True if a request names this source, as it is in the data or without its secrets; None names each one."""
    return named is None or named == source or source_key(named) == source_key(source)


@dataclass(frozen=True, slots=True)
class Erasure:
    """A document that must not be read again, or all records of a source or a licence."""

    id: int
    document: str | None
    """The id of the document; None for all records of `source` and `licence`."""
    source: str | None
    """Only records of this source; None for any source."""
    licence: str | None
    """Only records with this licence; None for any licence."""
    contents: tuple[str, ...]
    """Hashes of its content: copies under other ids are erased, too."""
    by_id: bool
    """True if the id alone identifies the document; False if other documents share it."""
    who: str
    reason: str
    at: float
    withdrawn_at: float | None = None
    withdrawn_by: str | None = None
    withdrawn_why: str | None = None

    @property
    def label(self) -> str:
        """The erased records, for messages: `mail/7`, or `source mail`."""
        if self.document is not None:
            return self.document
        parts = [f"source {self.source}" if self.source else "", f"licence {self.licence}" if self.licence else ""]
        return ", ".join(part for part in parts if part)

    def covers(self, ids: Iterable[str], *, source: str, licence: str | None, content: str | None) -> bool:
        """Return True if a record with these ids and this content must not be read."""
        if content is not None and content in self.contents:
            return True
        if not is_source(self.source, source):
            return False
        if self.licence is not None and licence_key(self.licence) != licence_key(licence):
            return False
        return self.document is None or (self.by_id and self.document in ids)


def add_erasure(
    ledger: Ledger,
    *,
    document: str | None,
    source: str | None,
    licence: str | None,
    contents: Iterable[str],
    by_id: bool,
    who: str,
    reason: str,
    unaffected: Iterable[str],
) -> int:
    """Write an erasure to the ledger; return its number."""
    row = {
        "document": document,
        "source": source,
        "licence": licence,
        "contents": sorted(contents),
        "by_id": by_id,
        "who": who,
        "reason": reason,
        "unaffected": sorted(unaffected),
        "at": time.time(),
    }
    with ledger.transaction() as database:
        return database.execute(sa.insert(_table).values(row).returning(_table.c.id)).scalar_one()


def active_erasures(ledger: Ledger, base_key: str) -> tuple[Erasure, ...]:
    """Return the erasures for a run whose key without erasures is `base_key`, oldest first."""
    return tuple(
        _erasure(row) for row in _rows(ledger) if row["withdrawn_at"] is None and base_key not in row["unaffected"]
    )


def erasures_in_force(ledger: Ledger) -> tuple[Erasure, ...]:
    """Return the erasures that were not withdrawn, for commands that read sources without a run."""
    return tuple(erasure for erasure in all_erasures(ledger) if erasure.withdrawn_at is None)


def all_erasures(ledger: Ledger) -> tuple[Erasure, ...]:
    """Return all erasures, oldest first, including withdrawn ones."""
    return tuple(map(_erasure, _rows(ledger)))


def withdraw_erasure(ledger: Ledger, number: int, *, who: str, reason: str) -> Erasure:
    """Withdraw an erasure, so that later runs read its document again; return the updated erasure."""
    values = {"withdrawn_at": time.time(), "withdrawn_by": who, "withdrawn_why": reason}
    is_active = sa.and_(_table.c.id == number, _table.c.withdrawn_at.is_(None))
    with ledger.transaction() as database:
        if database.execute(sa.update(_table).where(is_active).values(values)).rowcount:
            add_event(database, "erasure withdrawn", str(number), who=who, why=reason)
    erasure = next((erasure for erasure in all_erasures(ledger) if erasure.id == number), None)
    if erasure is None:
        raise GateError(f"erasure {number}", "not found", hint="`vita erasures` lists them")
    if (erasure.withdrawn_at, erasure.withdrawn_by) != (values["withdrawn_at"], who):
        raise GateError(f"erasure {number}", f"was already withdrawn by {erasure.withdrawn_by}")
    return erasure


def copy_erasures(source: Ledger, target: Ledger) -> None:
    """Replace the erasures of a ledger with those of another, so that runs recorded there exclude the same records."""
    rows = [dict(row) for row in _rows(source)]
    with target.transaction() as database:
        database.execute(sa.delete(_table))
        if rows:
            database.execute(sa.insert(_table), rows)


def _rows(ledger: Ledger) -> list[RowMapping]:
    with ledger.transaction() as database:
        return list(database.execute(sa.select(_table).order_by(_table.c.id)).mappings())


def _erasure(row: RowMapping) -> Erasure:
    values: dict[str, Any] = {field.name: row[field.name] for field in fields(Erasure)}
    return Erasure(**{**values, "contents": tuple(row["contents"])})


def key_with(base_key: str, erasures: Sequence[Erasure]) -> str:
    """Return the key of a run that applies these erasures."""
    if not erasures:
        return base_key
    listing = [
        [erasure.document, erasure.source, list(erasure.contents), erasure.by_id]
        + ([licence_key(erasure.licence)] if erasure.licence is not None else [])
        for erasure in erasures
    ]
    return hashlib.sha256(canonical_json({"base": base_key, "erasures": listing})).hexdigest()
