"""The gateway before fake replicas: what it lets pass, refuses, repeats, and keeps."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.fakes import FakeReplica, Network, routes_to, version_of, words_of
from vita.measure.usage import asked_since, said_since
from vita.server import keys
from vita.server.front import gateway_app
from vita.server.gateway import Gateway
from vita.server.listener import listener, open_socket
from vita.server.routing import Routes
from vita.server.settings import ServiceSettings
from vita.spine.ledger import Ledger

CHAT = {"model": "cat", "messages": [{"role": "user", "content": "What is a cat?"}]}


@pytest.fixture(scope="module")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    Ledger(path).close()
    return path


@pytest.fixture
def ledger(tmp_path: Path, empty_ledger: Path) -> Ledger:
    return Ledger(shutil.copy(empty_ledger, tmp_path / "ledger.db"))


@asynccontextmanager
async def service(
    ledger: Ledger, *replicas: FakeReplica, routes: Routes | None = None, research: bool = False, **settings: Any
) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    """A gateway on a free port before these replicas, and a client of it."""
    client = httpx.AsyncClient(transport=Network(*replicas))
    given = ServiceSettings(**{"patience": 0.2, "patience_again": 1.0, "header_seconds": 0.5, **settings})
    gateway = Gateway(routes or routes_to(*replicas), ledger, given, client=client, research=research)
    server = listener(gateway_app(gateway), header_seconds=given.header_seconds, connections=100, drain_seconds=1)
    opened = open_socket("127.0.0.1", 0)
    port = opened.getsockname()[1]
    serving = asyncio.create_task(server.serve(sockets=[opened]))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as outside:
            yield gateway, outside
    finally:
        await server.stop()
        await serving
        await gateway.close()


def going(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    def run(ledger: Ledger) -> None:
        asyncio.run(asyncio.wait_for(test(ledger), 30))

    run.__name__ = test.__name__
    return run


def going_anywhere(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The same, on each kind of database."""

    def run(any_ledger: Ledger) -> None:
        asyncio.run(asyncio.wait_for(test(any_ledger), 30))

    run.__name__ = test.__name__
    return run


def events(text: str) -> list[dict[str, Any]]:
    data = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert data[-1] == "[DONE]", text
    return [json.loads(one) for one in data[:-1]]


def text_of(told: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for event in told for choice in event["choices"])


# -- answers that survive their replicas


@going
async def test_a_request_is_answered_with_its_id_and_version(ledger):
    async with service(ledger, FakeReplica("a")) as (gateway, client):
        answer = await client.post("/v1/chat/completions", json={**CHAT, "seed": 7})
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "".join(words_of({"seed": 7}))
        assert answer.headers["x-vita-version"] == "cat:1" and answer.headers["x-request-id"].startswith("req-")
        assert gateway.in_flight == 0 and gateway.door.bytes_held == 0


@going
async def test_a_replica_that_dies_in_the_middle_of_an_answer_costs_nothing(ledger):
    dying, other = FakeReplica("a", dies=[0]), FakeReplica("b")
    async with service(ledger, dying, other) as (_, client):
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 200
        assert dying.asked[0]["seed"] == other.asked[0]["seed"] is not None, (
            "a seed is fixed, so that both answer alike"
        )
        assert answer.json()["choices"][0]["message"]["content"] == "".join(words_of(other.asked[0]))


@pytest.mark.parametrize("per_event", [1, 3])
@pytest.mark.parametrize("dies_at", [0, 1, 4, 7])
def test_a_stream_goes_on_from_another_replica_without_a_word_twice(ledger, dies_at, per_event):
    async def run():
        dying, other = FakeReplica("a", dies=[dies_at]), FakeReplica("b", per_event=per_event)
        async with service(ledger, dying, other) as (gateway, client):
            body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
            answer = await client.post("/v1/chat/completions", json=body)
            told = events(answer.text)
            assert text_of(told) == "".join(words_of(other.asked[0]))
            assert {event["id"] for event in told} == {"chatcmpl-a"}, "one answer has one id"
            roles = [c["delta"]["role"] for e in told for c in e["choices"] if "role" in c["delta"]]
            assert roles == ["assistant"]
            entries = [e for t in told for c in t["choices"] for e in (c.get("logprobs") or {}).get("content", [])]
            assert "".join(entry["token"] for entry in entries) == text_of(told)
            assert [c["finish_reason"] for e in told for c in e["choices"] if c.get("finish_reason")] == ["stop"]
            assert told[-1]["usage"]["completion_tokens"] == 8
            assert gateway.telemetry.resumed._value.get() == 1 and gateway.in_flight == 0

    asyncio.run(run())


