"""The load bench tells a refusal of what was never begun from one of what was accepted."""

from __future__ import annotations

from typing import Any

from bench.load import refused_after_death


def row(status: int, deaths: int) -> dict[str, Any]:
    return {"route": "/v1/chat/completions", "status": status, "figures": {"deaths": deaths}}


def test_a_429_after_a_death_is_lost_and_a_429_before_any_is_not() -> None:
    assert not refused_after_death([row(429, 0), row(503, 0), row(200, 2)])
    told = refused_after_death([row(429, 1), row(503, 2)])
    assert told == [
        "/v1/chat/completions 429: refused after 1 deaths",
        "/v1/chat/completions 503: refused after 2 deaths",
    ]
