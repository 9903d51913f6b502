"""A fleet of real processes: killed, drained, rolled, and never left behind."""

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

from tests.server.fakes import clear_any, words_of
from vita.server.release import ReleaseInfo
from vita.server.replica.replica_auth import SECRET_HEADER
from vita.server.service.admin import ServiceHandle
from vita.server.service.service import Service
from vita.server.settings import ServiceSettings
from vita.spine.errors import ConfigError, ModelError
from vita.spine.ledger import Ledger

CHAT = {"model": "cat", "messages": [{"role": "user", "content": "What is a cat?"}]}


def stub_command(release: ReleaseInfo, port: int, threads: int) -> list[str]:
    leash = [sys.executable, "-m", "vita.server.service.parent_watch", "tests.server.replica_stub"]
    return [*leash, "--release", str(release.folder), "--port", str(port), "--threads", str(threads)]


def pinned(folder: Path, version: str) -> ReleaseInfo:
    """A release as far as the stub looks at it."""
    place = folder / version
    place.mkdir()
    told = {"format": 1, "name": "cat", "version": version, "model": version * 64, "limits": {}, "files": {}}
    (place / "release.json").write_text(json.dumps(told))
    return ReleaseInfo(place, "0" * 64, "cat", version, version * 64, {})


@asynccontextmanager
async def running(
    folder: Path,
    *,
    replicas: int = 2,
    release: ReleaseInfo | None = None,
    notify: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> AsyncIterator[tuple[str, ServiceHandle]]:
    """A service of stubs, its address, and its operators' side."""
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    service = Service(
        name="cat", release=release or pinned(folder, "1"), ledger=Ledger(folder / "ledger.db"), clear=clear_any,
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


async def told(control: ServiceHandle, path: str, body: dict | None = None) -> dict:
    method = "GET" if body is None else "POST"
    return (await asyncio.to_thread(control.call, method, path, body)).json()


@pytest.mark.slow
def test_a_fleet_loses_no_request_while_replicas_die_leave_and_change(tmp_path):
    async def run():
        async with running(tmp_path) as (url, control):
            files = list((tmp_path / "services").glob("*.json"))
            assert len(files) == 1 and files[0].stat().st_mode & 0o777 == 0o600
            assert (await asyncio.to_thread(httpx.get, f"{control.admin}/status")).status_code == 401
            async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
                asking = asyncio.create_task(_ask_on_and_on(client, seconds=8))
                await asyncio.sleep(1)
                victim = (await told(control, "/status"))["replicas"][0]["pid"]
                os.kill(victim, signal.SIGKILL)
                await asyncio.sleep(2)
                status = await told(control, "/status")
                await told(control, "/drain", {"replica": status["replicas"][-1]["replica"]})
                status = await told(control, "/roll", {"folder": str(pinned(tmp_path, "2").folder), "share": 0.5})
                assert {one["version"]: one["share"] for one in status["versions"]} == {"cat:1": 0.5, "cat:2": 0.5}
                status = await told(control, "/promote", {})
                assert [one["version"] for one in status["versions"]] == ["cat:2"]
                assert len(status["replicas"]) == 2
                answered = await asking
                assert answered >= 20
                with pytest.raises(Exception, match="nothing|no second version"):
                    await told(control, "/promote", {})
                broken = pinned(tmp_path, "broken")
                with pytest.raises(Exception, match="ended with code 6"):
                    await told(control, "/roll", {"folder": str(broken.folder)})
                answer = await client.post("/v1/chat/completions", json=CHAT)
                assert answer.headers["x-vita-version"] == "cat:2"
            pids = [one["pid"] for one in (await told(control, "/status"))["replicas"]]
        assert not list((tmp_path / "services").glob("*.json"))
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    asyncio.run(asyncio.wait_for(run(), 120))


async def _ask_on_and_on(client: httpx.AsyncClient, *, seconds: float) -> int:
    """Eight users who ask until the time is up; any answer but a right one is an error."""
    end = time.monotonic() + seconds
    counted = 0

    async def user(number: int) -> None:
        nonlocal counted
        while time.monotonic() < end:
            body = {**CHAT, "seed": counted, "stream": number % 2 == 0, "user": str(number)}
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            if body["stream"]:
                parts = [json.loads(one[6:]) for one in answer.text.split("\n\n") if one and one != "data: [DONE]"]
                text = "".join(choice["delta"].get("content") or "" for one in parts for choice in one["choices"])
            else:
                text = answer.json()["choices"][0]["message"]["content"]
            assert text == "".join(words_of(body))
            counted += 1

    await asyncio.gather(*(user(number) for number in range(8)))
    return counted


@pytest.mark.slow
def test_a_release_that_cannot_start_is_refused_with_its_last_words(tmp_path):
    async def run():
        service = Service(
            name="cat", release=pinned(tmp_path, "broken"), ledger=Ledger(tmp_path / "ledger.db"),
            controls=tmp_path / "services", clear=clear_any, port=0, command=stub_command,
        )  # fmt: skip
        with pytest.raises(ModelError, match="ended with code 6"):
            await service.run()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.slow
def test_replicas_do_not_outlive_their_parent(tmp_path):
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
def test_a_replica_answers_its_own_service_only_and_one_that_stays_unready_is_replaced(tmp_path):
    async def run():
        async with running(tmp_path, replicas=1, unready_seconds=1.0) as (url, control):
            (first,) = (await told(control, "/status"))["replicas"]
            environment = Path(f"/proc/{first['pid']}/environ").read_text()
            secret = environment.partition("VITA_REPLICA_SECRET=")[2].partition("\0")[0]
            assert len(secret) > 40 and secret not in Path(f"/proc/{first['pid']}/cmdline").read_text()
            async with httpx.AsyncClient(base_url=first["url"], trust_env=False) as stranger:
                for method, path in (("POST", "/drain"), ("POST", "/v1/chat/completions"), ("GET", "/ready")):
                    assert (await stranger.request(method, path, json=CHAT)).status_code == 401
                assert (await stranger.get("/health")).status_code == 200
                assert (await _asked(url)).is_success
                await stranger.post("/drain", headers={SECRET_HEADER: secret})
            second = await _when(control, lambda one: one["state"] == "ready" and one["pid"] != first["pid"])
            assert second["replica"] == first["replica"] and second["starts"] == 2
            assert (await _asked(url)).is_success

    asyncio.run(asyncio.wait_for(run(), 60))


async def _asked(url: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        return await client.post("/v1/chat/completions", json=CHAT)


async def _when(control: ServiceHandle, so: Callable[[dict], bool]) -> dict:
    """The first replica of which something is so, waited for."""
    while True:
        for one in (await told(control, "/status"))["replicas"]:
            if so(one):
                return one
        await asyncio.sleep(0.1)


@pytest.mark.slow
def test_an_old_replica_stays_when_no_fresh_one_can_take_its_place(tmp_path):
    async def run():
        async with running(tmp_path, replicas=2) as (url, control):
            await told(control, "/roll", {"folder": str(pinned(tmp_path, "2").folder), "share": 0.5})
            before = await told(control, "/status")
            for version in ("1", "2"):
                (tmp_path / version / "broken").touch()
            with pytest.raises(Exception, match="ended with code 6"):
                await told(control, "/drain", {"replica": before["replicas"][0]["replica"]})
            with pytest.raises(Exception, match="ended with code 6"):
                await told(control, "/promote", {})
            after = await told(control, "/status")
            assert after["versions"] == before["versions"], "the shares are as they were"
            assert [one["pid"] for one in after["replicas"]] == [one["pid"] for one in before["replicas"]]
            assert (await _asked(url)).is_success

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_a_stop_ends_requests_after_the_drain_time_and_a_second_signal_ends_them_at_once(tmp_path, signals):
    """With a second signal, a drain time of an hour is not waited for: the timeout of the test would end it first."""

    async def run():
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        service = Service(
            name="cat", release=pinned(tmp_path, "1"), ledger=Ledger(tmp_path / "ledger.db"), port=0,
            controls=tmp_path / "services", settings=ServiceSettings(drain_seconds=4.0 if signals == 1 else 3600.0),
            clear=clear_any, command=stub_command, ready=address.set_result,
        )  # fmt: skip
        serving = asyncio.create_task(service.run())
        async with httpx.AsyncClient(base_url=await address, timeout=60, trust_env=False) as client:
            long = {**CHAT, "max_tokens": 2000}
            asked = [client.post("/v1/chat/completions", json={**long, "stream": one}) for one in (True, False)]
            asking = [asyncio.create_task(one) for one in asked]
            await asyncio.sleep(0.5)
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(0.2)
            assert await serving == 2, "neither was answered"
            await asyncio.gather(*asking, return_exceptions=True)

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.slow
def test_a_stop_finishes_what_it_can_and_cuts_nothing(tmp_path):
    async def run():
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        service = Service(
            name="cat", release=pinned(tmp_path, "1"), ledger=Ledger(tmp_path / "ledger.db"), port=0,
            controls=tmp_path / "services", clear=clear_any, command=stub_command, ready=address.set_result,
        )  # fmt: skip
        serving = asyncio.create_task(service.run())
        async with httpx.AsyncClient(base_url=await address, timeout=60, trust_env=False) as client:
            asking = asyncio.create_task(client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 50}))
            await asyncio.sleep(0.3)
            os.kill(os.getpid(), signal.SIGTERM)
            assert await serving == 0
            assert (await asking).status_code == 200

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_public_address_needs_a_key(tmp_path):
    service = Service(
        name="cat",
        release=pinned(tmp_path, "1"),
        ledger=Ledger(tmp_path / "ledger.db"),
        controls=tmp_path,
        clear=clear_any,
        host="0.0.0.0",
    )
    with pytest.raises(ConfigError, match="there is no API key; create one with `vita keys create NAME`"):
        asyncio.run(service.run())
