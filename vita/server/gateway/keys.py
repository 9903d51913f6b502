"""API keys: shown once and stored as sha256, with scopes, a rate limit and an expiry date.

    secret = create(ledger, "notebook", scopes=["chat"], requests_per_minute=60)     # vk-3f9c2a7e-...
    ring = Keyring(ledger); ring.refresh(); ring.find(secret).allows("chat")

A key consists of `vk-`, eight characters that identify it, and 256 random bits, so that it needs no slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from vita.server.sites.site import check_name
from vita.spine.config import unknown_name
from vita.spine.errors import ConfigError
from vita.spine.ledger import Ledger, events
from vita.spine.tables import table
from vita.spine.tail import Tail

SCOPES = ("chat", "completions", "embeddings", "feedback", "research", "admin")
"""Permissions of a key; `research` allows retired models that are kept for research, `admin` allows /metrics."""
USUAL_SCOPES = ("chat", "completions", "embeddings", "feedback")
CREATED, REVOKED = "key created", "key revoked"
"""Names of the events of a changed key."""

api_keys = table(
    "api_keys", string="name hint hash", real="created expires revoked", boolean="consent", json="scopes limits"
)


@dataclass(frozen=True)
class Key:
    """An API key."""

    id: int
    name: str
    hint: str
    hash: str
    scopes: tuple[str, ...]
    requests_per_minute: float | None
    consent: bool
    """Default consent of its requests to the storage of their content."""
    created: float
    expires: float | None
    revoked: float | None
    regions: tuple[str, ...] = ()
    """The only regions in which its requests may be processed; everywhere if empty."""

    def allows(self, scope: str) -> bool:
        return scope in self.scopes

    def valid(self, now: float) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)


ANONYMOUS_KEY = Key(0, "anybody", "", "", USUAL_SCOPES, None, False, 0.0, None, None)
"""The key of every client of a service that has no API keys."""


def create(
    ledger: Ledger,
    name: str,
    *,
    scopes: Sequence[str] = USUAL_SCOPES,
    requests_per_minute: float | None = None,
    consent: bool = False,
    expires: float | None = None,
    regions: Sequence[str] = (),
) -> str:
    """Create a key and return its secret, which is not stored.

    With `regions`, only sites in these regions accept its requests.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise unknown_name("keys.scope", scope, SCOPES)
    if not name.strip() or len(name) > 200:
        raise ConfigError("keys.name", expected="1 to 200 characters", got=name)
    if not scopes:
        raise ConfigError("keys.scope", "a key needs at least one scope", hint="one of " + ", ".join(SCOPES))
    if requests_per_minute is not None and not 0 < requests_per_minute < math.inf:
        raise ConfigError("keys.requests_per_minute", expected="a number above 0", got=requests_per_minute)
    if expires is not None and not expires < math.inf:
        raise ConfigError("keys.expires", expected="a date in the future", got=expires)
    hint = secrets.token_hex(4)
    secret = f"vk-{hint}-{secrets.token_urlsafe(32)}"
    limits: dict[str, Any] = {} if requests_per_minute is None else {"requests_per_minute": requests_per_minute}
    if regions:
        limits["regions"] = sorted({check_name(region, where="keys.region") for region in regions})
    row = {"name": name, "hint": hint, "hash": _sha256(secret), "scopes": sorted(set(scopes)), "limits": limits,
           "consent": consent, "created": time.time(), "expires": expires, "revoked": None}  # fmt: skip
    with ledger.transaction() as database:
        database.execute(sa.insert(api_keys).values(row))
        _log(database, CREATED, hint, name=name, scopes=row["scopes"])
    return secret


def all_keys(ledger: Ledger) -> list[Key]:
    """Return all keys, including revoked ones, oldest first."""
    with ledger.transaction() as database:
        return [_key(row) for row in database.execute(sa.select(api_keys).order_by(api_keys.c.id)).mappings()]


