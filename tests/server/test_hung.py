"""A replica that hangs, and a ledger that is locked, hold up no request for long."""

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
from tests.server.gateways import CHAT, events, going, lost, service, text_of
from tests.server.service.test_supervisor import pinned, running, told
from vita.monitoring.request_log import deployments
from vita.server.service.journal import Journal
from vita.spine.ledger import Ledger


def hang(gateway: Any, name: str, hung: bool = True) -> None:
    """Do what the supervisor does when a replica stops answering its probes, or answers again."""
    for _, backend in gateway.router.backends():
        if backend.name == name:
            backend.hung, backend.ready = hung, not hung
    gateway.router.wake()


@going
async def test_what_a_hung_replica_has_not_answered_is_asked_of_another(ledger):
    slow, quick = FakeReplica("a", delay=20.0), FakeReplica("b")
    async with service(ledger, slow, quick) as (gateway, client):
        for stream in (False, True):
            body = {**CHAT, "seed": 3, "stream": stream}
            hang(gateway, "a", hung=False)
            hang(gateway, "b")
            asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            await asyncio.sleep(0.1)
            hang(gateway, "a")
            await asyncio.sleep(0.1)
            assert not asking.done(), "nobody else could answer: it waits"
            hang(gateway, "b", hung=False)
            answer = await asyncio.wait_for(asking, 2)
            assert answer.status_code == 200
            text = text_of(events(answer.text)) if stream else answer.json()["choices"][0]["message"]["content"]
            assert text == "".join(words_of(body))
        assert slow.cancelled == 2 and not lost(gateway)


@going
async def test_a_request_waits_for_a_hung_replica_that_goes_on_when_there_is_no_other(ledger):
    async with service(ledger, FakeReplica("a", delay=0.5)) as (gateway, client):
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
        await asyncio.sleep(0.1)
        hang(gateway, "a")
        assert (await asking).status_code == 200


@going
async def test_a_request_leaves_a_version_whose_replicas_have_all_hung_unless_it_asked_for_it(ledger):
    from tests.server.fakes import routes_to, version_of

    old, new = FakeReplica("a", delay=5.0), FakeReplica("b")
    routes = routes_to(old)
    async with service(ledger, old, new, routes=routes) as (gateway, client):
        asking = [
            asyncio.create_task(client.post("/v1/chat/completions", json={**CHAT, "model": model}))
            for model in ("cat", "cat:1")
        ]
        await asyncio.sleep(0.1)
        routes.add(version_of(new, version="cat:2", model="b" * 64, share=0.5))
        hang(gateway, "a")
        answer = await asyncio.wait_for(asking[0], 2)
        assert answer.status_code == 200 and answer.headers["x-vita-version"] == "cat:2"
        assert not asking[1].done()
        asking[1].cancel()


# -- the ledger


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the write lock of a SQLite file from a second process."""
    code = (
        "import sqlite3, sys\n"
        f"held = sqlite3.connect({str(path)!r}, isolation_level=None)\n"
        "held.execute('begin immediate')\nprint('held', flush=True)\nsys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert await asyncio.to_thread(holder.stdout.readline) == b"held\n"
    try:
        yield
    finally:
        holder.kill()
        holder.communicate()


def test_a_change_that_cannot_be_recorded_yet_is_recorded_when_the_ledger_is_free(tmp_path):
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
        async with running(tmp_path) as (url, control):
            async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
                async with locked(tmp_path / "ledger.db"):
                    slowest = asyncio.create_task(slowest_request(client, seconds=8))
                    for path, body in (
                        ("/roll", {"folder": str(pinned(tmp_path, "2").folder), "share": 0.5}),
                        ("/promote", {}),
                        ("/roll", {"folder": str(pinned(tmp_path, "3").folder), "share": 0.5}),
                        ("/rollback", {}),
                    ):
                        await told(control, path, body)
                    feedback = {"kind": "thumb", "request_id": "req-1", "value": 1}
                    voting = asyncio.create_task(client.post("/v1/feedback", json=feedback))
                    assert await slowest < 20.0, "the stall lasted 26 s"
                    assert (await voting).status_code == 503
        with sqlite3.connect(tmp_path / "ledger.db") as database:
            actions = [row[0] for row in database.execute(f"select action from {deployments.name} order by id")]
        assert actions[:3] == ["started", "started", "promoted"] and actions.count("rolled back") == 1

    asyncio.run(asyncio.wait_for(run(), 120))


async def slowest_request(client: httpx.AsyncClient, *, seconds: float) -> float:
    """Ask again and again; the longest time that a whole answer took. A failure is an error."""
    end, slowest = time.monotonic() + seconds, 0.0
    while time.monotonic() < end:
        began = time.monotonic()
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 200, answer.text
        slowest = max(slowest, time.monotonic() - began)
        await asyncio.sleep(0.05)
    return slowest


# -- a stopped process


@pytest.mark.slow
def test_a_stopped_replica_is_skipped_and_comes_back_when_it_goes_on(tmp_path):
    async def run():
        async with running(tmp_path) as (url, control):
            async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
                victim = (await told(control, "/status"))["replicas"][0]
                long = {**CHAT, "max_tokens": 60}
                asking = [
                    asyncio.create_task(client.post("/v1/chat/completions", json={**long, "stream": number % 2 == 0}))
                    for number in range(8)
                ]
                await asyncio.sleep(0.3)
                os.kill(victim["pid"], signal.SIGSTOP)
                fresh = [asyncio.create_task(client.post("/v1/chat/completions", json=CHAT)) for _ in range(8)]
                answers = await asyncio.wait_for(asyncio.gather(*fresh), 20)  # the old wait for a replica was 25 s
                assert {answer.status_code for answer in answers} == {200}
                assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
                (status,) = (one for one in (await told(control, "/status"))["replicas"] if one["pid"] == victim["pid"])
                assert status["state"] == "unready" and "does not respond" in status["reason"]
                os.kill(victim["pid"], signal.SIGCONT)
                end = time.monotonic() + 10
                while True:
                    states = [(one["state"], one["starts"]) for one in (await told(control, "/status"))["replicas"]]
                    if states == [("ready", 1), ("ready", 1)]:
                        break
                    assert time.monotonic() < end, states
                    await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(run(), 120))


# -- what a replica says of itself


@pytest.mark.slow
def test_the_operator_sees_what_replicas_say_and_clients_how_much_they_take(tmp_path):
    async def run():
        lines: list[str] = []
        release = pinned(tmp_path, "1")
        (release.folder / "warn").touch()
        async with running(tmp_path, release=release, replicas=1, notify=lines.append) as (url, control):
            (replica,) = (await told(control, "/status"))["replicas"]
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
            while (one := (await told(control, "/status"))["replicas"][0])["starts"] < 2 or one["state"] != "ready":
                await asyncio.sleep(0.1)
            assert one["warnings"] == [], "the fresh process warns of nothing"

    asyncio.run(asyncio.wait_for(run(), 60))
