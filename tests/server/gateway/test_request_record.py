"""A request has one record, which is closed once and contains the response to the client."""

from __future__ import annotations

import json

from tests.server.fakes import FakeReplica
from tests.server.gateways import CHAT, async_test, service
from vita.monitoring.request_log import requests_since
from vita.server.gateway.keys import create
from vita.server.gateway.request_log import RequestLog, StoragePolicy
from vita.server.gateway.request_record import RequestRecord
from vita.server.gateway.telemetry import Telemetry
from vita.spine.ledger import Ledger


def test_a_record_is_closed_once_with_its_first_status():
    telemetry = Telemetry()
    record = RequestRecord("cat", "req-1", "/v1/chat/completions", telemetry)
    record.admit(consent=True)
    choice = {"message": {"content": "I am sorry"}, "finish_reason": "stop"}
    record.read_response(json.dumps({"id": "chatcmpl-1", "choices": [choice]}).encode())
    row = record.close(200, ())
    assert row is not None
    assert (row["status"], row["response"], row["consent"]) == (200, "chatcmpl-1", True)
    assert row["answered"] == {"choices": ["I am sorry"]} and row["version"] == "none"
    assert record.close(500, ()) is None
    samples = [sample for family in telemetry.requests.collect() for sample in family.samples]
    assert [sample.labels["status"] for sample in samples if sample.name.endswith("_total")] == ["200"]


def test_a_row_that_cannot_be_stored_loses_no_other_row(ledger: Ledger) -> None:
    log = RequestLog(ledger, StoragePolicy("metadata", redact=True))
    with ledger.transaction():  # the rows wait, and are then written together
        for number in range(7):
            record = RequestRecord("cat", f"req-{number}", "/v1/chat/completions", Telemetry())
            record.admit(consent=False)
            row = record.close(200, ())
            assert row is not None
            log.add(row if number != 4 else {**row, "service": None})
    assert log.flush()
    log.close()
    assert [row["request"] for row in requests_since(ledger)] == [f"req-{number}" for number in (0, 1, 2, 3, 5, 6)]
    assert log.dropped == 1


@async_test
async def test_plain_streamed_and_rejected_requests_are_recorded_with_their_key_and_consent(ledger):
    secret = create(ledger, "ann", consent=True)
    async with service(ledger, FakeReplica("a"), in_flight=1) as (gateway, client):
        headers, body = {"Authorization": f"Bearer {secret}"}, {**CHAT, "seed": 1}
        plain_answer = await client.post("/v1/chat/completions", json=body, headers=headers)
        streamed_answer = await client.post("/v1/chat/completions", json={**body, "stream": True}, headers=headers)
        gateway.admission.in_flight += 1
        rejected_answer = await client.post("/v1/chat/completions", json=body, headers=headers)
        gateway.admission.in_flight -= 1
        assert (plain_answer.status_code, streamed_answer.status_code, rejected_answer.status_code) == (200, 200, 429)
        assert gateway.in_flight == 0 and gateway.admission.bytes_held == 0
        gateway.log.flush()
    rows = {row["request"]: row for row in requests_since(ledger)}
    plain_row, streamed_row, rejected_row = (
        rows[answer.headers["x-request-id"]] for answer in (plain_answer, streamed_answer, rejected_answer)
    )
    assert {row["key"] for row in (plain_row, streamed_row, rejected_row)} == {secret.split("-")[1]}
    assert plain_row["answered"] == streamed_row["answered"] and plain_row["answered"]["choices"]
    assert plain_row["figures"]["ttft"] is None and streamed_row["figures"]["ttft"] > 0
    assert (rejected_row["status"], rejected_row["answered"], rejected_row["figures"]["replica"]) == (429, {}, None)
