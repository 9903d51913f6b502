"""What the ledger says of the models of a service, and how HTTP says it.

A deprecated model answers with `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and a link to its successor. Both headers
speak of a URL, while here the model stands in the body; so completions bear `X-Vita-Model-Deprecation` as well, which
is about the model of this very request. A retired model is refused with its successor's name, and its page says 410; a
deprecated one is retired for its users from its sunset on, whether or not somebody sealed an archive of it by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from vita.measure.usage import deployments
from vita.server.errors import ApiError
from vita.spine.ledger import Ledger, Move

RELEASE = "release/"
"""What the ledger's name of a release begins with; what follows is the name that requests use."""


@dataclass(frozen=True)
class Standing:
    """The state of a model, since when, and what was said with it."""

    state: str = "candidate"
    since: float = 0.0
    why: str = ""
    sunset: float | None = None
    successor: str | None = None
    """How a request would name the model to use instead."""
    for_research: bool = False

    def at(self, now: float) -> Standing:
        """Where the model stands then: its sunset ends it."""
        if self.state != "deprecated" or self.sunset is None or now < max(self.sunset, self.since):
            return self
        return replace(self, state="retired", since=max(self.sunset, self.since))


@dataclass
class Catalog:
    """Models by their names and their standings, as the ledger had them at the last `refresh`."""

    ledger: Ledger
    service: str
    names: dict[str, str] = field(default_factory=dict)
    """Every name that was ever served or given -> digest of the model."""
    standings: dict[str, Standing] = field(default_factory=dict)
    clock: Callable[[], float] = time.time

    def refresh(self) -> None:
        """Read names and states anew."""
        served = sa.select(deployments.c.version, deployments.c.model).where(deployments.c.service == self.service)
        with self.ledger.transaction() as database:
            past = {row.version: row.model for row in database.execute(served.order_by(deployments.c.id))}
        moves: dict[str, Move] = {}
        released: dict[str, str] = {}
        for move in self.ledger.moves():
            moves[move.artifact] = _joined(moves.get(move.artifact), move)
            if release := move.details.get("release"):
                released[release] = move.artifact
        given = self.ledger.all_names()
        labels = {name.removeprefix(RELEASE): released.get(digest, digest) for name, digest in given.items()}
        names = {**labels, **past}
        called = {model: name for name, model in names.items()}
        self.names = names
        self.standings = {model: _standing(move, called) for model, move in moves.items()}

    def standing(self, model: str) -> Standing:
        return self.standings.get(model, Standing()).at(self.clock())

    def digest(self, name: str) -> str | None:
        """The model that a name or a whole digest means."""
        return self.names.get(name) or (name if name in self.standings else None)


def lifecycle_headers(standing: Standing) -> dict[str, str]:
    """What every answer of a deprecated model bears; nothing for others."""
    if standing.state != "deprecated":
        return {}
    parts = [f"@{int(standing.since)}"]
    headers = {"Deprecation": f"@{int(standing.since)}"}
    if standing.sunset is not None:
        # RFC 9745, section 4: a sunset is never before the deprecation.
        sunset = max(standing.sunset, standing.since)
        headers["Sunset"] = formatdate(sunset, usegmt=True)
        parts.append(f"sunset={iso(sunset)}")
    if standing.successor:
        headers["Link"] = f'</v1/models/{quote(standing.successor)}>; rel="successor-version"'
        parts.append(f"successor={standing.successor}")
    return {**headers, "X-Vita-Model-Deprecation": as_header("; ".join(parts))}


def retired(name: str, standing: Standing, *, status: int = 404) -> ApiError:
    """The refusal of a model that is gone: 404 where it was asked to answer, 410 where it was asked for itself."""
    instead = f" Use `{standing.successor}` instead." if standing.successor else ""
    message = f"The model `{name}` was retired on {iso(standing.since)[:10]} and answers no more.{instead}"
    more = {"replacement": standing.successor, "retired_at": iso(standing.since), "reason": standing.why or None}
    return ApiError(status, message, param="model", code="model_retired", kind="invalid_request_error", more=more)


def unknown_model(name: str, known: list[str]) -> ApiError:
    told = ", ".join(f"`{one}`" for one in known[:8])
    message = (
        f"There is no model `{name[:200]}` here; there are {told}." if known else f"There is no model `{name[:200]}`."
    )
    return ApiError(404, message, param="model", code="model_not_found")


def iso(seconds: float) -> str:
    """A moment as RFC 3339 has it."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _joined(before: Move | None, move: Move) -> Move:
    """A later word on the same state adds to the earlier; the state began with the first."""
    if before is None or before.state != move.state:
        return move
    return Move(**{**vars(move), "details": {**before.details, **move.details}, "at": before.at})


def _standing(move: Move, called: Mapping[str, str]) -> Standing:
    details = move.details
    successor = details.get("successor") or details.get("replacement")
    return Standing(
        move.state,
        move.at,
        move.why,
        _moment(details.get("sunset")),
        called.get(successor, successor) if isinstance(successor, str) else None,
        bool(details.get("research")),
    )


def _moment(value: Any) -> float | None:
    """Seconds since 1970 from a number, or from a date or moment in ISO 8601, which is UTC when it does not say."""
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def as_header(text: str) -> str:
    """As a header may hold it."""
    return text.encode("ascii", "backslashreplace").decode()
