"""The request log and the user feedback: the tables, and figures of quality per version.

The gateway writes them; `vita monitor` shows the figures, and `refine` creates preferences from the rows. The database
joins, filters and aggregates the figures with an index without content, so memory does not grow with the log.
`requests.asked` is {} unless content is logged and its sender consented; then it holds `messages` or `prompt`
and the sampling settings, and `answered` holds {"choices": [text, ...]}. Both are redacted before they are stored.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from vita.monitoring.replica_cost import COST_FIGURES, cost_figures, replica_costs
from vita.spine.ledger import Ledger
from vita.spine.tables import table

deployments = table("deployments", string="service version model release action who", real="share at")
"""The serving history: each start, change of traffic share and stop of a version, oldest first."""
requests = table(
    "requests",
    string="request response service version model release key route",
    integer="status prompt_tokens completion_tokens",
    real="at seconds ttft logprob",
    boolean="consent refused has_content",
    json="asked answered figures",
)
MONITORED = ("seconds", "ttft", "prompt_tokens", "completion_tokens", "refused", "logprob")
"""The figures that are columns, too: an index over them answers `vita monitor` without reading any content."""
feedback = table(
    "feedback", string="request model kind who", real="value at replaced", boolean="consent", json="content"
)
"""`replaced` is when the same person gave new feedback on the same responses; replaced feedback does not count.
`kind` thumb (value 1 or -1), edit (content `better`), flag (content `reason`) or vote (`request` is the better one,
content `rejected_request_id` the other; value 1, or 0 for a tie)."""


def monitored(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a request that have columns."""
    return {name: figures.get(name) for name in MONITORED}


def requests_since(ledger: Ledger, *, service: str | None = None, since: float = 0.0) -> list[dict[str, Any]]:
    """Return the logged requests with their content, oldest first; all are held in memory."""
    query = sa.select(requests).where(requests.c.at >= since).order_by(requests.c.id)
    if service is not None:
        query = query.where(requests.c.service == service)
    with ledger.transaction() as database:
        return [dict(row) for row in database.execute(query).mappings()]


def feedback_since(ledger: Ledger, *, since: float = 0.0) -> list[dict[str, Any]]:
    """Return the feedback including replaced rows, oldest first; all is held in memory."""
    query = sa.select(feedback).where(feedback.c.at >= since).order_by(feedback.c.id)
    with ledger.transaction() as database:
        return [dict(row) for row in database.execute(query).mappings()]


FIGURES = (
    "requests", "error_rate", "failure_rate", "shed_rate", "ttft_p50", "ttft_p95", "latency_p50", "latency_p95",
    "tokens_per_second", "length", "refusal_rate", "logprob", "thumbs_up_rate", "flags", "edits", "votes_won",
    "prompt_tokens", "completion_tokens", *COST_FIGURES,
)  # fmt: skip
"""The names of all figures; times in seconds, `length` in tokens per response, `logprob` in nats per token.

The rates of errors have the same denominator, `requests`: every logged request, also one that reached no replica and
one whose client left. `error_rate` counts each 5xx; `failure_rate` each 5xx but 503; `shed_rate` each 429 and 503.
"""
_QUANTILES = {"ttft_p50": ("ttft", 50), "ttft_p95": ("ttft", 95), "latency_p50": ("seconds", 50),
              "latency_p95": ("seconds", 95)}  # fmt: skip
_FEEDBACK = ("thumbs_up_rate", "flags", "edits", "votes_won")
SHED = (429, 503)
"""Statuses of requests that were rejected because of missing capacity."""

_Version = tuple[str, str]
"""(name, digest of the weights): the name alone does not say which weights answered."""


def figures(
    ledger: Ledger,
    *,
    service: str | None = None,
    models: Collection[str] | None = None,
    since: float = 0.0,
    until: float | None = None,
    newest: int | None = None,
    names: Collection[str] = FIGURES,
) -> dict[str, dict[str, float | None]]:
    """Return quality and speed figures per version; None for figures without data.

    The figures cover the requests from `since` to `until`, or the `newest` ones. `names` are the figures to compute in
    addition to `requests`; percentiles are slow because they sort. Versions with the same name and different weights
    are separate.
    """
    selection = _request_selection(service, models, since, until, newest)
    with ledger.transaction() as database:
        by_version = _counted(database, selection)
        for name, (column, percent) in _QUANTILES.items():
            if name in names:
                for version, version_figures in by_version.items():
                    version_figures[name] = _quantile(
                        database, selection, version, column, percent, version_figures[f"_{column}"]
                    )
        if set(names) & set(_FEEDBACK):
            feedback_counts = _feedback_counts(database, selection, since=since, until=until)
            for version, version_figures in by_version.items():
                version_figures.update(_of_feedback(feedback_counts.get(version, {})))
        if set(names) & set(COST_FIGURES):
            costs = {} if newest is not None else replica_costs(database, service=service, since=since, until=until)
            for version, version_figures in by_version.items():
                version_figures.update(cost_figures(version_figures, costs.get(version)))
    shared = Counter(name for name, _ in by_version)
    return {
        name if shared[name] == 1 else f"{name} ({model[:8]})": {
            figure_name: version_figures.get(figure_name) for figure_name in FIGURES if figure_name in version_figures
        }
        for (name, model), version_figures in by_version.items()
    }