@going
async def test_usage_is_counted_but_shown_only_when_it_was_asked_for(ledger):
    async with service(ledger, FakeReplica("a")) as (gateway, client):
        answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        assert not [event for event in events(answer.text) if event.get("usage") or not event["choices"]]
        assert gateway.telemetry.completion_tokens.labels("cat:1")._value.get() == 8


@going
async def test_a_request_that_kills_every_replica_is_given_up(ledger):
    replicas = [FakeReplica(name, dies=[0, 0, 0]) for name in "abcd"]
    async with service(ledger, *replicas) as (_, client):
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 502 and answer.json()["error"]["code"] == "replica_failed"
        assert sum(len(replica.asked) for replica in replicas) == 3


@going
async def test_full_and_stopping_replicas_hand_a_request_on_and_all_full_is_429(ledger):
    full, stopping, free = FakeReplica("a", status=429), FakeReplica("b", status=503), FakeReplica("c")
    async with service(ledger, full, stopping, free) as (_, client):
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        free.status = 429
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1


@going
async def test_no_replica_is_503_with_retry_after_and_ready_says_so(ledger):
    async with service(ledger, FakeReplica("a", down=True)) as (_, client):
        assert (await client.get("/ready")).status_code == 200
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "2"
        assert (await client.get("/ready")).status_code == 503
        assert (await client.get("/health")).json() == {"alive": True}


@going
async def test_a_client_that_leaves_stops_the_work_streaming_or_not(ledger):
    slow = FakeReplica("a", delay=0.3)
    async with service(ledger, slow) as (gateway, client):
        for body in (CHAT, {**CHAT, "stream": True}):
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/chat/completions", json=body, timeout=0.15 if body is CHAT else 0.2)
        await asyncio.sleep(0.6)
        assert slow.cancelled == 2
        assert gateway.in_flight == 0 and gateway.routes.in_flight == 0
        assert gateway.telemetry.cancelled._value.get() == 2


# -- at the door


@going
async def test_more_than_the_service_takes_is_told_to_come_again(ledger):
    async with service(ledger, FakeReplica("a", delay=0.3), in_flight=2) as (_, client):
        asked = [client.post("/v1/chat/completions", json=CHAT) for _ in range(5)]
        answers = await asyncio.gather(*asked)
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)


@going
async def test_bodies_that_cannot_be_read_are_clear_4xx(ledger):
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
        assert not replica.asked


@going
async def test_slow_headers_and_bodies_do_not_hold_a_connection(ledger):
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


@going
async def test_only_the_listed_routes_exist(ledger):
    async with service(ledger, FakeReplica("a")) as (_, client):
        for path in ("/drain", "/v1/drain", "/docs", "/v1/chat", "/../etc/passwd"):
            answer = await client.post(path)
            assert answer.status_code == 404 and answer.json()["error"]["code"] == "unknown_url"
        assert (await client.get("/v1/chat/completions")).status_code == 405
        document = (await client.get("/openapi.json")).json()
        assert {"/v1/chat/completions", "/v1/feedback", "/metrics", "/ready"} <= set(document["paths"])


@going
async def test_a_name_made_to_point_here_is_refused_while_there_are_no_keys(ledger):
    async with service(ledger, FakeReplica("a")) as (_, client):
        answer = await client.get("/v1/models", headers={"host": "evil.example:80"})
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "wrong_host"


