"""A fleet of real processes: killed, drained, updated and stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests.server.fakes import clear_any, words_of
from vita.monitoring.request_log import deployments
from vita.server.release import ReleaseInfo
from vita.server.replica.replica_auth import SECRET_HEADER
from vita.server.service.admin import ServiceHandle
from vita.server.service.service import Service
from vita.server.settings import ServiceSettings
from vita.spine.errors import ConfigError, ModelError
from vita.spine.ledger import Ledger

CHAT = {"model": "cat", "messages": [{"role": "user", "content": "What is a cat?"}]}


def stub_command(release: ReleaseInfo, port: int, threads: int) -> list[str]:
    watcher = [sys.executable, "-m", "vita.server.service.parent_watch", "tests.server.replica_stub"]
    return [*watcher, "--release", str(release.folder), "--port", str(port), "--threads", str(threads)]


def stub_release(folder: Path, version: str) -> ReleaseInfo:
    """Write a release with the fields that the stub reads."""
    release_path = folder / version
    release_path.mkdir()
    manifest = {"format": 1, "name": "cat", "version": version, "model": version * 64, "limits": {}, "files": {}}
    (release_path / "release.json").write_text(json.dumps(manifest))
    return ReleaseInfo(release_path, "0" * 64, "cat", version, version * 64, {})


@asynccontextmanager
async def running_service(
    folder: Path,
    *,
    replicas: int = 2,
    release: ReleaseInfo | None = None,
    notify: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> AsyncIterator[tuple[str, ServiceHandle]]:
    """Run a service of stubs and yield its address and its admin interface."""
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    service = Service(
        name="cat", release=release or stub_release(folder, "1"), ledger=Ledger(folder / "ledger.db"), clear=clear_any,
        controls=folder / "services", settings=ServiceSettings(**{"drain_seconds": 5, **settings}), port=0,
        replicas=replicas, command=stub_command, ready=address.set_result, notify=notify,
    )  # fmt: skip
    task = asyncio.create_task(service.run())
    await asyncio.wait({task, address}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield await address, ServiceHandle.find(folder / "services", "cat")
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await task


async def call_service(control: ServiceHandle, path: str, body: dict | None = None) -> dict:
    method = "GET" if body is None else "POST"
    return (await asyncio.to_thread(control.call, method, path, body)).json()


@pytest.mark.slow
def test_a_fleet_loses_no_request_while_replicas_fail_drain_and_change(tmp_path):
    async def run():
        async with running_service(tmp_path) as (url, control):
            files = list((tmp_path / "services").glob("*.json"))
            assert len(files) == 1 and files[0].stat().st_mode & 0o777 == 0o600
            assert (await asyncio.to_thread(httpx.get, f"{control.admin}/status")).status_code == 401
            async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
                load_task = asyncio.create_task(_send_requests(client, seconds=8))
                await asyncio.sleep(1)
                killed_pid = (await call_service(control, "/status"))["replicas"][0]["pid"]
                os.kill(killed_pid, signal.SIGKILL)
                await asyncio.sleep(2)
                status = await call_service(control, "/status")
                await call_service(control, "/drain", {"replica": status["replicas"][-1]["replica"]})
                status = await call_service(
                    control, "/roll", {"folder": str(stub_release(tmp_path, "2").folder), "share": 0.5}
                )
                assert {version["version"]: version["share"] for version in status["versions"]} == {
                    "cat:1": 0.5,
                    "cat:2": 0.5,
                }
                status = await call_service(control, "/promote", {})
                assert [version["version"] for version in status["versions"]] == ["cat:2"]
                assert len(status["replicas"]) == 2
                answer_count = await load_task
                assert answer_count >= 20
                with pytest.raises(Exception, match="nothing|no second version"):
                    await call_service(control, "/promote", {})
                broken_release = stub_release(tmp_path, "broken")
                with pytest.raises(Exception, match="ended with code 6"):
                    await call_service(control, "/roll", {"folder": str(broken_release.folder)})
                answer = await client.post("/v1/chat/completions", json=CHAT)
                assert answer.headers["x-vita-version"] == "cat:2"
            pids = [replica["pid"] for replica in (await call_service(control, "/status"))["replicas"]]
        assert not list((tmp_path / "services").glob("*.json"))
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    asyncio.run(asyncio.wait_for(run(), 120))


@pytest.mark.slow
def test_the_replicas_of_a_retired_version_stop_when_their_requests_have_finished(tmp_path):
    async def run():
        lines: list[str] = []
        options: Any = {"replicas": 1, "refresh_seconds": 0.1, "drain_seconds": 3, "notify": lines.append}
        async with running_service(tmp_path, **options) as (url, control):
            folder = stub_release(tmp_path, "2").folder
            await call_service(control, "/roll", {"folder": str(folder), "share": 0.5})
            ledger = Ledger(tmp_path / "ledger.db")
            async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
                pinned = {**CHAT, "model": "cat:1", "stream": True, "max_tokens": 30}
                long = {**pinned, "max_tokens": 5000}
                long_task = asyncio.create_task(client.post("/v1/chat/completions", json=long))
                async with client.stream("POST", "/v1/chat/completions", json=pinned) as stream:
                    ledger.move("1" * 64, "retired", who="ann", why="old")
                    text = "".join([part async for part in stream.aiter_text()])
                assert text.endswith("data: [DONE]\n\n")
                unfinished = (await long_task).text.rpartition("data: ")[2]
                cause = "The version cat:1 was retired, and the request did not finish within 3 s (`drain_seconds`)"
                assert json.loads(unfinished)["error"]["message"].startswith(cause)
                while len((status := await call_service(control, "/status"))["replicas"]) > 1:
                    await asyncio.sleep(0.05)
                assert {version["version"]: version["state"] for version in status["versions"]}["cat:1"] == "retired"
                assert [replica["version"] for replica in status["replicas"]] == ["cat:2"]
                answer = await client.post("/v1/chat/completions", json={**CHAT, "model": "cat:1"})
                assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_retired"
                for _ in range(4):
                    answer = await client.post("/v1/chat/completions", json=CHAT)
                    assert answer.headers["x-vita-version"] == "cat:2"
            with pytest.raises(Exception, match="no other version to go back to"):
                await call_service(control, "/rollback", {})
            assert [version["version"] for version in (await call_service(control, "/promote", {}))["versions"]] == [
                "cat:2"
            ]
        with ledger.transaction() as database:
            rows = database.execute(sa.select(deployments.c.version, deployments.c.action)).all()
        ledger.close()
        assert [version for version, action in rows if action == "stopped"] == ["cat:1", "cat:2"]
        assert "cat:1 has been retired and stops its 1 replicas" in lines

    asyncio.run(asyncio.wait_for(run(), 60))


async def _send_requests(client: httpx.AsyncClient, *, seconds: float) -> int:
    """Send requests of eight users until the time is up; any wrong answer is an error."""
    deadline = time.monotonic() + seconds
    answer_count = 0

    async def user(number: int) -> None:
        nonlocal answer_count
        while time.monotonic() < deadline:
            body = {**CHAT, "seed": answer_count, "stream": number % 2 == 0, "user": str(number)}
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            if body["stream"]:
                stream_events = [
                    json.loads(part[6:]) for part in answer.text.split("\n\n") if part and part != "data: [DONE]"
                ]
                text = "".join(
                    choice["delta"].get("content") or "" for event in stream_events for choice in event["choices"]
                )
            else:
                text = answer.json()["choices"][0]["message"]["content"]
            assert text == "".join(words_of(body))
            answer_count += 1

    await asyncio.gather(*(user(number) for number in range(8)))
    return answer_count


@pytest.mark.slow
def test_the_error_for_a_release_that_cannot_start_has_its_exit_code(tmp_path):
    async def run():
        service = Service(
            name="cat", release=stub_release(tmp_path, "broken"), ledger=Ledger(tmp_path / "ledger.db"),
            controls=tmp_path / "services", clear=clear_any, port=0, command=stub_command,
        )  # fmt: skip
        with pytest.raises(ModelError, match="ended with code 6"):
            await service.run()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.slow
def test_replicas_stop_with_their_parent_process(tmp_path):
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen({[sys.executable, '-m', 'vita.server.service.parent_watch', 'http.server', '0']!r},"
        " stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)\n"
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(1.0)
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.slow
def test_a_replica_answers_only_its_service_and_is_replaced_if_it_stays_unready(tmp_path):
    async def run():
        async with running_service(tmp_path, replicas=1, unready_seconds=1.0) as (url, control):
            (first_replica,) = (await call_service(control, "/status"))["replicas"]
            environment = Path(f"/proc/{first_replica['pid']}/environ").read_text()
            secret = environment.partition("VITA_REPLICA_SECRET=")[2].partition("\0")[0]
            assert len(secret) > 40 and secret not in Path(f"/proc/{first_replica['pid']}/cmdline").read_text()
            async with httpx.AsyncClient(base_url=first_replica["url"], trust_env=False) as direct_client:
                for method, path in (("POST", "/drain"), ("POST", "/v1/chat/completions"), ("GET", "/ready")):
                    assert (await direct_client.request(method, path, json=CHAT)).status_code == 401
                assert (await direct_client.get("/health")).status_code == 200
                assert (await _send_chat(url)).is_success
                await direct_client.post("/drain", headers={SECRET_HEADER: secret})
            second_replica = await _wait_for_replica(
                control, lambda replica: replica["state"] == "ready" and replica["pid"] != first_replica["pid"]
            )
            assert second_replica["replica"] == first_replica["replica"] and second_replica["starts"] == 2
            assert (await _send_chat(url)).is_success

    asyncio.run(asyncio.wait_for(run(), 60))


async def _send_chat(url: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        return await client.post("/v1/chat/completions", json=CHAT)


async def _wait_for_replica(control: ServiceHandle, condition: Callable[[dict], bool]) -> dict:
    """Wait for a replica that fulfils the condition, and return it."""
    while True:
        for replica in (await call_service(control, "/status"))["replicas"]:
            if condition(replica):
                return replica
        await asyncio.sleep(0.1)


@pytest.mark.slow
def test_an_old_replica_stays_if_no_new_one_can_start(tmp_path):
    async def run():
        async with running_service(tmp_path, replicas=2) as (url, control):
            await call_service(control, "/roll", {"folder": str(stub_release(tmp_path, "2").folder), "share": 0.5})
            status_before = await call_service(control, "/status")
            for version in ("1", "2"):
                (tmp_path / version / "broken").touch()
            with pytest.raises(Exception, match="ended with code 6"):
                await call_service(control, "/drain", {"replica": status_before["replicas"][0]["replica"]})
            with pytest.raises(Exception, match="ended with code 6"):
                await call_service(control, "/promote", {})
            status_after = await call_service(control, "/status")
            assert status_after["versions"] == status_before["versions"], "the shares are unchanged"
            assert [replica["pid"] for replica in status_after["replicas"]] == [
                replica["pid"] for replica in status_before["replicas"]
            ]
            assert (await _send_chat(url)).is_success

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_a_stop_cancels_requests_after_the_drain_time_and_a_second_signal_at_once(tmp_path, signals):
    """A second signal ends a drain time of an hour; otherwise the time limit of the test would expire."""

    async def run():
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        service = Service(
            name="cat", release=stub_release(tmp_path, "1"), ledger=Ledger(tmp_path / "ledger.db"), port=0,
            controls=tmp_path / "services", settings=ServiceSettings(drain_seconds=4.0 if signals == 1 else 3600.0),
            clear=clear_any, command=stub_command, ready=address.set_result,
        )  # fmt: skip
        service_task = asyncio.create_task(service.run())
        async with httpx.AsyncClient(base_url=await address, timeout=60, trust_env=False) as client:
            long_chat = {**CHAT, "max_tokens": 2000}
            posts = [
                client.post("/v1/chat/completions", json={**long_chat, "stream": stream}) for stream in (True, False)
            ]
            tasks = [asyncio.create_task(post) for post in posts]
            await asyncio.sleep(0.5)
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(0.2)
            assert await service_task == 2, "neither request was answered"
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.slow
def test_a_stop_finishes_running_requests_within_the_drain_time(tmp_path):
    async def run():
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        service = Service(
            name="cat", release=stub_release(tmp_path, "1"), ledger=Ledger(tmp_path / "ledger.db"), port=0,
            controls=tmp_path / "services", clear=clear_any, command=stub_command, ready=address.set_result,
        )  # fmt: skip
        service_task = asyncio.create_task(service.run())
        async with httpx.AsyncClient(base_url=await address, timeout=60, trust_env=False) as client:
            response_task = asyncio.create_task(client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 50}))
            await asyncio.sleep(0.3)
            os.kill(os.getpid(), signal.SIGTERM)
            assert await service_task == 0
            assert (await response_task).status_code == 200

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_public_address_needs_a_key(tmp_path):
    service = Service(
        name="cat",
        release=stub_release(tmp_path, "1"),
        ledger=Ledger(tmp_path / "ledger.db"),
        controls=tmp_path,
        clear=clear_any,
        host="0.0.0.0",
    )
    with pytest.raises(ConfigError, match="there is no API key; create one with `vita keys create NAME`"):
        asyncio.run(service.run())
