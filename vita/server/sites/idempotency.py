"""Idempotency records, shared by all sites: the version that answered a request with an `Idempotency-Key`.

    claim = await records.claim(record)
    claim.earlier                      # the record of the first request with this key, None for a new one

A record contains no prompt and no completion. The completion is generated again: the seed is derived from the API key,
the idempotency key and the body, so every site computes the same seed without the ledger. The ledger adds the version
of the first response and the hash of its body.

While the ledger does not respond, a request waits for its record for at most `seconds`. For `RETRY_SECONDS` after that,
requests do not wait at all. Their records are written later if the ledger responds again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger
from vita.spine.tables import table

RETRY_SECONDS = 2.0
"""Time during which requests do not wait for the ledger, after a timeout of the ledger."""
THREADS, MAX_WAITING = 4, 64
"""Threads that write records, and the maximum number of requests that wait for them."""
BATCH = 500
"""Rows that are deleted in one transaction."""

idempotency_records = table(
    "idempotency_records", string="token key route body version model request latest site", real="at",
    json="regions", primary_key="token",
)  # fmt: skip
"""`token` identifies the API key and the idempotency key, `body` is the hash of the body; `request` is the id of the
first request, and `latest` that of its newest repetition."""


@dataclass(frozen=True)
class IdempotencyRecord:
    """The first request with an idempotency key, or a repetition of it."""

    token: str
    key: str
    """Hint of the API key; empty for a service without keys."""
    route: str
    body: str
    version: str
    model: str
    """Digest of the model of `version`."""
    request: str
    latest: str
    site: str
    at: float
    regions: list[str] | None = None
    """The regions that the request is limited to; None without a limit."""


@dataclass(frozen=True)
class IdempotencyClaim:
    """The result of a claim."""

    recorded: bool
    """False if the ledger did not respond in time."""
    earlier: IdempotencyRecord | None = None
    """The record of the first request with the same idempotency key."""


def record_token(owner: str, idempotency_key: str) -> str:
    """Return the identity of an idempotency key of one owner, an API key."""
    return hashlib.sha256(f"{owner}\0{idempotency_key}".encode()).hexdigest()


def body_hash(route: str, body: Mapping[str, Any]) -> str:
    """Return the hash of a request; equal JSON values have equal hashes."""
    return hashlib.sha256(f"{route}\0{json.dumps(body, sort_keys=True)}".encode()).hexdigest()


def derived_seed(secret: str, token: str, body: str) -> int:
    """Return the seed of a request, in [0, 2**31); only the owner of the API key can predict it."""
    digest = hmac.digest(secret.encode(), f"{token}\0{body}".encode(), "sha256")
    return int.from_bytes(digest[:4], "big") >> 1


class IdempotencyRecords:
    """The records of one ledger; `claim` is called from one event loop."""

    def __init__(self, ledger: Ledger, *, seconds: float, hours: float) -> None:
        """`seconds` limits the time that a request waits for the ledger; records are valid for `hours`."""
        self._ledger, self._seconds, self._lifetime = ledger, seconds, hours * 3600
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="idempotency")
        self._waiting, self._paused_until = 0, 0.0

    async def claim(self, record: IdempotencyRecord) -> IdempotencyClaim:
        """Store a record, or return the earlier one of the same token."""
        loop = asyncio.get_running_loop()
        if self._waiting >= MAX_WAITING:
            return IdempotencyClaim(recorded=False)
        self._waiting += 1
        storing = loop.run_in_executor(self._threads, self._store, record)
        storing.add_done_callback(self._finished)
        if loop.time() < self._paused_until:
            return IdempotencyClaim(recorded=False)
        try:
            return await asyncio.wait_for(asyncio.shield(storing), self._seconds)
        except (VitaError, TimeoutError):
            self._paused_until = loop.time() + RETRY_SECONDS
            return IdempotencyClaim(recorded=False)

    def release(self, token: str, request: str) -> None:
        """Delete the record of a request that no replica has started, so that another version can answer it.

        The caller does not wait. If the ledger does not respond, the record remains.
        """
        if self._waiting < MAX_WAITING:
            self._waiting += 1
            deleting = asyncio.get_running_loop().run_in_executor(self._threads, self._delete, token, request)
            deleting.add_done_callback(self._finished)

    def _delete(self, token: str, request: str) -> None:
        columns = idempotency_records.c
        unrepeated = (columns.token == token, columns.request == request, columns.latest == request)
        with self._ledger.transaction() as database:
            database.execute(sa.delete(idempotency_records).where(*unrepeated))

    def _finished(self, storing: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not storing.cancelled():
            storing.exception()  # a late error was handled as a timeout

    def _store(self, record: IdempotencyRecord) -> IdempotencyClaim:
        with self._ledger.transaction() as database:
            insert = postgresql.insert if database.dialect.name == "postgresql" else sqlite.insert
            statement = insert(idempotency_records).values(asdict(record))
            expired = idempotency_records.c.at < record.at - self._lifetime
            statement = statement.on_conflict_do_update(
                index_elements=["token"], set_=asdict(record), where=expired
            ).returning(idempotency_records.c.token)
            if database.execute(statement).first() is not None:
                return IdempotencyClaim(recorded=True)
            same = idempotency_records.c.token == record.token
            row = database.execute(sa.select(idempotency_records).where(same)).mappings().one()
            earlier = IdempotencyRecord(**row)
            if earlier.body == record.body:
                database.execute(sa.update(idempotency_records).where(same).values(latest=record.request))
            return IdempotencyClaim(recorded=True, earlier=earlier)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def find_record(ledger: Ledger, request: str, *, key: str) -> IdempotencyRecord | None:
    """Return the record of an API key whose first request or newest repetition has this id; None if there is none."""
    columns = idempotency_records.c
    query = sa.select(idempotency_records).where(
        sa.or_(columns.request == request, columns.latest == request), columns.key == key
    )
    with ledger.transaction() as database:
        row = database.execute(query).mappings().first()
    return IdempotencyRecord(**row) if row else None


def prune_records(ledger: Ledger, *, hours: float, now: float | None = None) -> int:
    """Delete the next expired records, at most `BATCH`; returns their number."""
    before = (time.time() if now is None else now) - hours * 3600
    tokens = sa.select(idempotency_records.c.token).where(idempotency_records.c.at < before).limit(BATCH)
    with ledger.transaction() as database:
        expired = list(database.execute(tokens).scalars())
        if expired:
            statement = sa.delete(idempotency_records).where(idempotency_records.c.token.in_(expired))
            database.execute(statement.where(idempotency_records.c.at < before))
    return len(expired)
