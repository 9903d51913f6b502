"""Running services, as they report themselves to the ledger: which models are served at this moment.

    presence = ServicePresence(ledger, "cat", url)
    presence.beat([{"version": "cat:1", "model": digest, "share": 1.0}])     # again every `BEAT_SECONDS`
    state_of(ledger, digest)                                                 # "serving" while such a service lives

A model is serving while a living service serves it. A service that was killed reports no end; its process, or on
another machine its last report, tells.
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

    def beat(self, versions: Sequence[Mapping[str, Any]]) -> None:
        """Report what is served now."""
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
    """Reports from a thread of its own what a service serves, whenever that changes and every `BEAT_SECONDS`."""

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
                self._presence.beat(versions)
                reported, at = versions, time.monotonic()
            except VitaError:  # the next look tries again
                continue
        with suppress(VitaError):  # a service that reported no end is known by its process
            self._presence.end()


def served_models(ledger: Ledger) -> set[str]:
    """The digests of the models that living services serve."""
    with ledger.transaction() as database:
        rows = database.execute(sa.select(services).where(services.c.ended.is_(None))).mappings().all()
    living = [row for row in rows if _alive(dict(row))]
    return {str(version["model"]) for row in living for version in row["versions"] if version.get("model")}


def state_of(ledger: Ledger, model: str) -> str:
    """The state of a model now.

    An approved model is `serving` while a living service serves it, a deprecated one `retired` from its sunset on.
    """
    state = model_state(ledger.moves(model)).at(time.time()).state
    return _state_now(model, state, served_models(ledger)) if state in _LET_OUT else state


def all_states(ledger: Ledger) -> dict[str, str]:
    """The state, as `state_of` gives it, of every version that was ever moved; any other version is a candidate."""
    moves: dict[str, list[StateTransition]] = {}
    for move in ledger.moves():
        moves.setdefault(move.artifact, []).append(move)
    served, now = served_models(ledger), time.time()
    return {
        version: _state_now(version, model_state(version_moves).at(now).state, served)
        for version, version_moves in moves.items()
    }


_LET_OUT = ("approved", "serving")
"""Recorded states of a version that a gate let out: the services that live now decide which of the two it is."""


def _state_now(version: str, state: str, served: set[str]) -> str:
    if state not in _LET_OUT:
        return state
    return "serving" if version in served else "approved"


def _alive(row: Mapping[str, Any]) -> bool:
    alive = machine.still_alive(row["place"], row["process"])
    return time.time() - row["beat"] < STALE_SECONDS if alive is None else alive
