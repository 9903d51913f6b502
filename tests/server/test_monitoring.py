"""`vita monitor` counts requests without an answer and changed feedback."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.test_cli import Vita, vita
from tests.server.fakes import FakeReplica
from tests.server.gateways import CHAT, service
from vita.cards.model_card import feedback_counts
from vita.monitoring.feedback_export import collect
from vita.spine.ledger import Ledger

__all__ = ["vita"]


@pytest.mark.slow
def test_requests_that_reach_no_replica_count_as_errors_of_their_version(vita: Vita, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "vita-store" / "ledger.db")

    async def run() -> list[int]:
        replica = FakeReplica("a", down=True)
        async with service(ledger, replica, in_flight=1) as (gateway, client):
            statuses = [(await client.post("/v1/chat/completions", json=CHAT)).status_code for _ in range(5)]
            gateway.draining = True
            statuses.append((await client.post("/v1/chat/completions", json=CHAT)).status_code)
            assert (await client.post("/v1/chat/completions", content=b"{}")).status_code == 503
            return statuses

    with closing(ledger):
        assert asyncio.run(asyncio.wait_for(run(), 30)) == [503] * 6
    code, out, err = vita("monitor", "cat", "--json")
    assert code == 0, err
    figures = json.loads(out)["versions"]
    assert list(figures) == ["cat:1"]
    assert figures["cat:1"]["requests"] == 7
    assert (figures["cat:1"]["error_rate"], figures["cat:1"]["shed_rate"]) == (1.0, 1.0)
    assert figures["cat:1"]["failure_rate"] == 0.0
    assert "100.0%" in vita("monitor", "cat")[1]


def test_a_changed_thumb_replaces_the_earlier_one_in_all_figures(vita: Vita, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "vita-store" / "ledger.db")

    async def run() -> tuple[list[int], str]:
        async with service(ledger, FakeReplica("a")) as (_, client):
            chat = {**CHAT, "user": "ann"}
            first_id, second_id = [
                (await client.post("/v1/chat/completions", json=chat)).headers["x-request-id"] for _ in range(2)
            ]
            statuses = []
            for body in (
                {"request_id": first_id, "kind": "thumb", "value": 1},
                {"request_id": first_id, "kind": "thumb", "value": 1},
                {"request_id": first_id, "kind": "thumb", "value": -1},
                {"kind": "vote", "chosen_request_id": first_id, "rejected_request_id": second_id},
                {"kind": "vote", "chosen_request_id": second_id, "rejected_request_id": first_id},
            ):
                statuses.append((await client.post("/v1/feedback", json=body)).status_code)
            return statuses, (await client.get("/metrics")).text

    with closing(ledger):
        statuses, metrics = asyncio.run(asyncio.wait_for(run(), 30))
        assert statuses == [201, 200, 201, 201, 201], "repeated feedback is not stored again"
        assert [(vote.kind, vote.value) for vote in collect(ledger)] == [("thumb", -1.0), ("vote", 1.0)]
        assert feedback_counts(ledger, "a" * 64) == {"thumbs down": 1, "votes won": 1}
    figures = json.loads(vita("monitor", "cat", "--json")[1])["versions"]["cat:1"]
    assert (figures["thumbs_up_rate"], figures["votes_won"]) == (0.0, 1.0)
    assert 'vita_gateway_feedback_replaced_total{kind="thumb",version="cat:1"} 1.0' in metrics
