"""Running services, which report the models that they serve to the ledger.

    presence = ServicePresence(ledger, "cat", url)
    presence.heartbeat([{"version": "cat:1", "model": digest, "share": 1.0}])     # again every `BEAT_SECONDS`
    state_of(ledger, digest)                                                 # "serving" while such a service runs

A model is serving while a running service serves it. A killed service reports no end, so its process is checked, or on
another machine the time of its last report.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from vita.gates.model_state import model_state
from vita.spine import machine
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger, StateTransition
from vita.spine.tables import table

LOOK_SECONDS, BEAT_SECONDS, STALE_SECONDS = 0.25, 15.0, 60.0

services = table("services", string="name url place process", real="began beat ended", json="versions")


class ServicePresence:
    """The report of one running service."""

    def __init__(self, ledger: Ledger, name: str, url: str) -> None:
        self._ledger, self._name, self._url = ledger, name, url
        self._id: int | None = None

    def heartbeat(self, versions: Sequence[Mapping[str, Any]]) -> None:
        """Report the models that are served now."""
        now, rows = time.time(), [dict(version) for version in versions]
        with self._ledger.transaction() as database:
            if self._id is None:
                machine_id, process = machine.owner()
                values = {"name": self._name, "url": self._url, "place": machine_id, "process": process,
                          "versions": rows, "began": now, "beat": now}  # fmt: skip
                query = sa.insert(services).values(values).returning(services.c.id)
                self._id = int(database.execute(query).scalar_one())
            else:
                same = services.c.id == self._id
                database.execute(sa.update(services).where(same).values(versions=rows, beat=now))

    def end(self) -> None:
        """Report that the service has stopped."""
        if self._id is not None:
            with self._ledger.transaction() as database:
                same = services.c.id == self._id
                database.execute(sa.update(services).where(same).values(ended=time.time()))


class ServiceReporter:
    """A thread that reports the models of a service, after every change and every `BEAT_SECONDS`."""

    def __init__(self, presence: ServicePresence, versions: Callable[[], list[dict[str, Any]]]) -> None:
        self._presence, self._versions = presence, versions
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service reports", daemon=True)
        self._thread.start()

    def close(self, *, seconds: float = 2.0) -> None:
        """Report the end of the service; waits no longer than `seconds` for a locked ledger."""
        self._stop.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        reported: list[dict[str, Any]] | None = None
        at = 0.0
        while not self._stop.wait(LOOK_SECONDS):
            versions = self._versions()
            if versions == reported and time.monotonic() - at < BEAT_SECONDS:
                continue
            try:
                self._presence.heartbeat(versions)
                reported, at = versions, time.monotonic()
            except VitaError:  # the next look tries again
                continue
        with suppress(VitaError):  # a service that reported no end is known by its process
            self._presence.end()


def served_models(ledger: Ledger) -> set[str]:
    """Return the digests of the models that running services serve."""
    with ledger.transaction() as database:
        rows = database.execute(sa.select(services).where(services.c.ended.is_(None))).mappings().all()
    living = [row for row in rows if _alive(dict(row))]
    return {str(version["model"]) for row in living for version in row["versions"] if version.get("model")}


def state_of(ledger: Ledger, model: str) -> str:
    """Return the present state of a model.

    An approved model is `serving` while a living service serves it, a deprecated one `retired` from its sunset on.
    """
    state = model_state(ledger.moves(model)).at(time.time()).state
    return _state_now(model, state, served_models(ledger)) if state in _APPROVED_STATES else state


def all_states(ledger: Ledger) -> dict[str, str]:
    """Return the state of every version with a recorded move, as `state_of`; all others are candidates."""
    moves: dict[str, list[StateTransition]] = {}
    for move in ledger.moves():
        moves.setdefault(move.artifact, []).append(move)
    served, now = served_models(ledger), time.time()
    return {
        version: _state_now(version, model_state(version_moves).at(now).state, served)
        for version, version_moves in moves.items()
    }


_APPROVED_STATES = ("approved", "serving")
"""Recorded states of an approved version; the running services determine which of the two applies."""


def _state_now(version: str, state: str, served: set[str]) -> str:
    if state not in _APPROVED_STATES:
        return state
    return "serving" if version in served else "approved"


def _alive(row: Mapping[str, Any]) -> bool:
    alive = machine.still_alive(row["place"], row["process"])
    return time.time() - row["beat"] < STALE_SECONDS if alive is None else alive
