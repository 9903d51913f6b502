"""The lifecycle state of a model, from its changes of state in the ledger.

    model_state(ledger.moves(digest)).at(time.time())

The gateway (headers, refusals) and clearance (may these weights be served?) read the state through this one module.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from vita.spine.ledger import StateTransition


@dataclass(frozen=True)
class ModelState:
    """The state of a model, since when, and the details that were recorded with it."""

    state: str = "candidate"
    since: float = 0.0
    why: str = ""
    sunset: float | None = None
    """From when on a deprecated model is retired for its users, in seconds since 1970."""
    successor: str | None = None
    """The model to use instead: a digest or a name, as it was recorded."""
    for_research: bool = False
    """The retired model may be served for research."""

    def at(self, now: float) -> ModelState:
        """The state at a moment: a deprecated model is retired from its sunset on."""
        if self.state != "deprecated" or self.sunset is None or now < max(self.sunset, self.since):
            return self
        return replace(self, state="retired", since=max(self.sunset, self.since))


def merge_moves(before: StateTransition | None, move: StateTransition) -> StateTransition:
    """Add a later move into the same state to the earlier one: its details override, the time is the first's."""
    if before is None or before.state != move.state:
        return move
    return StateTransition(**{**vars(move), "details": {**before.details, **move.details}, "at": before.at})


def state_of(move: StateTransition) -> ModelState:
    """The state that a (merged) move leads to."""
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
    """The state after all moves of a model, oldest first; a model without any is a candidate."""
    merged: StateTransition | None = None
    for move in moves:
        merged = merge_moves(merged, move)
    return ModelState() if merged is None else state_of(merged)


def _seconds(value: Any) -> float | None:
    """Seconds since 1970 from a number, or from an ISO 8601 date or time (UTC where it names no zone)."""
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
