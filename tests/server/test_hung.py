"""A replica that hangs or a locked ledger does not delay requests for long."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.fakes import FakeReplica, words_of
from tests.server.gateways import CHAT, async_test, events, lost_requests, service, text_of
from tests.server.service.test_supervisor import call_service, running_service, stub_release
from vita.monitoring.request_log import deployments
from vita.server.service.journal import Journal
from vita.spine.ledger import Ledger


def hang(gateway: Any, name: str, hung: bool = True) -> None:
    """Mark a replica as the supervisor does when it stops or resumes answering its probes."""
    for _, backend in gateway.router.backends():
        if backend.name == name:
            backend.hung, backend.ready = hung, not hung
    gateway.router.wake()


@async_test
async def test_a_request_of_a_hung_replica_moves_to_another_replica(ledger):
    hung_replica, other_replica = FakeReplica("a", delay=20.0), FakeReplica("b")
    async with service(ledger, hung_replica, other_replica) as (gateway, client):
        for stream in (False, True):
            body = {**CHAT, "seed": 3, "stream": stream}
            hang(gateway, "a", hung=False)
            hang(gateway, "b")
            response_task = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            await asyncio.sleep(0.1)
            hang(gateway, "a")
            await asyncio.sleep(0.1)
            assert not response_task.done(), "no other replica is ready, so the request waits"
            hang(gateway, "b", hung=False)
            answer = await asyncio.wait_for(response_task, 2)
            assert answer.status_code == 200
            text = text_of(events(answer.text)) if stream else answer.json()["choices"][0]["message"]["content"]
            assert text == "".join(words_of(body))
        assert hung_replica.cancelled == 2 and not lost_requests(gateway)


@async_test
async def test_a_request_of_a_removed_replica_moves_to_a_later_replica(ledger):
    removed_replica, later_replica = FakeReplica("a", delay=20.0), FakeReplica("b")
    async with service(ledger, removed_replica, later_replica) as (gateway, client):
        hang(gateway, "b")
        response_task = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
        await asyncio.sleep(0.1)
        hang(gateway, "a")
        (version,) = gateway.router.versions.values()
        version.backends = [backend for backend in version.backends if backend.name != "a"]
        hang(gateway, "b", hung=False)
        assert (await asyncio.wait_for(response_task, 2)).status_code == 200
        assert removed_replica.cancelled == 1 and not lost_requests(gateway)


@async_test
async def test_a_request_waits_for_a_hung_replica_if_there_is_no_other(ledger):
    async with service(ledger, FakeReplica("a", delay=0.5)) as (gateway, client):
        response_task = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
        await asyncio.sleep(0.1)
        hang(gateway, "a")
        assert (await response_task).status_code == 200


@async_test
async def test_a_request_moves_to_another_version_if_all_replicas_hang_unless_it_names_the_version(ledger):
    from tests.server.fakes import routes_to, version_of

    old_replica, new_replica = FakeReplica("a", delay=5.0), FakeReplica("b")
    routes = routes_to(old_replica)
    async with service(ledger, old_replica, new_replica, routes=routes) as (gateway, client):
        tasks = [
            asyncio.create_task(client.post("/v1/chat/completions", json={**CHAT, "model": model}))
            for model in ("cat", "cat:1")
        ]
        await asyncio.sleep(0.1)
        routes.add(version_of(new_replica, version="cat:2", model="b" * 64, share=0.5))
        hang(gateway, "a")
        answer = await asyncio.wait_for(tasks[0], 2)
        assert answer.status_code == 200 and answer.headers["x-vita-version"] == "cat:2"
        assert not tasks[1].done()
        tasks[1].cancel()


# -- the ledger


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the write lock of a SQLite file in a second process."""
    code = (
        "import sqlite3, sys\n"
        f"held = sqlite3.connect({str(path)!r}, isolation_level=None)\n"
        "held.execute('begin immediate')\nprint('held', flush=True)\nsys.stdin.read()"
    )
    lock_process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert lock_process.stdout is not None
    assert await asyncio.to_thread(lock_process.stdout.readline) == b"held\n"
    try:
        yield
    finally:
        lock_process.kill()
        lock_process.communicate()


def test_a_change_is_recorded_later_if_the_ledger_is_locked(tmp_path):
    lines: list[str] = []
    row = {"service": "cat", "version": "cat:1", "model": "a", "release": "b", "action": "started", "share": 1.0,
           "who": "", "at": 1.0}  # fmt: skip

    async def run():
        ledger = Ledger(tmp_path / "ledger.db")
        with ledger.transaction() as database:
            database.exec_driver_sql("pragma busy_timeout=100")
        journal = Journal(ledger, lines.append)
        async with locked(tmp_path / "ledger.db"):
            journal.add(row)
            assert not await journal.flush(0.5)
        assert await journal.flush(10)
        await journal.close(seconds=1)

    asyncio.run(asyncio.wait_for(run(), 30))
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        assert database.execute(f"select version, action from {deployments.name}").fetchall() == [("cat:1", "started")]