def revoke(ledger: Ledger, reference: str) -> Key:
    """Revoke the key with this hint (`3f9c2a7e`), or with this name when it is unique."""
    valid_keys = [key for key in all_keys(ledger) if key.revoked is None]
    matches = [key for key in valid_keys if key.hint == reference or f"vk-{key.hint}" == reference]
    matches = matches or [key for key in valid_keys if key.name == reference]
    if not matches:
        raise unknown_name("keys", reference, [key.hint for key in valid_keys] + [key.name for key in valid_keys])
    if len(matches) > 1:
        hints = ", ".join(key.hint for key in matches)
        raise ConfigError(
            "keys", f"{len(matches)} keys are called `{reference}`", hint=f"use the eight characters of one: {hints}"
        )
    with ledger.transaction() as database:
        database.execute(sa.update(api_keys).where(api_keys.c.id == matches[0].id).values(revoked=time.time()))
        _log(database, REVOKED, matches[0].hint, name=matches[0].name)
    return matches[0]


class Keyring:
    """The keys as of the last `refresh`, so that a request does not wait for the database.

    A key is read when it is created and again when it is revoked: the event log names the changed keys.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._events = Tail(events, events.c.event, events.c.subject)
        self._complete = False
        self._keys: dict[str, Key] = {}
        self._buckets: dict[str, tuple[float, float]] = {}

    def refresh(self) -> None:
        """Read and apply changes; a revoked key is refused from then on."""
        self.apply(self.read())

    def read(self) -> list[Key]:
        """Read the keys that were created or revoked since the last call; the first call reads all keys."""
        query, rows = sa.select(api_keys).order_by(api_keys.c.id), []
        with self._ledger.transaction() as database:
            if not self._complete:
                self._events.skip(database)  # first, so that a change during the next query is read again
            else:
                rows = self._events.read(database)
                changed = {row["subject"].removeprefix("key ") for row in rows if row["event"] in (CREATED, REVOKED)}
                query = query.where(api_keys.c.hint.in_(sorted(changed)))
                if not changed:
                    self._events.advance(rows)
                    return []
            keys = [_key(row) for row in database.execute(query).mappings()]
        self._events.advance(rows)
        self._complete = True
        return keys

    def apply(self, keys: Iterable[Key]) -> None:
        """Apply keys that `read` returned."""
        self._keys.update({key.hint: key for key in keys})

    @property
    def open(self) -> bool:
        """True when no key was ever created; then none is required. Revoking the last key does not open the service."""
        return not self._keys

    def find(self, secret: str, *, now: float | None = None) -> Key | None:
        """Return the valid key with this secret, or None."""
        parts = secret.split("-", 2)
        key = self._keys.get(parts[1]) if len(parts) == 3 and parts[0] == "vk" else None
        # Compare also for an unknown key, so that the response time reveals nothing.
        matches = hmac.compare_digest(_sha256(secret), key.hash if key else "0" * 64)
        return key if matches and key and key.valid(time.time() if now is None else now) else None

    def current(self, hint: str, *, now: float | None = None) -> Key | None:
        """Return the valid key with this hint; the empty hint is that of a service without keys."""
        if not hint:
            return ANONYMOUS_KEY if self.open else None
        key = self._keys.get(hint)
        return key if key and key.valid(time.time() if now is None else now) else None

    def wait(self, key: Key, *, now: float) -> float:
        """Count a request against the rate limit; returns 0.0 when it is allowed, else the seconds to wait."""
        if key.requests_per_minute is None:
            return 0.0
        rate = key.requests_per_minute / 60
        level, updated = self._buckets.get(key.hint, (max(1.0, key.requests_per_minute), now))
        level = min(max(1.0, key.requests_per_minute), level + (now - updated) * rate)
        allowed = level >= 1
        self._buckets[key.hint] = (level - 1 if allowed else level, now)
        return 0.0 if allowed else (1 - level) / rate


def _log(database: sa.Connection, event: str, hint: str, **data: Any) -> None:
    """Append to the event log in the transaction of the change, so that no change is missed."""
    row = {"at": time.time(), "event": event, "subject": f"key {hint}", "data": data}
    database.execute(sa.insert(events).values(row))


def _key(row: Any) -> Key:
    values = dict(row)
    limits = values.pop("limits")
    scopes = tuple(values.pop("scopes"))
    regions = tuple(limits.get("regions", ()))
    return Key(**values, scopes=scopes, requests_per_minute=limits.get("requests_per_minute"), regions=regions)


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
