"""The load benchmark counts a refusal as lost only if a replica had accepted the request."""

from __future__ import annotations

from typing import Any

from bench.load import refused_after_death


def row(status: int, deaths: int) -> dict[str, Any]:
    return {"route": "/v1/chat/completions", "status": status, "figures": {"deaths": deaths}}


def test_a_429_counts_as_lost_only_after_a_replica_died() -> None:
    assert not refused_after_death([row(429, 0), row(503, 0), row(200, 2)])
    lost_requests = refused_after_death([row(429, 1), row(503, 2)])
    assert lost_requests == [
        "/v1/chat/completions 429: refused after 1 deaths",
        "/v1/chat/completions 503: refused after 2 deaths",
    ]
