"""The cost of tokens, from the replica time of a version, its price, and the number of tokens.

A service writes one row per version and hour, and updates it while the version is served. If a row overlaps a period,
the overlapping fraction of its time counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from vita.spine.tables import table

replica_use = table("replica_use", string="service version model", real="began until seconds price")
"""`seconds` is the sum over the replicas of the version from `began` to `until`; `price` is per replica and hour."""
COST_FIGURES = ("cost", "cost_per_1000_tokens", "cost_per_1000_completion_tokens")
"""The figures of cost: the price of the replica time, per 1,000 prompt and completion tokens, and per 1,000 completion
tokens alone."""
_HOUR = 3600.0


def replica_costs(
    database: sa.Connection, *, service: str | None, since: float, until: float | None
) -> dict[tuple[str, str], float | None]:
    """Return (version, model) -> the price of its replica time in a period; None if a price is not known."""
    query = sa.select(replica_use).where(replica_use.c.until >= since)
    if until is not None:
        query = query.where(replica_use.c.began <= until)
    if service is not None:
        query = query.where(replica_use.c.service == service)
    costs: dict[tuple[str, str], float | None] = {}
    for row in database.execute(query):
        version = (row.version, row.model)
        before = costs.get(version, 0.0)
        if row.price is None or before is None:
            costs[version] = None
            continue
        costs[version] = before + _fraction(row.began, row.until, since, until) * row.seconds / _HOUR * row.price
    return costs


def _fraction(began: float, ended: float, since: float, until: float | None) -> float:
    """Return the fraction of the time of a row that lies in a period."""
    if ended <= began:
        return 1.0
    end = ended if until is None else min(ended, until)
    return max(0.0, end - max(began, since)) / (ended - began)


def cost_figures(version_figures: Mapping[str, float | None], cost: float | None) -> dict[str, float | None]:
    """Return the figures of cost of a version from its token counts and the price of its replica time."""
    prompt, completion = (version_figures.get(name) or 0.0 for name in ("prompt_tokens", "completion_tokens"))

    def per_thousand(tokens: float) -> float | None:
        return cost / tokens * 1000 if cost is not None and tokens else None

    return dict(zip(COST_FIGURES, (cost, per_thousand(prompt + completion), per_thousand(completion)), strict=True))
