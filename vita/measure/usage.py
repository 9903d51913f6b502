"""What a service was asked and what users said of its answers: the tables, and figures of quality per version.

The gateway writes them; `vita monitor` shows the figures, and `refine` makes preferences of the rows.
`requests.asked` is {} unless content is logged and its sender consented; then it holds `messages` or `prompt`
and the sampling settings, and `answered` holds {"choices": [text, ...]}. Both are redacted before they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from vita.spine.ledger import Ledger

_tables = sa.MetaData()
deployments = sa.Table(
    "deployments",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.String) for name in ("service", "version", "model", "release", "action")),
    sa.Column("share", sa.Float),
    sa.Column("who", sa.String),
    sa.Column("at", sa.Float),
)
"""What was served when: each start, change of share and stop of a version, oldest first."""
requests = sa.Table(
    "requests",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.String) for name in ("request", "response", "service", "version", "model", "release", "key")),
    sa.Column("route", sa.String),
    sa.Column("status", sa.Integer),
    *(sa.Column(name, sa.JSON) for name in ("asked", "answered", "figures")),
    sa.Column("consent", sa.Boolean),
    sa.Column("at", sa.Float),
)
feedback = sa.Table(
    "feedback",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.String) for name in ("request", "model", "kind")),
    sa.Column("value", sa.Float),
    sa.Column("content", sa.JSON),
    sa.Column("who", sa.String),
    sa.Column("consent", sa.Boolean),
    sa.Column("at", sa.Float),
)
"""`kind` thumb (value 1 or -1), edit (content `better`), flag (content `reason`) or vote (`request` is the better one,
content `rejected_request_id` the other; value 1, or 0 for a tie)."""


def asked_since(ledger: Ledger, *, service: str | None = None, since: float = 0.0) -> list[dict[str, Any]]:
    """The logged requests, oldest first."""
    query = sa.select(requests).where(requests.c.at >= since).order_by(requests.c.id)
    if service is not None:
        query = query.where(requests.c.service == service)
    with ledger.transaction() as database:
        return [dict(row) for row in database.execute(query).mappings()]


def said_since(ledger: Ledger, *, since: float = 0.0) -> list[dict[str, Any]]:
    """The feedback, oldest first."""
    query = sa.select(feedback).where(feedback.c.at >= since).order_by(feedback.c.id)
    with ledger.transaction() as database:
        return [dict(row) for row in database.execute(query).mappings()]


def figures(asked: Sequence[dict[str, Any]], said: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Figures of quality and speed per version; None where nothing was seen that could tell."""
    versions = dict.fromkeys(row["version"] for row in asked)
    version_of = {row["request"]: row["version"] for row in asked}
    return {
        version: _figures(
            [row for row in asked if row["version"] == version],
            [row for row in said if version_of.get(row["request"]) == version],
        )
        for version in versions
    }


FIGURES = (
    "requests", "error_rate", "ttft_p50", "ttft_p95", "latency_p50", "latency_p95", "tokens_per_second", "length",
    "refusal_rate", "logprob", "thumbs_up_rate", "flags", "edits", "votes_won",
)  # fmt: skip
"""The names of all figures; times in seconds, `length` in tokens an answer, `logprob` in nats a token."""


def _figures(asked: Sequence[dict[str, Any]], said: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    told = [row["figures"] for row in asked if row["status"] == 200]
    latencies = [one["seconds"] for one in told if one.get("seconds") is not None]
    first = [one["ttft"] for one in told if one.get("ttft") is not None]
    answered = [one for one in told if one.get("completion_tokens") is not None]
    thumbs = [row["value"] for row in said if row["kind"] == "thumb"]
    votes = [row["value"] for row in said if row["kind"] == "vote"]
    busy = math.fsum(one["seconds"] for one in answered if one.get("seconds") is not None)
    tokens = sum(one["completion_tokens"] for one in answered)
    logprobs = [one["logprob"] for one in told if one.get("logprob") is not None]
    return {
        "requests": float(len(asked)),
        "error_rate": _mean([float(row["status"] >= 500) for row in asked]),
        "ttft_p50": quantile(first, 0.5),
        "ttft_p95": quantile(first, 0.95),
        "latency_p50": quantile(latencies, 0.5),
        "latency_p95": quantile(latencies, 0.95),
        "tokens_per_second": tokens / busy if busy else None,
        "length": _mean([float(one["completion_tokens"]) for one in answered]),
        "refusal_rate": _mean([float(one["refused"]) for one in told if one.get("refused") is not None]),
        "logprob": _mean(logprobs),
        "thumbs_up_rate": _mean([float(value > 0) for value in thumbs]),
        "flags": float(sum(row["kind"] == "flag" for row in said)),
        "edits": float(sum(row["kind"] == "edit" for row in said)),
        "votes_won": float(sum(value > 0 for value in votes)),
    }


def quantile(values: Sequence[float], part: float) -> float | None:
    """The smallest value that at least `part` of all values do not exceed (the nearest rank)."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
