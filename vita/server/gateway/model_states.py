"""The states of the models of a service, read from the ledger, and the HTTP headers and errors that report them.

Responses of a deprecated model have the headers `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and a link to the
successor. Both headers describe a URL, but the body of a request names the model; so the responses also have
`X-Vita-Model-Deprecation`, which describes the model. A request to a retired model is refused with the name of its
successor, and `/v1/models/{id}` returns 410. A deprecated model counts as retired from its sunset date on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import quote

import sqlalchemy as sa

from vita.gates.clearance import retirement
from vita.gates.model_state import ModelState, merge_moves, state_of
from vita.gates.retired_weights import RetiredWeights
from vita.gates.weights import ModelMatch, WeightsIdentity
from vita.monitoring.request_log import deployments
from vita.server.errors import ApiError
from vita.spine.ledger import Ledger, StateTransition, names, states
from vita.spine.tail import Tail

RELEASE = "release/"
"""Prefix of the names of releases in the ledger; the rest is the name that requests use."""


@dataclass(frozen=True)
class CatalogRows:
    """Rows about models that were added to the ledger since the last read."""

    deployments: Sequence[sa.RowMapping]
    moves: Sequence[StateTransition]
    names: Sequence[sa.RowMapping]
    weights: Mapping[str, WeightsIdentity]
    """Digest of a model that is retired or has a sunset date -> its weights."""

    @property
    def count(self) -> int:
        return len(self.deployments) + len(self.moves) + len(self.names)


class Catalog:
    """Names and states of models as of the last `refresh`."""

    def __init__(self, ledger: Ledger, service: str, *, clock: Callable[[], float] = time.time) -> None:
        self.ledger, self.service, self.clock = ledger, service, clock
        columns = (deployments.c.service, deployments.c.version, deployments.c.model)
        self._deployments = Tail(deployments, *columns)
        self._states, self._names = Tail(states), Tail(names, names.c.name, names.c.artifact)
        self._served: dict[str, str] = {}
        """Every version that the service has served -> digest of the model."""
        self._digest_by_name: dict[str, str] = {}
        """Every name in the ledger, as requests use it -> digest that it refers to now."""
        self._moves: dict[str, StateTransition] = {}
        self.retired_weights = RetiredWeights()
        self._models: dict[str, str] = {}
        """Digest of a release -> digest of its model."""
        self._versions_of: dict[str, str] = {}
        self._names_of: dict[str, dict[str, None]] = {}
        self._releases_of: dict[str, dict[str, None]] = {}

    def refresh(self) -> None:
        """Read and apply new rows of the ledger."""
        self.apply(self.read())

    def read(self, *, limit: int | None = None) -> CatalogRows:
        """Read the rows since the last call, at most `limit` of each table; the first call reads all rows."""
        tails = self._deployments, self._states, self._names
        with self.ledger.transaction() as database:
            deployment_rows, move_rows, name_rows = (tail.read(database, limit=limit) for tail in tails)
        moves = [StateTransition(**row) for row in move_rows]
        weights = self.retired_weights.read(self.ledger, moves)
        for tail, rows in zip(tails, (deployment_rows, move_rows, name_rows), strict=True):
            tail.advance(rows)
        return CatalogRows(deployment_rows, moves, name_rows, weights)

    def apply(self, rows: CatalogRows) -> None:
        """Apply rows that `read` returned."""
        for row in rows.deployments:
            if row["service"] == self.service:
                self._served[row["version"]] = row["model"]
                self._versions_of[row["model"]] = row["version"]
        for move in rows.moves:
            self._moves[move.artifact] = merge_moves(self._moves.get(move.artifact), move)
            if release := move.details.get("release"):
                self._models[release] = move.artifact
                self._releases_of.setdefault(move.artifact, {})[release] = None
        for row in rows.names:
            self._rename(row["name"].removeprefix(RELEASE), row["artifact"])
        self.retired_weights.add(rows.weights)

    def model_state(self, model: str) -> ModelState:
        """Return the current state of a model."""
        move = self._moves.get(model)
        if move is None:
            return ModelState()
        state = state_of(move).at(self.clock())
        return state if state.successor is None else replace(state, successor=self.name_of(state.successor))

    def retirement(self, match: ModelMatch) -> tuple[str, ModelState] | None:
        """Return the digest and the state of a retired model with the weights of a match, or None."""
        return retirement(self.retired_weights.complete(match), self.model_state)

    def digest(self, name: str) -> str | None:
        """Return the digest of the model with this name or digest."""
        if name in self._served:
            return self._served[name]
        if name in self._digest_by_name:
            return self._models.get(self._digest_by_name[name], self._digest_by_name[name])
        return name if name in self._moves else None

    def name_of(self, model: str) -> str:
        """Return the name of a model for requests: a version that served it, else its newest name, else its digest."""
        if model in self._versions_of:
            return self._versions_of[model]
        for digest in (model, *reversed(self._releases_of.get(model, {}))):
            for name in reversed(self._names_of.get(digest, {})):
                return name
        return model

    def _rename(self, name: str, digest: str) -> None:
        previous = self._digest_by_name.get(name)
        if previous is not None:
            self._names_of[previous].pop(name, None)
        self._digest_by_name[name] = digest
        self._names_of.setdefault(digest, {})[name] = None


def lifecycle_headers(model_state: ModelState) -> dict[str, str]:
    """Return the headers of every response of a deprecated model; none for other models."""
    if model_state.state != "deprecated":
        return {}
    parts = [f"@{int(model_state.since)}"]
    headers = {"Deprecation": f"@{int(model_state.since)}"}
    if model_state.sunset is not None:
        # RFC 9745, section 4: a sunset is never before the deprecation.
        sunset = max(model_state.sunset, model_state.since)
        headers["Sunset"] = formatdate(sunset, usegmt=True)
        parts.append(f"sunset={iso(sunset)}")
    if model_state.successor:
        headers["Link"] = f'</v1/models/{quote(model_state.successor)}>; rel="successor-version"'
        parts.append(f"successor={model_state.successor}")
    return {**headers, "X-Vita-Model-Deprecation": escape_header("; ".join(parts))}


def retired(name: str, model_state: ModelState, *, status: int = 404) -> ApiError:
    """Create the error for a retired model: 404 for a request to the model, 410 for its description."""
    instead = f" Use `{model_state.successor}` instead." if model_state.successor else ""
    message = f"The model `{name}` was retired on {iso(model_state.since)[:10]} and is no longer available.{instead}"
    details = {
        "replacement": model_state.successor,
        "retired_at": iso(model_state.since),
        "reason": model_state.why or None,
    }
    return ApiError(status, message, param="model", code="model_retired", kind="invalid_request_error", extra=details)


def unknown_model(name: str, known: list[str]) -> ApiError:
    names = ", ".join(f"`{name}`" for name in known[:8])
    message = (
        f"There is no model `{name[:200]}` here; available models: {names}."
        if known
        else f"There is no model `{name[:200]}`."
    )
    return ApiError(404, message, param="model", code="model_not_found")


def iso(seconds: float) -> str:
    """Format a time as RFC 3339."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def escape_header(text: str) -> str:
    """Escape characters that a header must not contain."""
    return text.encode("ascii", "backslashreplace").decode()