@going
async def test_keys_are_asked_for_as_soon_as_there_is_one_and_their_scopes_hold(ledger):
    async with service(ledger, FakeReplica("a")) as (gateway, client):
        assert (await client.get("/v1/models")).status_code == 200
        secret = keys.create(ledger, "chatter", scopes=["chat"], requests_per_minute=2)
        gateway.refresh()
        assert (await client.get("/v1/models")).status_code == 401
        for wrong in ("Bearer vk-00000000-x", "Basic abc", f"Bearer {secret}x", "Bearer"):
            answer = await client.post("/v1/chat/completions", json=CHAT, headers={"authorization": wrong})
            assert answer.status_code == 401 and "www-authenticate" in answer.headers
        mine = {"authorization": f"Bearer {secret}"}
        assert (await client.get("/metrics", headers=mine)).status_code == 403
        answer = await client.post("/v1/completions", json={"model": "cat", "prompt": "a"}, headers=mine)
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "insufficient_scope"
        statuses = [(await client.post("/v1/chat/completions", json=CHAT, headers=mine)).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        keys.revoke(ledger, "chatter")
        gateway.refresh()
        assert (await client.get("/v1/models", headers=mine)).status_code == 401, "revoking the last key opens nothing"


@going
async def test_a_draining_gateway_refuses_the_new_and_finishes_the_old(ledger):
    async with service(ledger, FakeReplica("a", delay=0.3)) as (gateway, client):
        going_on = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
        await asyncio.sleep(0.1)
        gateway.draining = True
        assert (await client.get("/ready")).status_code == 503
        refused = await client.post("/v1/chat/completions", json=CHAT)
        assert refused.status_code == 503 and "retry-after" in refused.headers
        assert (await going_on).status_code == 200


# -- versions


@going
async def test_a_canary_gets_its_share_and_a_user_stays_on_a_version(ledger):
    old, new = FakeReplica("a"), FakeReplica("b")
    routes = routes_to(old)
    routes.add(version_of(new, version="cat:2", model="b" * 64, share=0.0, created=2.0))
    routes.share({"cat:1": 0.7, "cat:2": 0.3})
    async with service(ledger, old, new, routes=routes) as (_, client):

        async def version(user: str) -> str:
            return (await client.post("/v1/chat/completions", json={**CHAT, "user": user})).headers["x-vita-version"]

        first = {user: await version(user) for user in map(str, range(60))}
        assert 8 <= sum(one == "cat:2" for one in first.values()) <= 30
        assert {user: await version(user) for user in first} == first
        routes.share({"cat:1": 0.2, "cat:2": 0.8})
        later = {user: await version(user) for user in first}
        assert not [user for user in first if first[user] == "cat:2" and later[user] == "cat:1"]
        answer = await client.post("/v1/chat/completions", json={**CHAT, "model": "cat:1"})
        assert answer.headers["x-vita-version"] == "cat:1", "a version can be asked for by its name"


@going
async def test_a_deprecated_model_says_so_in_headers(ledger):
    model = "a" * 64
    ledger.move(model, "deprecated", who="ann", why="a better one", sunset="2027-01-01", successor="cat:2")
    since = int(ledger.moves(model)[-1].at)
    async with service(ledger, FakeReplica("a")) as (_, client):
        for answer in (await client.post("/v1/chat/completions", json=CHAT), await client.get("/v1/models/cat:1")):
            assert answer.status_code == 200
            assert answer.headers["deprecation"] == f"@{since}"
            assert answer.headers["sunset"] == "Fri, 01 Jan 2027 00:00:00 GMT"
            assert answer.headers["link"] == '</v1/models/cat%3A2>; rel="successor-version"'
            assert "successor=cat:2" in answer.headers["x-vita-model-deprecation"]


@going
async def test_a_retired_model_is_404_with_its_successor_and_its_page_410(ledger):
    old, new = FakeReplica("a"), FakeReplica("b")
    routes = routes_to(old)
    routes.add(version_of(new, version="cat:2", model="b" * 64, share=1.0, created=2.0))
    ledger.move("a" * 64, "retired", who="ann", why="wrong on sums", successor="cat:2")
    async with service(ledger, old, new, routes=routes) as (_, client):
        for stream in (False, True):
            answer = await client.post("/v1/chat/completions", json={**CHAT, "model": "cat:1", "stream": stream})
            error = answer.json()["error"]
            assert answer.status_code == 404 and error["code"] == "model_retired"
            assert error["type"] == "invalid_request_error" and error["param"] == "model"
            assert error["replacement"] == "cat:2" and error["retired_at"].endswith("Z")
        page = await client.get("/v1/models/cat:1")
        assert page.status_code == 410 and page.json()["reason"] == "wrong on sums"
        assert (await client.post("/v1/chat/completions", json=CHAT)).headers["x-vita-version"] == "cat:2"
        assert [one["id"] for one in (await client.get("/v1/models")).json()["data"]] == ["cat", "cat:2"]
        answer = await client.post("/v1/chat/completions", json={**CHAT, "model": "dog"})
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"
        assert (await client.get("/v1/models/dog")).status_code == 404


@going
async def test_a_retired_model_answers_research_alone(ledger):
    ledger.move("a" * 64, "retired", who="ann", why="old")
    secret = keys.create(ledger, "lab", scopes=["chat", "research"])
    plain = keys.create(ledger, "app", scopes=["chat"])
    async with service(ledger, FakeReplica("a"), research=True) as (_, client):
        pinned = {**CHAT, "model": "cat:1"}
        answer = await client.post("/v1/chat/completions", json=pinned, headers={"authorization": f"Bearer {secret}"})
        assert answer.status_code == 200 and answer.headers["x-vita-model-state"] == "retired"
        answer = await client.post("/v1/chat/completions", json=pinned, headers={"authorization": f"Bearer {plain}"})
        assert answer.status_code == 404


# -- what is kept


@going_anywhere
async def test_content_is_kept_with_consent_only_and_redacted(ledger):
    async with service(ledger, FakeReplica("a")) as (gateway, client):
        body = {**CHAT, "messages": [{"role": "user", "content": "I am ann@example.org"}]}
        await client.post("/v1/chat/completions", json=body)
        await client.post("/v1/chat/completions", json={**body, "stream": True}, headers={"x-vita-consent": "yes"})
        answer = await client.post("/v1/chat/completions", json=body, headers={"x-vita-consent": "perhaps"})
        assert answer.status_code == 400
        gateway.log.flush()
        without, with_consent = asked_since(ledger)
        assert (without["asked"], without["answered"], without["consent"]) == ({}, {}, False)
        assert without["figures"]["completion_tokens"] == 8 and without["version"] == "cat:1"
        assert with_consent["asked"]["messages"][0]["content"] == "I am [email]"
        assert with_consent["answered"]["choices"][0] and with_consent["figures"]["ttft"] > 0
        assert with_consent["figures"]["logprob"] == -1.0


@going_anywhere
async def test_feedback_is_tied_to_a_request_and_stored_before_it_is_acknowledged(ledger):
    async with service(ledger, FakeReplica("a")) as (_, client):
        first = (await client.post("/v1/chat/completions", json=CHAT)).headers["x-request-id"]
        second = (await client.post("/v1/chat/completions", json=CHAT)).headers["x-request-id"]
        for body in (
            {"request_id": first, "kind": "thumb", "value": -1, "consent": True},
            {"request_id": first, "kind": "edit", "better": "A cat purrs; ask bob@example.org."},
            {"request_id": "chatcmpl-1", "kind": "flag", "reason": "rude"},
            {"kind": "vote", "chosen_request_id": second, "rejected_request_id": first},
        ):
            answer = await client.post("/v1/feedback", json=body)
            assert answer.status_code == 201, answer.text
        rows = said_since(ledger)
        assert [row["kind"] for row in rows] == ["thumb", "edit", "flag", "vote"]
        assert rows[0]["value"] == -1 and rows[0]["consent"] and rows[0]["model"] == "a" * 64
        assert rows[1]["content"] == {"better": "A cat purrs; ask [email]."}
        assert rows[3]["request"] == second and rows[3]["content"] == {"rejected_request_id": first}


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
def test_feedback_that_makes_no_sense_is_refused_by_the_field(ledger, body, param, status):
    async def run():
        async with service(ledger, FakeReplica("a")) as (_, client):
            answer = await client.post("/v1/feedback", json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text

    asyncio.run(run())


@going
async def test_feedback_on_somebody_elses_request_is_refused(ledger):
    ann, bob = (keys.create(ledger, name) for name in ("ann", "bob"))
    async with service(ledger, FakeReplica("a")) as (_, client):
        mine = {"authorization": f"Bearer {ann}"}
        number = (await client.post("/v1/chat/completions", json=CHAT, headers=mine)).headers["x-request-id"]
        body = {"request_id": number, "kind": "thumb", "value": 1}
        theirs = {"authorization": f"Bearer {bob}"}
        assert (await client.post("/v1/feedback", json=body, headers=theirs)).status_code == 404
        assert (await client.post("/v1/feedback", json=body, headers=mine)).status_code == 201


@going
async def test_metrics_hold_the_gateways_figures_and_those_of_each_replica(ledger):
    async with service(ledger, FakeReplica("a"), FakeReplica("b")) as (_, client):
        await client.post("/v1/chat/completions", json=CHAT)
        text = (await client.get("/metrics")).text
        assert 'vita_gateway_requests_total{route="/v1/chat/completions",status="200",version="cat:1"} 1.0' in text
        assert 'vita_x{a="b",replica="a"} 1.0' in text and 'vita_x{a="b",replica="b"} 1.0' in text
        assert text.count("# TYPE vita_x gauge") == 1


@going_anywhere
async def test_a_secret_is_never_stored(ledger):
    secret = keys.create(ledger, "ann")
    async with service(ledger, FakeReplica("a")) as (gateway, client):
        body = {**CHAT, "messages": [{"role": "user", "content": f"my key is {secret}"}]}
        headers = {"authorization": f"Bearer {secret}", "x-vita-consent": "yes"}
        await client.post("/v1/chat/completions", json=body, headers=headers)
        gateway.log.flush()
        assert secret not in json.dumps(asked_since(ledger)) + json.dumps([vars(key) for key in keys.all_keys(ledger)])
        assert time.time() > keys.all_keys(ledger)[0].created
