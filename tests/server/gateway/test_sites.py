"""Gateways of several sites with one ledger: their headers, repeated requests, continued streams and residency."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests.server.fakes import FakeReplica, routes_to
from tests.server.gateways import CHAT, async_test, async_test_on_each_database, events, service, text_of
from vita.monitoring.request_log import feedback_since, requests_since
from vita.server.gateway.keys import all_keys, create
from vita.server.sites.idempotency import find_record, idempotency_records, prune_records
from vita.server.sites.site import Site
from vita.spine.errors import ConfigError
from vita.spine.ledger import Ledger

PARIS, OSLO, OHIO = Site("paris", "eu"), Site("oslo", "eu"), Site("ohio", "us")
ONCE = {"Idempotency-Key": "order-17"}


async def text(client: httpx.AsyncClient, headers: dict[str, str] = ONCE, **fields: Any) -> tuple[str, httpx.Response]:
    answer = await client.post("/v1/chat/completions", json={**CHAT, **fields}, headers=headers)
    if answer.status_code != 200:
        return "", answer
    return answer.json()["choices"][0]["message"]["content"], answer


@async_test_on_each_database
async def test_a_request_that_is_repeated_at_another_site_has_the_same_completion(ledger: Ledger) -> None:
    async with service(ledger, FakeReplica("r1"), site=PARIS) as (_, paris):
        first, answer = await text(paris)
        assert answer.headers["x-vita-site"] == "paris" and answer.headers["x-vita-digest"] == "a" * 64
        assert answer.headers["x-vita-idempotency"] == "recorded"
        request_id = answer.headers["x-request-id"]
    async with service(ledger, FakeReplica("r2"), site=OSLO) as (_, oslo):
        second, repeated = await text(oslo)
        assert first == second and repeated.headers["x-vita-site"] == "oslo"
        assert repeated.headers["x-vita-idempotency"] == "repeated"
        assert repeated.headers["x-vita-repeat-of"] == request_id
        _, refused = await text(oslo, max_tokens=3)
        assert refused.status_code == 422 and refused.json()["error"]["code"] == "idempotency_key_reused"
        _, other = await text(oslo, {"Idempotency-Key": "order-18"})
        assert other.headers["x-vita-idempotency"] == "recorded"
    rows = [(row["figures"]["site"], row["status"], row["figures"].get("repeat_of")) for row in requests_since(ledger)]
    assert rows == [("paris", 200, None), ("oslo", 200, request_id), ("oslo", 422, None), ("oslo", 200, None)]


@async_test
async def test_a_stream_continues_at_another_site_after_the_last_event_of_the_client(ledger: Ledger) -> None:
    for usage in (False, True):
        options = {"stream_options": {"include_usage": True}} if usage else {}
        body = {**CHAT, "stream": True, **options}
        once = {"Idempotency-Key": f"stream-{usage}"}
        async with service(ledger, FakeReplica("r1"), site=PARIS) as (_, paris):
            whole = (await paris.post("/v1/chat/completions", json=body, headers=once)).text
        parts = [part for part in whole.split("\n\n") if part]
        ids = [part.split("\n")[0].removeprefix("id: ") for part in parts[:-1]]
        assert len(ids) == (11 if usage else 10) and parts[-1] == "data: [DONE]"
        expected = text_of(events(_without_ids(whole)))
        async with service(ledger, FakeReplica("r2", per_event=3), site=OSLO) as (_, oslo):
            for count, last in list(enumerate(ids, start=1))[::3]:
                headers = {**once, "Last-Event-ID": last}
                answer = await oslo.post("/v1/chat/completions", json=body, headers=headers)
                assert answer.status_code == 200, answer.text
                sent = text_of(events(_without_ids("\n\n".join([*parts[:count], "data: [DONE]", ""]))))
                rest = events(_without_ids(answer.text))
                assert sent + text_of(rest) == expected
                assert {event["id"] for event in rest} <= {"chatcmpl-r1"}


def _without_ids(stream: str) -> str:
    return "\n\n".join("\n".join(line for line in part.split("\n") if not line.startswith("id: "))
                       for part in stream.split("\n\n"))  # fmt: skip


def _forged_id(response: Any) -> str:
    """Return the id of an event of a response whose own id no gateway has created."""
    content = json.dumps(["a" * 16, [response, 0, False, []]])
    return base64.urlsafe_b64encode(content.encode()).rstrip(b"=").decode()


@async_test
async def test_an_event_id_of_another_stream_or_model_does_not_continue_a_stream(ledger: Ledger) -> None:
    body = {**CHAT, "stream": True}
    async with service(ledger, FakeReplica("r1"), site=PARIS) as (_, paris):

        async def ids(key: str) -> list[str]:
            answer = await paris.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": key})
            return [part.split("\n")[0].removeprefix("id: ") for part in answer.text.split("\n\n")]

        async def refusal(headers: dict[str, str], **fields: Any) -> tuple[int, str]:
            answer = await paris.post("/v1/chat/completions", json={**body, **fields}, headers=headers)
            return answer.status_code, answer.text

        foreign = (await ids("one"))[6]
        await ids("two")
        status, content = await refusal({"Idempotency-Key": "two", "Last-Event-ID": foreign})
        assert (status, "stream_diverged" in content) == (200, True)
        forged = [_forged_id(response) for response in ("A" * 5000, "a\0b", 7)]
        for wrong in ("7", "!", "e30", "W10", "x" * 20_000, *forged):
            status, content = await refusal({"Idempotency-Key": "two", "Last-Event-ID": wrong})
            assert status == 400 and "must be the `id` of an event" in content
        assert (await refusal({"Last-Event-ID": foreign}))[0] == 400
        assert (await refusal({"Idempotency-Key": "3", "Last-Event-ID": foreign}, stream=False))[0] == 400
        assert (await refusal({"Idempotency-Key": "two words"}))[0] == 400
    other_weights = routes_to(replica := FakeReplica("r2"), model="b" * 64)
    async with service(ledger, replica, routes=other_weights, site=OSLO) as (_, oslo):
        headers = {"Idempotency-Key": "new", "Last-Event-ID": foreign}
        answer = await oslo.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 410 and answer.json()["error"]["code"] == "version_gone"


@async_test
async def test_a_repetition_never_receives_the_completion_of_other_weights(ledger: Ledger) -> None:
    async with service(ledger, FakeReplica("r1"), site=PARIS) as (_, paris):
        await text(paris)
    for version, model in (("cat:2", "b" * 64), ("cat:1", "b" * 64)):
        replica = FakeReplica("r2")
        routes = routes_to(replica, version=version, model=model)
        async with service(ledger, replica, routes=routes, site=OSLO) as (_, oslo):
            _, answer = await text(oslo)
            assert answer.status_code == 410, answer.text
            assert "`cat:1` (model aaaaaaaaaaaaaaaa), which this site does not serve" in answer.text
            assert not replica.requests


@async_test
async def test_a_request_that_no_replica_has_started_can_be_repeated_with_another_version(ledger: Ledger) -> None:
    async with service(ledger, FakeReplica("r1", down=True), site=PARIS) as (_, paris):
        assert (await text(paris))[1].status_code == 503
    other_version = routes_to(replica := FakeReplica("r2"), version="cat:2", model="b" * 64)
    async with service(ledger, replica, routes=other_version, site=OSLO) as (_, oslo):
        _, answer = await text(oslo)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-vita-idempotency"] == "recorded" and answer.headers["x-vita-digest"] == "b" * 64


@async_test
async def test_a_ledger_that_does_not_respond_delays_requests_once_and_changes_no_completion(ledger: Ledger) -> None:
    async with service(ledger, FakeReplica("r1"), site=PARIS, idempotency_seconds=0.2) as (_, paris):
        recorded, _ = await text(paris)
        with ledger.exclusive("a writer"):
            start = time.monotonic()
            first, answer = await text(paris)
            waited = time.monotonic() - start
            assert answer.headers["x-vita-idempotency"] == "unrecorded" and waited < 2.0
            start = time.monotonic()
            second, _ = await text(paris)
            assert time.monotonic() - start < waited
        assert recorded == first == second  # the seed needs no ledger
        with ledger.exclusive("a writer"):
            _, late = await text(paris, {"Idempotency-Key": "late"})
            assert late.headers["x-vita-idempotency"] == "unrecorded"
        async with asyncio.timeout(5):  # its record is written afterwards
            while find_record(ledger, late.headers["x-request-id"], key="") is None:
                await asyncio.sleep(0.02)


@async_test
async def test_an_idempotency_key_belongs_to_its_api_key_and_expires(ledger: Ledger) -> None:
    keys = [{"Authorization": f"Bearer {create(ledger, name)}", **ONCE} for name in ("a", "b")]
    async with service(ledger, FakeReplica("r1"), idempotency_hours=1.0) as (_, http):
        texts = [(await text(http, key))[0] for key in keys]
        assert (await text(http, keys[1]))[0] == texts[1]
        assert (await text(http, keys[0], max_tokens=2))[1].status_code == 422
        with ledger.transaction() as database:
            database.execute(sa.update(idempotency_records).values(at=time.time() - 3700))
        assert (await text(http, keys[0], max_tokens=2))[1].headers["x-vita-idempotency"] == "recorded"
        assert prune_records(ledger, hours=1.0) == 1 and prune_records(ledger, hours=1.0) == 0
        assert "x-vita-idempotency" not in (await text(http, {"Authorization": keys[0]["Authorization"]}))[1].headers


@async_test_on_each_database
async def test_feedback_is_accepted_at_each_site_and_stored_once(ledger: Ledger) -> None:
    async with AsyncExitStack() as stack:
        sites = [
            (await stack.enter_async_context(service(ledger, FakeReplica(site.name), site=site)))[1]
            for site in (PARIS, OSLO, OHIO)
        ]
        _, answer = await text(sites[0])
        thumb = {"kind": "thumb", "value": 1, "request_id": answer.headers["x-request-id"]}
        statuses = [(await site.post("/v1/feedback", json=thumb)).status_code for site in (*sites, *sites)]
        assert statuses == [201, 200, 200, 200, 200, 200]
    assert len(feedback_since(ledger)) == 1


@async_test
async def test_feedback_on_a_request_without_a_log_entry_refers_to_its_repetition_or_its_record(ledger: Ledger) -> None:
    async with service(ledger, FakeReplica("r1"), site=PARIS, log="none") as (_, paris):  # as if it died before
        _, unrepeated = await text(paris, {"Idempotency-Key": "1"})
        _, first = await text(paris, {"Idempotency-Key": "2"})
        _, unknown = await text(paris, {})
        thumb = {"kind": "thumb", "value": 1, "request_id": unrepeated.headers["x-request-id"]}
        assert (await paris.post("/v1/feedback", json=thumb)).status_code == 404  # it stores nothing
    async with service(ledger, FakeReplica("r2"), site=OSLO) as (_, oslo):

        async def status(answer: httpx.Response) -> int:
            thumb = {"kind": "thumb", "value": 1, "request_id": answer.headers["x-request-id"]}
            return (await oslo.post("/v1/feedback", json=thumb)).status_code

        _, second = await text(oslo, {"Idempotency-Key": "2"})
        statuses = [await status(answer) for answer in (unrepeated, unrepeated, first, second, unknown)]
        assert statuses == [201, 200, 201, 200, 404]
    records = [(record["request"], record["model"]) for record in feedback_since(ledger)]
    assert records == [(answer.headers["x-request-id"], "a" * 64) for answer in (unrepeated, second)]


# -- residency


@async_test
async def test_a_limited_key_is_accepted_only_in_its_region(ledger: Ledger) -> None:
    limited = {"Authorization": f"Bearer {create(ledger, 'clinic', regions=['eu'])}"}
    assert all_keys(ledger)[0].regions == ("eu",)
    for site, status in ((PARIS, 200), (OHIO, 403), (Site("lab"), 403), (Site(), 403)):
        replica = FakeReplica("r1")
        async with service(ledger, replica, site=site, ledger_region="eu") as (gateway, http):
            _, answer = await text(http, limited)
            assert answer.status_code == status, site
            assert len(replica.requests) == (status == 200)
            if status == 403:
                assert answer.json()["error"]["code"] == "wrong_region" and "`eu`" in answer.text
            assert (await http.get("/v1/models", headers=limited)).status_code == status
            gateway.log.flush()
    assert [row["figures"]["regions"] for row in requests_since(ledger)] == [["eu"]]


@async_test
async def test_a_header_limits_one_request_and_never_extends_its_key(ledger: Ledger) -> None:
    free, limited = (f"Bearer {create(ledger, name, regions=regions)}" for name, regions in (("a", ()), ("b", ["us"])))
    async with service(ledger, FakeReplica("r1"), site=PARIS) as (_, http):
        cases = [(free, "eu", 200), (free, "us, eu", 200), (free, "us", 403), (free, "EU", 400), (free, "", 400)]
        for key, regions, status in [*cases, (limited, "eu", 403), (limited, "us, eu", 403)]:
            headers = {"Authorization": key, "X-Vita-Region": regions}
            assert (await text(http, headers))[1].status_code == status, regions
        headers = {"Authorization": free, "X-Vita-Region": "eu"}
        assert (await http.get("/v1/batches", headers=headers)).status_code in (400, 404)


@pytest.mark.parametrize("ledger_region", [None, "us"])
def test_nothing_of_a_limited_request_is_stored_in_another_or_unknown_region(
    ledger: Ledger, ledger_region: str | None
) -> None:
    @async_test
    async def check(ledger: Ledger) -> None:
        limited = {"Authorization": f"Bearer {create(ledger, 'clinic', regions=['eu'])}", **ONCE}
        async with service(ledger, FakeReplica("r1"), site=PARIS, ledger_region=ledger_region) as (gateway, http):
            _, answer = await text(http, limited)
            assert answer.status_code == 200 and answer.headers["x-vita-idempotency"] == "unrecorded"
            thumb = {"kind": "thumb", "value": 1, "request_id": answer.headers["x-request-id"]}
            refused = await http.post("/v1/feedback", json=thumb, headers=limited)
            assert refused.status_code == 403 and refused.json()["error"]["code"] == "wrong_region"
            gateway.log.flush()
            assert gateway.telemetry.not_logged._value.get() == 1
        assert requests_since(ledger) == [] and feedback_since(ledger) == []
        with ledger.transaction() as database:
            assert database.execute(sa.select(idempotency_records)).first() is None

    check(ledger)


@async_test
async def test_feedback_on_a_limited_request_is_refused_in_another_region(ledger: Ledger) -> None:
    key = {"Authorization": f"Bearer {create(ledger, 'a')}"}
    for log in ("content", "none"):
        async with service(ledger, FakeReplica("r1"), site=PARIS, ledger_region="eu", log=log) as (_, paris):
            _, answer = await text(paris, {**key, "X-Vita-Region": "eu", "Idempotency-Key": log})
        thumb = {"kind": "thumb", "value": 1, "request_id": answer.headers["x-request-id"]}
        for site, status in ((OHIO, 403), (OSLO, 201)):
            async with service(ledger, FakeReplica("r2"), site=site, ledger_region="eu") as (_, http):
                assert (await http.post("/v1/feedback", json=thumb, headers=key)).status_code == status


def test_the_names_of_sites_and_regions_are_checked() -> None:
    for name in ("Paris", "a b", "-", "x" * 64, "ü"):
        with pytest.raises(ConfigError, match="lowercase letters"):
            Site(name)
        with pytest.raises(ConfigError, match="lowercase letters"):
            Site("paris", name)