@pytest.mark.slow
def test_no_request_stalls_while_the_ledger_is_locked_and_the_fleet_changes(tmp_path):
    async def run():
        async with running_service(tmp_path) as (url, control):
            async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
                async with locked(tmp_path / "ledger.db"):
                    slowest_task = asyncio.create_task(slowest_request(client, seconds=8))
                    for path, body in (
                        ("/roll", {"folder": str(stub_release(tmp_path, "2").folder), "share": 0.5}),
                        ("/promote", {}),
                        ("/roll", {"folder": str(stub_release(tmp_path, "3").folder), "share": 0.5}),
                        ("/rollback", {}),
                    ):
                        await call_service(control, path, body)
                    feedback = {"kind": "thumb", "request_id": "req-1", "value": 1}
                    feedback_task = asyncio.create_task(client.post("/v1/feedback", json=feedback))
                    assert await slowest_task < 20.0, "requests once waited 26 s"
                    assert (await feedback_task).status_code == 503
        with sqlite3.connect(tmp_path / "ledger.db") as database:
            actions = [row[0] for row in database.execute(f"select action from {deployments.name} order by id")]
        assert actions[:3] == ["started", "started", "promoted"] and actions.count("rolled back") == 1

    asyncio.run(asyncio.wait_for(run(), 120))


async def slowest_request(client: httpx.AsyncClient, *, seconds: float) -> float:
    """Send requests for some seconds and return the longest response time. A failed request is an error."""
    deadline, slowest = time.monotonic() + seconds, 0.0
    while time.monotonic() < deadline:
        start = time.monotonic()
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 200, answer.text
        slowest = max(slowest, time.monotonic() - start)
        await asyncio.sleep(0.05)
    return slowest


# -- a stopped process


@pytest.mark.slow
def test_a_stopped_replica_is_skipped_until_it_resumes(tmp_path):
    async def run():
        async with running_service(tmp_path) as (url, control):
            async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
                stopped_replica = (await call_service(control, "/status"))["replicas"][0]
                long_chat = {**CHAT, "max_tokens": 60}
                pending_tasks = [
                    asyncio.create_task(
                        client.post("/v1/chat/completions", json={**long_chat, "stream": number % 2 == 0})
                    )
                    for number in range(8)
                ]
                await asyncio.sleep(0.3)
                os.kill(stopped_replica["pid"], signal.SIGSTOP)
                new_tasks = [asyncio.create_task(client.post("/v1/chat/completions", json=CHAT)) for _ in range(8)]
                answers = await asyncio.wait_for(
                    asyncio.gather(*new_tasks), 20
                )  # earlier versions waited 25 s for a replica
                assert {answer.status_code for answer in answers} == {200}
                assert {answer.status_code for answer in await asyncio.gather(*pending_tasks)} == {200}
                (status,) = (
                    replica
                    for replica in (await call_service(control, "/status"))["replicas"]
                    if replica["pid"] == stopped_replica["pid"]
                )
                assert status["state"] == "unready" and "does not respond" in status["reason"]
                os.kill(stopped_replica["pid"], signal.SIGCONT)
                deadline = time.monotonic() + 10
                while True:
                    states = [
                        (replica["state"], replica["starts"])
                        for replica in (await call_service(control, "/status"))["replicas"]
                    ]
                    if states == [("ready", 1), ("ready", 1)]:
                        break
                    assert time.monotonic() < deadline, states
                    await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(run(), 120))


# -- warnings and properties of a replica


@pytest.mark.slow
def test_operators_see_warnings_of_replicas_and_clients_see_the_context_length(tmp_path):
    async def run():
        lines: list[str] = []
        release = stub_release(tmp_path, "1")
        (release.folder / "warn").touch()
        async with running_service(tmp_path, release=release, replicas=1, notify=lines.append) as (url, control):
            (replica,) = (await call_service(control, "/status"))["replicas"]
            assert replica["warnings"] == ["something is odd"] and replica["reason"] == ""
            assert lines.count("warning: r1: something is odd") == 1
            assert lines.count("r1: ERROR: a line of the log") == 1
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                (card, version) = (await client.get("/v1/models")).json()["data"]
                assert card["max_model_len"] == version["max_model_len"] == 64
                assert version["vita"]["warnings"] == ["something is odd"]
                assert (await client.get("/v1/models/cat:1")).json()["max_model_len"] == 64
            (release.folder / "warn").unlink()
            os.kill(replica["pid"], signal.SIGKILL)
            while (status := (await call_service(control, "/status"))["replicas"][0])["starts"] < 2 or status[
                "state"
            ] != "ready":
                await asyncio.sleep(0.1)
            assert status["warnings"] == [], "the new process has no warnings"

    asyncio.run(asyncio.wait_for(run(), 60))
