"""The gateway in front of fake replicas: accepted and refused requests, versions, and recorded data."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
import sqlalchemy as sa

from tests.csp import check_page_policy
from tests.server.fakes import FakeReplica, routes_to, version_of
from tests.server.gateways import CHAT, async_test, async_test_on_each_database, service
from vita.gates.weights import ModelMatch, WeightsIdentity, model_files, model_tensors
from vita.monitoring.request_log import feedback_since, requests_since
from vita.server.gateway import keys
from vita.server.gateway.gateway import Gateway

# -- admission


@async_test
async def test_requests_over_the_limit_of_the_service_get_429_with_retry_after(ledger):
    async with service(ledger, FakeReplica("a", delay=0.3), in_flight=2) as (_, client):
        posts = [client.post("/v1/chat/completions", json=CHAT) for _ in range(5)]
        answers = await asyncio.gather(*posts)
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)


@async_test
async def test_invalid_bodies_get_a_4xx_status_with_a_message(ledger):
    replica = FakeReplica("a")
    async with service(ledger, replica, body_bytes=10_000) as (_, client):
        for content, status in [
            (b"{", 400),
            (b"[]", 400),
            (b"\xff\xfe", 400),
            (b'{"model": NaN}', 400),
            (b"[" * 5000, 400),
            (b'{"model": "cat"}', 400),
            (b'{"model": "cat", "messages": [], "tempo": 1}', 400),
            (b" " * 20_000, 413),
        ]:
            answer = await client.post(
                "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
            )
            assert answer.status_code == status, (content[:30], answer.text)
            assert answer.json()["error"]["message"]
        answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": "yes"})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "stream"
        assert (await client.post("/v1/chat/completions", content=b"{}")).status_code == 415

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b" " * 1000

        answer = await client.post(
            "/v1/chat/completions", content=chunks(), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 413, "also when the length was not declared"
        assert not replica.requests


@async_test
async def test_connections_with_slow_headers_or_bodies_are_closed(ledger):
    async with service(ledger, FakeReplica("a"), body_seconds=0.3) as (gateway, client):
        port = client.base_url.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc")
        assert await asyncio.wait_for(reader.read(), 3) == b"", "headers took too long: the connection ends"
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert b" 408 " in await asyncio.wait_for(reader.readline(), 3)
        writer.close()
        assert gateway.in_flight == 0


@async_test
async def test_only_the_listed_routes_exist(ledger):
    async with service(ledger, FakeReplica("a")) as (_, client):
        for path in ("/drain", "/v1/drain", "/docs", "/v1/chat", "/../etc/passwd"):
            answer = await client.post(path)
            assert answer.status_code == 404 and answer.json()["error"]["code"] == "unknown_url"
        assert (await client.get("/v1/chat/completions")).status_code == 405
        document = (await client.get("/openapi.json")).json()
        assert {"/v1/chat/completions", "/v1/feedback", "/metrics", "/ready"} <= set(document["paths"])


@async_test
async def test_an_unknown_host_name_is_refused_while_there_are_no_keys(ledger):
    async with service(ledger, FakeReplica("a")) as (_, client):
        answer = await client.get("/v1/models", headers={"host": "evil.example:80"})
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "wrong_host"


@async_test
async def test_a_key_is_required_once_one_exists_and_its_scopes_apply(ledger):
    async with service(ledger, FakeReplica("a")) as (gateway, client):
        assert (await client.get("/v1/models")).status_code == 200
        secret = keys.create(ledger, "chatter", scopes=["chat"], requests_per_minute=2)
        gateway.refresh()
        assert (await client.get("/v1/models")).status_code == 401
        for invalid_header in ("Bearer vk-00000000-x", "Basic abc", f"Bearer {secret}x", "Bearer"):
            answer = await client.post("/v1/chat/completions", json=CHAT, headers={"authorization": invalid_header})
            assert answer.status_code == 401 and "www-authenticate" in answer.headers
        headers = {"authorization": f"Bearer {secret}"}
        assert (await client.get("/metrics", headers=headers)).status_code == 403
        answer = await client.post("/v1/completions", json={"model": "cat", "prompt": "a"}, headers=headers)
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "insufficient_scope"
        statuses = [
            (await client.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code for _ in range(3)
        ]
        assert statuses == [200, 200, 429]
        keys.revoke(ledger, "chatter")
        gateway.refresh()
        assert (await client.get("/v1/models", headers=headers)).status_code == 401, (
            "revoking the last key does not open the service"
        )


@async_test
async def test_a_draining_gateway_refuses_new_requests_and_finishes_earlier_ones(ledger):
    async with service(ledger, FakeReplica("a", delay=0.3)) as (gateway, client):
        running_task = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
        await asyncio.sleep(0.1)
        gateway.draining = True
        assert (await client.get("/ready")).status_code == 503
        response = await client.post("/v1/chat/completions", json=CHAT)
        assert response.status_code == 503 and "retry-after" in response.headers
        assert (await running_task).status_code == 200


# -- versions


@pytest.mark.slow
@async_test
async def test_a_canary_gets_its_share_and_a_user_stays_on_a_version(ledger):
    old_replica, new_replica = FakeReplica("a"), FakeReplica("b")
    routes = routes_to(old_replica)
    routes.add(version_of(new_replica, version="cat:2", model="b" * 64, share=0.0, created=2.0))
    routes.share({"cat:1": 0.7, "cat:2": 0.3})
    async with service(ledger, old_replica, new_replica, routes=routes) as (_, client):

        async def version(user: str) -> str:
            return (await client.post("/v1/chat/completions", json={**CHAT, "user": user})).headers["x-vita-version"]

        versions_before = {user: await version(user) for user in map(str, range(60))}
        assert 8 <= sum(assigned_version == "cat:2" for assigned_version in versions_before.values()) <= 30
        assert {user: await version(user) for user in versions_before} == versions_before
        routes.share({"cat:1": 0.2, "cat:2": 0.8})
        versions_after = {user: await version(user) for user in versions_before}
        assert not [
            user for user in versions_before if versions_before[user] == "cat:2" and versions_after[user] == "cat:1"
        ]
        answer = await client.post("/v1/chat/completions", json={**CHAT, "model": "cat:1"})
        assert answer.headers["x-vita-version"] == "cat:1", "a request can name a version"


@async_test
async def test_responses_of_a_deprecated_model_have_deprecation_headers(ledger):
    model = "a" * 64
    ledger.move(model, "deprecated", who="ann", why="a better one", sunset="2099-01-01", successor="cat:2")
    deprecated_at = int(ledger.moves(model)[-1].at)
    async with service(ledger, FakeReplica("a")) as (_, client):
        for answer in (await client.post("/v1/chat/completions", json=CHAT), await client.get("/v1/models/cat:1")):
            assert answer.status_code == 200
            assert answer.headers["deprecation"] == f"@{deprecated_at}"
            assert answer.headers["sunset"] == "Thu, 01 Jan 2099 00:00:00 GMT"
            assert answer.headers["link"] == '</v1/models/cat%3A2>; rel="successor-version"'
            assert "successor=cat:2" in answer.headers["x-vita-model-deprecation"]


@async_test
async def test_a_retired_model_gets_404_with_its_successor_and_its_page_gets_410(ledger):
    old_replica, new_replica = FakeReplica("a"), FakeReplica("b")
    routes = routes_to(old_replica)
    routes.add(version_of(new_replica, version="cat:2", model="b" * 64, share=1.0, created=2.0))
    ledger.move("a" * 64, "retired", who="ann", why="wrong on sums", successor="cat:2")
    async with service(ledger, old_replica, new_replica, routes=routes) as (_, client):
        for stream in (False, True):
            answer = await client.post("/v1/chat/completions", json={**CHAT, "model": "cat:1", "stream": stream})
            error = answer.json()["error"]
            assert answer.status_code == 404 and error["code"] == "model_retired"
            assert error["type"] == "invalid_request_error" and error["param"] == "model"
            assert error["replacement"] == "cat:2" and error["retired_at"].endswith("Z")
        page = await client.get("/v1/models/cat:1")
        assert page.status_code == 410 and page.json()["reason"] == "wrong on sums"
        assert (await client.post("/v1/chat/completions", json=CHAT)).headers["x-vita-version"] == "cat:2"
        assert [entry["id"] for entry in (await client.get("/v1/models")).json()["data"]] == ["cat", "cat:2"]
        answer = await client.post("/v1/chat/completions", json={**CHAT, "model": "dog"})
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"
        assert (await client.get("/v1/models/dog")).status_code == 404


@async_test
async def test_a_retired_model_for_research_answers_only_keys_with_the_scope_research(ledger):
    ledger.move("a" * 64, "retired", who="ann", why="old", research=True)
    secret = keys.create(ledger, "lab", scopes=["chat", "research"])
    app_secret = keys.create(ledger, "app", scopes=["chat"])
    async with service(ledger, FakeReplica("a"), research=True) as (_, client):
        version_chat = {**CHAT, "model": "cat:1"}
        answer = await client.post(
            "/v1/chat/completions", json=version_chat, headers={"authorization": f"Bearer {secret}"}
        )
        assert answer.status_code == 200 and answer.headers["x-vita-model-state"] == "retired"
        answer = await client.post(
            "/v1/chat/completions", json=version_chat, headers={"authorization": f"Bearer {app_secret}"}
        )
        assert answer.status_code == 404


@async_test
async def test_an_archived_model_answers_no_request(ledger):
    ledger.move("a" * 64, "retired", who="ann", why="old", research=False)
    secret = keys.create(ledger, "lab", scopes=["chat", "research"])
    async with service(ledger, FakeReplica("a"), research=True) as (_, client):
        headers = {"authorization": f"Bearer {secret}"}
        answer = await client.post("/v1/chat/completions", json={**CHAT, "model": "cat:1"}, headers=headers)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_retired"


@async_test
async def test_the_retirement_of_a_base_or_draft_model_ends_a_running_version(ledger):
    """The weights of `cat:1` are its model a, a copy c, and its draft model d; the adapter `alpha` uses them too."""
    replica = FakeReplica("a")
    routes = routes_to(replica)
    version = routes.versions["cat:1"]
    version.weights = (match_of("a", "c"), match_of("d"))
    adapter = version_of(replica, version="alpha:1", model="e" * 64, share=0.0)
    adapter.base, adapter.weights = version.id, (match_of("e"), match_of("a", "c"))
    routes.adapters[adapter.id] = adapter
    async with service(ledger, replica, routes=routes) as (gateway, client):
        for model in ("cat", "cat:1", "alpha"):
            assert (await client.post("/v1/chat/completions", json={**CHAT, "model": model})).status_code == 200
        ledger.move("d" * 64, "retired", who="ann", why="wrong on sums", successor="b" * 64)
        gateway.refresh()
        for model in ("cat", "cat:1", "alpha"):
            answer = await client.post("/v1/chat/completions", json={**CHAT, "model": model})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["replacement"]) == (404, "model_retired", None)
            assert "the model dddddddddddd, which was retired: wrong on sums" in error["reason"]
        assert (await client.get("/v1/models")).json()["data"] == []
        assert (await client.get("/v1/models/alpha")).status_code == 410
        version.weights = version.weights[:1]
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        ledger.move("c" * 64, "retired", who="ann", why="old")
        gateway.refresh()
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 404


def match_of(letter: str, *copies: str) -> ModelMatch:
    """Return the match of a model with the tensors `letter`, and of copies that were in the store at its clearance."""
    digest, *same_weights = (name * 64 for name in (letter, *copies))
    identity = WeightsIdentity.of({"model.safetensors": digest}, tensors=f"tensors {letter}")
    return ModelMatch(digest, (digest,), (digest, *same_weights), identity)


@async_test
async def test_the_retirement_of_a_copy_that_was_added_later_ends_a_running_version(ledger):
    """The copies have other files than the models of `cat:1` and of the adapter `alpha`, and the same tensors."""
    replica = FakeReplica("a")
    routes = routes_to(replica)
    version = routes.versions["cat:1"]
    version.weights = (match_of("a"),)
    adapter = version_of(replica, version="alpha:1", model="e" * 64, share=0.0)
    adapter.base, adapter.weights = version.id, (match_of("e"), match_of("a"))
    routes.adapters[adapter.id] = adapter
    copies = {"a": "1" * 64, "e": "2" * 64}

    async def statuses(gateway: Gateway, client: httpx.AsyncClient) -> list[int]:
        gateway.refresh()
        posts = [client.post("/v1/chat/completions", json={**CHAT, "model": model}) for model in ("cat:1", "alpha")]
        return [(await post).status_code for post in posts]

    async with service(ledger, replica, routes=routes, research=True) as (gateway, client):
        ledger.move(copies["e"], "retired", who="ann", why="wrong on sums")
        assert await statuses(gateway, client) == [200, 200], "the copy is not in the index"
        with ledger.transaction() as database:
            for letter, copy in copies.items():
                row = {"artifact": copy, "name": "model.safetensors", "sha256": copy}
                database.execute(sa.insert(model_files).values(row))
                database.execute(sa.insert(model_tensors).values(artifact=copy, digest=f"tensors {letter}"))
        assert await statuses(gateway, client) == [200, 404]
        sunset = time.time() + 3600
        ledger.move(copies["a"], "deprecated", who="ann", why="old", sunset=sunset)
        del routes.adapters[adapter.id]
        assert (await statuses(gateway, client))[0] == 200
        gateway.catalog.clock = lambda: sunset
        assert (await statuses(gateway, client))[0] == 404 and gateway.directory.is_ended(version)
        gateway.catalog.clock = time.time
        ledger.move(copies["a"], "retired", who="ann", why="old", research=True)
        assert (await statuses(gateway, client))[0] == 404
        assert gateway.directory.is_ended(version), "only the files that were kept may be served for research"


@async_test
async def test_a_retired_version_does_not_replace_a_version_that_is_down(ledger):
    old_replica, new_replica = FakeReplica("a"), FakeReplica("b", down=True)
    routes = routes_to(old_replica)
    routes.add(version_of(new_replica, version="cat:2", model="b" * 64, share=1.0, created=2.0))
    ledger.move("a" * 64, "retired", who="ann", why="wrong on sums")
    async with service(ledger, old_replica, new_replica, routes=routes) as (_, client):
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 503
        assert not old_replica.requests


@async_test
async def test_a_model_answers_until_its_sunset_and_is_retired_afterwards(ledger):
    sunset = datetime(2099, 1, 1, tzinfo=UTC).timestamp()
    ledger.move("a" * 64, "deprecated", who="ann", why="a better one", sunset=sunset, successor="cat:2")
    replica = FakeReplica("a")
    async with service(ledger, replica) as (gateway, client):
        gateway.catalog.clock = lambda: sunset - 1
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        gateway.catalog.clock = lambda: sunset
        for model in ("cat", "cat:1"):
            error = (await client.post("/v1/chat/completions", json={**CHAT, "model": model})).json()["error"]
            assert (error["code"], error["replacement"]) == ("model_retired", "cat:2")
            assert error["retired_at"] == "2099-01-01T00:00:00Z"
        page = await client.get("/v1/models/cat:1")
        assert page.status_code == 410 and page.json()["reason"] == "a better one"
        assert len(replica.requests) == 1


# -- recorded data


@async_test_on_each_database
async def test_content_is_recorded_only_with_consent_and_redacted(ledger):
    async with service(ledger, FakeReplica("a")) as (gateway, client):
        body = {**CHAT, "messages": [{"role": "user", "content": "I am ann@example.org"}]}
        await client.post("/v1/chat/completions", json=body)
        await client.post("/v1/chat/completions", json={**body, "stream": True}, headers={"x-vita-consent": "yes"})
        answer = await client.post("/v1/chat/completions", json=body, headers={"x-vita-consent": "perhaps"})
        assert answer.status_code == 400
        gateway.log.flush()
        row_without_consent, row_with_consent = requests_since(ledger)
        assert (row_without_consent["asked"], row_without_consent["answered"], row_without_consent["consent"]) == (
            {},
            {},
            False,
        )
        assert row_without_consent["figures"]["completion_tokens"] == 8 and row_without_consent["version"] == "cat:1"
        assert row_with_consent["asked"]["messages"][0]["content"] == "I am [email]"
        assert row_with_consent["answered"]["choices"][0] and row_with_consent["figures"]["ttft"] > 0
        assert row_with_consent["figures"]["logprob"] == -1.0


@async_test_on_each_database
async def test_feedback_belongs_to_a_request_and_is_stored_before_the_response(ledger):
    async with service(ledger, FakeReplica("a")) as (_, client):
        first_id = (await client.post("/v1/chat/completions", json=CHAT)).headers["x-request-id"]
        second_id = (await client.post("/v1/chat/completions", json=CHAT)).headers["x-request-id"]
        for body in (
            {"request_id": first_id, "kind": "thumb", "value": -1, "consent": True},
            {"request_id": first_id, "kind": "edit", "better": "A cat purrs; ask bob@example.org.", "consent": True},
            {"request_id": "chatcmpl-1", "kind": "flag", "reason": "rude", "consent": True},
            {"kind": "vote", "chosen_request_id": second_id, "rejected_request_id": first_id},
        ):
            answer = await client.post("/v1/feedback", json=body)
            assert answer.status_code == 201, answer.text
        rows = feedback_since(ledger)
        assert [row["kind"] for row in rows] == ["thumb", "edit", "flag", "vote"]
        assert rows[0]["value"] == -1 and rows[0]["consent"] and rows[0]["model"] == "a" * 64
        assert rows[1]["content"] == {"better": "A cat purrs; ask [email]."}
        assert rows[3]["request"] == second_id and rows[3]["content"] == {"rejected_request_id": first_id}


@pytest.mark.parametrize(("log", "consent"), [("content", False), ("metadata", True), ("metadata", False)])
def test_without_consent_or_a_content_log_feedback_texts_are_not_recorded(ledger, log, consent):
    async def run():
        async with service(ledger, FakeReplica("a"), log=log) as (_, client):
            answers = [await client.post("/v1/chat/completions", json=CHAT) for _ in range(2)]
            first_id, second_id = (answer.headers["x-request-id"] for answer in answers)
            for body, texts in (
                (
                    {"request_id": first_id, "kind": "edit", "better": "I am Ann.", "reason": "so"},
                    ["better", "reason"],
                ),
                ({"request_id": first_id, "kind": "flag", "reason": "It told my address."}, ["reason"]),
                ({"request_id": first_id, "kind": "thumb", "value": 1}, []),
                (
                    {"kind": "vote", "chosen_request_id": first_id, "rejected_request_id": second_id, "reason": "x"},
                    ["reason"],
                ),
            ):
                answer = await client.post("/v1/feedback", json={**body, "consent": consent})
                assert (answer.status_code, answer.json()["left_out"]) == (201, texts)
            rows = feedback_since(ledger)
            assert [row["content"] for row in rows] == [{}, {}, {}, {"rejected_request_id": second_id}]
            assert [(row["kind"], row["value"]) for row in rows] == [
                ("edit", None), ("flag", None), ("thumb", 1), ("vote", 1),
            ]  # fmt: skip
            assert [row["consent"] for row in rows] == [False, False, consent, False]

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "param", "status"),
    [
        ({"kind": "thumb", "value": 1}, "request_id", 400),
        ({"kind": "thumb", "request_id": "r", "value": 0}, "value", 400),
        ({"kind": "thumb", "request_id": "r", "value": True}, "value", 400),
        ({"kind": "thumb", "request_id": "r", "value": "1"}, "value", 400),
        ({"kind": "edit", "request_id": "r"}, "better", 400),
        ({"kind": "edit", "request_id": "r", "better": ""}, "better", 400),
        ({"kind": "flag", "request_id": "r", "reason": "x", "value": 1}, "value", 400),
        ({"kind": "like", "request_id": "r"}, "kind", 400),
        ({"kind": "vote", "chosen_request_id": "r", "rejected_request_id": "r"}, "rejected_request_id", 400),
        ({"kind": "thumb", "request_id": "r", "value": 1, "stars": 5}, "stars", 400),
        ({"kind": "thumb", "request_id": "unknown", "value": 1}, "request_id", 404),
    ],
)
def test_the_error_for_invalid_feedback_names_the_field(ledger, body, param, status):
    async def run():
        async with service(ledger, FakeReplica("a")) as (_, client):
            answer = await client.post("/v1/feedback", json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text

    asyncio.run(run())


@async_test
async def test_feedback_on_a_request_of_another_key_is_refused(ledger):
    ann, bob = (keys.create(ledger, name) for name in ("ann", "bob"))
    async with service(ledger, FakeReplica("a")) as (_, client):
        ann_headers = {"authorization": f"Bearer {ann}"}
        request_id = (await client.post("/v1/chat/completions", json=CHAT, headers=ann_headers)).headers["x-request-id"]
        body = {"request_id": request_id, "kind": "thumb", "value": 1}
        bob_headers = {"authorization": f"Bearer {bob}"}
        assert (await client.post("/v1/feedback", json=body, headers=bob_headers)).status_code == 404
        assert (await client.post("/v1/feedback", json=body, headers=ann_headers)).status_code == 201


@async_test
async def test_metrics_contain_the_figures_of_the_gateway_and_of_each_replica(ledger):
    async with service(ledger, FakeReplica("a"), FakeReplica("b")) as (_, client):
        await client.post("/v1/chat/completions", json=CHAT)
        text = (await client.get("/metrics")).text
        assert 'vita_gateway_requests_total{route="/v1/chat/completions",status="200",version="cat:1"} 1.0' in text
        assert 'vita_x{a="b",replica="a"} 1.0' in text and 'vita_x{a="b",replica="b"} 1.0' in text
        assert text.count("# TYPE vita_x gauge") == 1


@async_test_on_each_database
async def test_a_secret_is_never_stored(ledger):
    secret = keys.create(ledger, "ann")
    async with service(ledger, FakeReplica("a")) as (gateway, client):
        body = {**CHAT, "messages": [{"role": "user", "content": f"my key is {secret}"}]}
        headers = {"authorization": f"Bearer {secret}", "x-vita-consent": "yes"}
        await client.post("/v1/chat/completions", json=body, headers=headers)
        gateway.log.flush()
        assert secret not in json.dumps(requests_since(ledger)) + json.dumps(
            [vars(key) for key in keys.all_keys(ledger)]
        )
        assert time.time() > keys.all_keys(ledger)[0].created


@async_test
async def test_the_chat_page_loads_nothing_and_its_policy_allows_only_its_own_script(ledger):
    async with service(ledger, FakeReplica("a")) as (_, client):
        answer = await client.get("/")
    check_page_policy(answer.text, answer.headers["content-security-policy"])
    assert "prefers-color-scheme: dark" in answer.text