def quantile(values: Sequence[float], part: float) -> float | None:
    """Return the smallest value that at least `part` of all values do not exceed (nearest rank)."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


# -- helpers


def _request_selection(
    service: str | None, models: Collection[str] | None, since: float, until: float | None, newest: int | None
) -> sa.Subquery:
    columns = ("id", "request", "version", "model", "status", "at", *MONITORED)
    query = sa.select(*(requests.c[name] for name in columns if newest or name != "id"))
    if since or until is not None or newest is None:
        query = query.where(requests.c.at >= since)
    if until is not None:
        query = query.where(requests.c.at <= until)
    if service is not None:
        query = query.where(requests.c.service == service)
    if models is not None:
        query = query.where(requests.c.model.in_(sorted(models)))
    if newest is not None:
        query = query.order_by(requests.c.id.desc()).limit(newest)
    return query.subquery("asked")


def _counted(database: sa.Connection, selection: sa.Subquery) -> dict[_Version, dict[str, float | None]]:
    """Return counts, rates and means per version. Names with an underscore count the values that are not null."""
    row = selection.c
    answered = {name: sa.case((row.status == 200, row[name])) for name in MONITORED}
    timed = sa.and_(row.status == 200, row.seconds.is_not(None), row.completion_tokens.is_not(None))
    rate = {"error_rate": row.status >= 500, "failure_rate": sa.and_(row.status >= 500, row.status != 503),
            "shed_rate": row.status.in_(SHED)}  # fmt: skip
    columns = [
        sa.func.count().label("requests"),
        *(sa.func.avg(sa.case((condition, 1.0), else_=0.0)).label(name) for name, condition in rate.items()),
        sa.func.avg(answered["completion_tokens"] * 1.0).label("length"),
        sa.func.avg(sa.case((sa.and_(row.status == 200, row.refused), 1.0),
                            (sa.and_(row.status == 200, ~row.refused), 0.0))).label("refusal_rate"),
        sa.func.avg(answered["logprob"]).label("logprob"),
        sa.func.sum(sa.case((timed, row.completion_tokens))).label("tokens"),
        sa.func.sum(sa.case((timed, row.seconds))).label("busy"),
        sa.func.sum(row.prompt_tokens).label("prompt_tokens"),
        sa.func.sum(row.completion_tokens).label("completion_tokens"),
        sa.func.count(answered["ttft"]).label("_ttft"),
        sa.func.count(answered["seconds"]).label("_seconds"),
    ]  # fmt: skip
    query = sa.select(row.version, row.model, *columns).group_by(row.version, row.model)
    by_version: dict[_Version, dict[str, float | None]] = {}
    for values in database.execute(query.order_by(sa.func.min(row.at))).mappings():
        version_figures = {name: None if value is None else float(value) for name, value in values.items()
               if name not in ("version", "model")}  # fmt: skip
        tokens, busy = version_figures.pop("tokens"), version_figures.pop("busy")
        version_figures["tokens_per_second"] = tokens / busy if tokens is not None and busy else None
        by_version[values["version"], values["model"]] = version_figures
    return by_version


def _quantile(
    database: sa.Connection, selection: sa.Subquery, version: _Version, column: str, percent: int, count: float | None
) -> float | None:
    """Return the value at the nearest rank, selected by the database."""
    if not count:
        return None
    rank = (int(count) * percent + 99) // 100
    row = selection.c
    # Not `row.model == ...`, for which SQLite would leave the index over time and read whole rows with their content.
    same = (row.version == version[0], sa.func.coalesce(row.model, "") == version[1])
    query = sa.select(row[column]).where(*same, row.status == 200)
    query = query.where(row[column].is_not(None)).order_by(row[column]).limit(1).offset(rank - 1)
    return database.execute(query).scalar()


def _feedback_counts(
    database: sa.Connection, selection: sa.Subquery, *, since: float, until: float | None
) -> dict[_Version, dict[str, tuple[int, int]]]:
    """Return version -> kind -> (records, records with a value above 0) as of `until`."""
    standing = feedback.c.replaced.is_(None)
    query = sa.select(selection.c.version, selection.c.model, feedback.c.kind, sa.func.count(),
                      sa.func.sum(sa.case((feedback.c.value > 0, 1), else_=0)))  # fmt: skip
    query = query.select_from(feedback.join(selection, feedback.c.request == selection.c.request))
    query = query.where(feedback.c.at >= since)
    if until is not None:
        standing = sa.or_(standing, feedback.c.replaced > until)
        query = query.where(feedback.c.at <= until)
    query = query.where(standing).group_by(selection.c.version, selection.c.model, feedback.c.kind)
    counts: dict[_Version, dict[str, tuple[int, int]]] = {}
    for version, model, kind, count, positive in database.execute(query):
        counts.setdefault((version, model), {})[kind] = (int(count), int(positive))
    return counts


def _of_feedback(counts: Mapping[str, tuple[int, int]]) -> dict[str, float | None]:
    thumbs, ups = counts.get("thumb", (0, 0))
    return {"thumbs_up_rate": ups / thumbs if thumbs else None, "flags": float(counts.get("flag", (0, 0))[0]),
            "edits": float(counts.get("edit", (0, 0))[0]),
            "votes_won": float(counts.get("vote", (0, 0))[1])}  # fmt: skip
