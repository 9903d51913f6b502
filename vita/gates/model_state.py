"""The lifecycle state of a model, from its changes of state in the ledger.

    model_state(ledger.moves(digest)).at(time.time())

The gateway (headers, refusals) and clearance (permission to serve) read the state through this module.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from vita.spine.ledger import StateTransition


@dataclass(frozen=True)
class ModelState:
    """The state of a model, its start, and the recorded details."""

    state: str = "candidate"
    since: float = 0.0
    why: str = ""
    sunset: float | None = None
    """The time from which a deprecated model is retired for its users, in seconds since 1970."""
    successor: str | None = None
    """The model to use instead: a digest or a name, as it was recorded."""
    for_research: bool = False
    """The retired model may be served for research."""

    def at(self, now: float) -> ModelState:
        """Return the state at a time: a deprecated model is retired after its sunset."""
        if self.state != "deprecated" or self.sunset is None or now < max(self.sunset, self.since):
            return self
        return replace(self, state="retired", since=max(self.sunset, self.since))


def merge_moves(before: StateTransition | None, move: StateTransition) -> StateTransition:
    """Merge a later move into the same state with the earlier one: its details override, the time is the first one."""
    if before is None or before.state != move.state:
        return move
    return StateTransition(**{**vars(move), "details": {**before.details, **move.details}, "at": before.at})


def state_of(move: StateTransition) -> ModelState:
    """Return the state that results from a (merged) move."""
    details = move.details
    successor = details.get("successor") or details.get("replacement")
    return ModelState(
        move.state,
        move.at,
        move.why,
        _seconds(details.get("sunset")),
        successor if isinstance(successor, str) else None,
        bool(details.get("research")),
    )


def model_state(moves: Iterable[StateTransition]) -> ModelState:
    """Return the state after all moves of a model, oldest first; a model without moves is a candidate."""
    merged: StateTransition | None = None
    for move in moves:
        merged = merge_moves(merged, move)
    return ModelState() if merged is None else state_of(merged)


def _seconds(value: Any) -> float | None:
    """Return seconds since 1970 from a number, or from an ISO 8601 date or time (UTC without a zone)."""
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
