"""The recorded drift checks of a service, in the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from vita.spine.errors import DataError
from vita.spine.ledger import Ledger
from vita.spine.tables import table

drift_checks = table(
    "drift_checks", string="service version model reference", integer="number prompts", real="at since until",
    json="figures state",
)  # fmt: skip
"""One row per check. `since` and `until` are the times of the last check and of this one; `state` holds the scores
and the state of the tests, and the id of the last request that was considered."""
DRIFT_FIGURES = ("prompt_drift", "logprob_shift", "drift_p_value")
"""Drift figures: the distance of the embeddings, the shift of the log-probability in nats per token, and the p-value
over all checks."""


def checks_of(
    ledger: Ledger, *, service: str | None = None, model: str | None = None, until: float | None = None
) -> list[dict[str, Any]]:
    """Return the checks of a service or a model, oldest first."""
    query = sa.select(drift_checks).order_by(drift_checks.c.id)
    for column, value in (("service", service), ("model", model)):
        if value is not None:
            query = query.where(drift_checks.c[column] == value)
    if until is not None:
        query = query.where(drift_checks.c.at <= until)
    with ledger.transaction() as database:
        return [dict(row) for row in database.execute(query).mappings()]


def add_check(ledger: Ledger, row: Mapping[str, Any]) -> None:
    """Record a check; of two concurrent checks of the same prompts, only the first counts."""
    same = [drift_checks.c[name] == row[name] for name in ("service", "model", "reference", "number")]
    with ledger.exclusive(f"drift of {row['service']}") as database:
        if database.execute(sa.select(drift_checks.c.id).where(*same)).first():
            raise DataError(f"service {row['service']}", "another check has measured these prompts at the same time")
        database.execute(sa.insert(drift_checks).values(dict(row)))


def newest_checks(ledger: Ledger, *, service: str | None = None, until: float | None = None) -> list[dict[str, Any]]:
    """Return the newest check of each version, without its scores."""
    columns = [column for column in drift_checks.c if column.name != "state"]
    last = sa.select(sa.func.max(drift_checks.c.id)).group_by(drift_checks.c.service, drift_checks.c.model)
    if until is not None:
        last = last.where(drift_checks.c.at <= until)
    query = sa.select(*columns).where(drift_checks.c.id.in_(last))
    if service is not None:
        query = query.where(drift_checks.c.service == service)
    with ledger.transaction() as database:
        return [dict(row) for row in database.execute(query).mappings()]


def drift_figures(checks: Sequence[dict[str, Any]], version: str) -> dict[str, float | None]:
    """Return the figures of a version, named as `vita monitor` names it: with the digest if names are ambiguous."""
    for check in checks:
        if version in (check["version"], f"{check['version']} ({check['model'][:8]})"):
            figures = check["figures"]
            shifts = {name: figures[name]["value"] for name in ("prompt_drift", "logprob_shift")}
            return {**shifts, "drift_p_value": figures["drift_p_value"]}
    return {}
