"""Request logs of any size for the tests: rows of requests and feedback, written with SQL."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from vita.monitoring.request_log import feedback, monitored, requests
from vita.spine.ledger import Ledger


def request_row(number: int = 0, **values: Any) -> dict[str, Any]:
    """Return a request that was answered a minute ago, with its content and consent; `values` replace columns."""
    return {
        "request": f"req-{number}", "response": f"cmpl-{number}", "service": "cat", "version": "cat:1",
        "model": "m" * 64, "release": "r" * 64, "key": None, "route": "/v1/chat/completions", "status": 200,
        "asked": {"messages": [{"role": "user", "content": f"question {number}"}]},
        "answered": {"choices": [f"answer {number}"]},
        "figures": {"seconds": 0.5, "ttft": 0.1, "completion_tokens": 10, "refused": False, "logprob": -1.0},
        "consent": True, "at": time.time() - 60, **values,
    }  # fmt: skip


def feedback_row(number: int = 0, **values: Any) -> dict[str, Any]:
    """Return a thumb up on request `number`; `values` replace columns."""
    return {
        "request": f"req-{number}", "model": "m" * 64, "kind": "thumb", "value": 1.0, "content": {}, "who": None,
        "consent": True, "at": time.time() - 30, **values,
    }  # fmt: skip


def write_log(
    ledger: Ledger, request_rows: list[dict[str, Any]], feedback_rows: list[dict[str, Any]] | None = None
) -> None:
    """Append rows to the request log and to the feedback."""
    with ledger.transaction() as database:
        database.execute(
            sa.insert(requests),
            [{**row, **monitored(row["figures"]), "has_content": bool(row["asked"])} for row in request_rows],
        )
        if feedback_rows:
            database.execute(sa.insert(feedback), feedback_rows)
