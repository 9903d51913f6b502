"""Network replicas join a real service over TLS; stubs stand for their models."""

from __future__ import annotations

import asyncio
import secrets as random_secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.server.fakes import clear_any, words_of
from tests.server.service.test_supervisor import CHAT, stub_command, stub_release
from tests.server.sites_pki import credentials
from vita.gates.clearance import RetiredModelError
from vita.gates.weights import model_digest
from vita.server.release import ReleaseInfo, read_release
from vita.server.replica.network_replica import NetworkReplicaOptions, serve_app
from vita.server.replica.replica_auth import SECRET_HEADER, ReplicaAuth
from vita.server.replica.rotating_secrets import RotatingSecrets
from vita.server.service.service import RunningService, Service
from vita.server.settings import ServiceSettings
from vita.server.sites.join_messages import JOIN_PATH
from vita.server.sites.site import Site
from vita.spine.errors import ConfigError, GateError
from vita.spine.ledger import Ledger

FILES = model_digest({})
"""Digest of the model in the stub release, which has no files."""


REFUSED = ("ReadError", "ConnectError", "RemoteProtocolError", "WriteError")
"""Errors of a client whose certificate the server refuses; with TLS 1.3, it learns this when it reads."""


def release_of(folder: Path, version: str) -> ReleaseInfo:
    return replace(stub_release(folder, version), digest=version * 64)


class Stub:
    """A network replica without a model, and its connection to gateways."""

    def __init__(
        self, folder: Path, *, version: str = "1", files: str = FILES, reports: str = FILES, region: str | None = "eu",
        name: str = "berlin", renew: float = 0.3, host: str = "127.0.0.1",
    ) -> None:  # fmt: skip
        self.answers, self.reports = 0, reports
        self.tokens, self.stop = RotatingSecrets(seconds=1.0), asyncio.Event()
        self.notices: list[str] = []
        self._release, self._files, self._region = version * 64, files, region
        self._renew_seconds = renew
        self._credentials = credentials(folder, "replica", name=name, host=host)

    async def _chat(self, request: Request) -> Response:
        self.answers += 1
        message = {"role": "assistant", "content": "".join(words_of(await request.json()))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({"id": "chatcmpl-1", "choices": [choice], "usage": {}})

    async def _ready(self, _: Request) -> Response:
        return JSONResponse({"digest": self.reports, "max_model_len": 64})

    async def serve(self, *gateways: str) -> None:
        routes = [Route("/ready", self._ready), Route("/v1/chat/completions", self._chat, methods=["POST"])]
        app = Starlette(routes=routes, middleware=[Middleware(ReplicaAuth, secret=self.tokens)])
        options = NetworkReplicaOptions(
            release=Path(), digest=self._release, credentials=self._credentials, join=gateways, host="127.0.0.1",
            port=0, site=Site("berlin", self._region), notify=self.notices.append, renew_seconds=self._renew_seconds,
        )  # fmt: skip
        offer = {"instance": random_secrets.token_hex(16), "release": self._release, "files": self._files,
                 "site": "berlin", "region": self._region}  # fmt: skip
        await serve_app(app, options, self.tokens, offer, stop=self.stop)

    @property
    def url(self) -> str:
        return next(notice for notice in self.notices if "listening" in notice).split()[-1]

    @asynccontextmanager
    async def joined(self, *gateways: str) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.serve(*gateways))
        try:
            yield task
        finally:
            self.stop.set()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def gateway(
    folder: Path, *, clear: Any = clear_any, replicas: int = 0, **settings: Any
) -> AsyncIterator[RunningService]:
    exists = (folder / "1").exists()  # another gateway serves it
    release = replace(read_release(folder / "1"), digest="1" * 64) if exists else release_of(folder, "1")
    service = Service(
        name="cat", release=release, ledger=Ledger(folder / "ledger.db"), clear=clear, port=0,
        controls=folder / "services", settings=ServiceSettings(**{"drain_seconds": 5, "patience": 0.2, **settings}),
        replicas=replicas, command=stub_command, site=Site("paris", "eu"), credentials=credentials(folder, "gateway"),
    )  # fmt: skip
    async with service.served() as running:
        yield running


def run(test: Callable[[Path], Any], folder: Path) -> None:
    asyncio.run(asyncio.wait_for(test(folder), 60))


async def until(condition: Callable[[], Any], *, seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def send(running: RunningService) -> httpx.Response:
    async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=20) as http:
        return await http.post("/v1/chat/completions", json=CHAT)


def states(running: RunningService) -> dict[str, str]:
    return {replica["replica"]: replica["state"] for replica in running.fleet.status()["replicas"]}


def test_a_network_replica_answers_requests_is_drained_and_ends(tmp_path: Path) -> None:
    async def check(folder: Path) -> None:
        async with gateway(folder) as running:
            assert (await send(running)).status_code == 503 and not running.gateway.router.ready
            stub = Stub(folder)
            async with stub.joined(str(running.join_url)) as task:
                await until(lambda: states(running) == {"berlin": "ready"})
                assert (await send(running)).headers["x-vita-site"] == "paris" and stub.answers == 1
                (replica,) = running.fleet.status()["replicas"]
                assert (replica["host"], replica["site"], replica["pid"]) == ("127.0.0.1", "berlin", None)
                secret = running.gateway.router.backends()[0][1].secret
                assert secret not in str(running.fleet.status()) and secret not in repr(running.fleet.replicas)
                assert "start another `vita replica`" in str(await running.fleet.drain("berlin"))
                assert states(running) == {}
                with pytest.raises(GateError, match="drained by the operator"):
                    await task
            assert (await send(running)).status_code == 503

    run(check, tmp_path)


@pytest.mark.slow
def test_a_network_replica_can_have_the_name_of_a_local_one(tmp_path: Path) -> None:
    async def check(folder: Path) -> None:
        async with gateway(folder, replicas=1) as running:
            stub = Stub(folder, name="r2")
            async with stub.joined(str(running.join_url)):
                await until(lambda: states(running) == {"r1": "ready", "r2": "ready"})
                await running.fleet.drain("r1")
                await until(lambda: states(running) == {"r2": "ready", "r3": "ready"})

    run(check, tmp_path)


def test_the_gateway_rolls_network_replicas_from_one_version_to_the_next(tmp_path: Path) -> None:
    async def check(folder: Path) -> None:
        async with gateway(folder) as running:
            first, second = Stub(folder), Stub(folder, version="2", name="madrid")
            async with first.joined(str(running.join_url)), second.joined(str(running.join_url)):
                await until(lambda: states(running) == {"berlin": "ready"})
                await until(lambda: any("does not serve the release" in notice for notice in second.notices))
                with pytest.raises(ConfigError, match="cannot load adapters"):
                    await running.fleet.add_adapter(release_of(folder, "3"))
                version = await running.fleet.roll(release_of(folder, "2"))
                assert version.id == "cat:2" and states(running) == {"madrid": "ready"}
                assert (await send(running)).headers["x-vita-version"] == "cat:2" and second.answers == 1
                await until(lambda: any("it serves cat:2" in notice for notice in first.notices))
            await until(lambda: states(running) == {})

    run(check, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"files": "a" * 64}, "The verified files of the replica have the digest aaaaaaaaaaaa"),
        ({"region": "us"}, "The region of this site is eu, but the region of the replica is us"),
        ({"region": None}, "The region of this site is eu, but the region of the replica is none"),
    ],
)
def test_a_replica_with_other_files_or_of_another_region_is_refused(
    tmp_path: Path, options: dict[str, Any], problem: str
) -> None:
    async def check(folder: Path) -> None:
        async with gateway(folder) as running:
            stub = Stub(folder, **options)
            async with stub.joined(str(running.join_url)) as task:
                with pytest.raises(GateError, match=problem):
                    await task
            assert states(running) == {}

    run(check, tmp_path)


@pytest.mark.slow
def test_a_retired_release_is_cleared_at_the_join_and_refused(tmp_path: Path) -> None:
    retired = False

    def clear(release: ReleaseInfo, terms: Any, *, record: bool = True) -> Any:
        if retired:
            raise RetiredModelError("model 1111", "has been retired since today")
        return clear_any(release, terms, record=record)

    async def check(folder: Path) -> None:
        nonlocal retired
        async with gateway(folder, clear=clear) as running:
            retired = True
            async with Stub(folder).joined(str(running.join_url)) as task:
                with pytest.raises(GateError, match="has been retired"):
                    await task
            assert states(running) == {} and (await send(running)).status_code == 503

    run(check, tmp_path)


@pytest.mark.slow
def test_a_retirement_stops_a_network_replica_at_each_site(tmp_path: Path) -> None:
    async def check(folder: Path) -> None:
        async with gateway(folder, refresh_seconds=0.1) as paris, gateway(folder, refresh_seconds=0.1) as oslo:
            stub = Stub(folder)
            async with stub.joined(str(paris.join_url), str(oslo.join_url)) as task:
                for site in (paris, oslo):
                    await until(lambda site=site: states(site) == {"berlin": "ready"})
                    assert (await send(site)).status_code == 200
                paris.gateway.ledger.move("1" * 64, "retired", who="me", why="a defect")
                with pytest.raises(GateError, match="has been retired"):
                    await task
            for site in (paris, oslo):
                answer = await send(site)
                assert states(site) == {} and answer.json()["error"]["code"] == "model_retired", answer.text
            assert stub.answers == 2

    run(check, tmp_path)


@pytest.mark.slow
def test_a_replica_that_reports_other_weights_receives_no_requests(tmp_path: Path) -> None:
    async def check(folder: Path) -> None:
        async with gateway(folder) as running:
            stub = Stub(folder, reports="b" * 64)
            async with stub.joined(str(running.join_url)):
                await until(lambda: "serves the model bbbbbbbbbbbb instead" in str(running.fleet.status()["replicas"]))
                assert (await send(running)).status_code == 503 and stub.answers == 0
                stub.reports = FILES
                await until(lambda: states(running) == {"berlin": "ready"})
                assert (await send(running)).status_code == 200
                stub.reports = "b" * 64
                await until(lambda: states(running) == {"berlin": "unready"})
                assert (await send(running)).status_code == 503

    run(check, tmp_path)


@pytest.mark.slow
def test_a_replica_that_does_not_renew_its_token_is_removed_and_local_replicas_continue(tmp_path: Path) -> None:
    async def check(folder: Path) -> None:
        async with gateway(folder, replicas=1, unready_seconds=0.5) as running:
            stub = Stub(folder, renew=4.0)  # its tokens expire after one second
            async with stub.joined(str(running.join_url)):
                await until(lambda: states(running).get("berlin") == "ready")
                backend = next(backend for _, backend in running.gateway.router.backends() if backend.name == "berlin")
                await until(lambda: backend.reason in ("its token has expired", "it responds with 401"))
                assert not backend.ready
                await until(lambda: "berlin" not in states(running))
                assert {(await send(running)).status_code for _ in range(3)} == {200}
                await until(lambda: states(running).get("berlin") == "ready")  # it joins again

    run(check, tmp_path)


def test_a_replica_whose_certificate_names_another_host_is_never_ready(tmp_path: Path) -> None:
    async def check(folder: Path) -> None:
        async with gateway(folder) as running:
            stub = Stub(folder, host="10.9.9.9")
            async with stub.joined(str(running.join_url)):
                await until(lambda: "it cannot be reached" in str(running.fleet.status()["replicas"]))
                (replica,) = running.fleet.status()["replicas"]
                assert "certificate is not valid for '127.0.0.1'" in replica["reason"]
                assert (await send(running)).status_code == 503 and stub.answers == 0

    run(check, tmp_path)


def test_only_certificates_of_the_authority_with_the_right_role_and_a_valid_token_have_access(tmp_path: Path) -> None:
    async def check(folder: Path) -> None:
        async def status(
            method: str, url: str, *, role: Any, authority: str = "authority", token: str = ""
        ) -> int | str:
            own = credentials(folder, role, authority=authority, name="mallory")
            context = own.client_context()
            if authority != "authority":  # it trusts the server, which does not trust it
                context.load_verify_locations(folder / "authority" / "authority.pem")
            try:
                async with httpx.AsyncClient(verify=context, trust_env=False) as http:
                    return (await http.request(method, url, json={}, headers={SECRET_HEADER: token})).status_code
            except httpx.TransportError as error:
                return type(error).__name__

        async with gateway(folder) as running:
            stub = Stub(folder)
            async with stub.joined(str(running.join_url)):
                await until(lambda: states(running) == {"berlin": "ready"})
                join, ready, token = f"{running.join_url}{JOIN_PATH}", f"{stub.url}/ready", stub.tokens.new()
                assert await status("POST", join, role="replica") == 400  # the message is empty
                assert await status("POST", join, role="gateway") == 403
                assert await status("POST", join, role="replica", authority="other") in REFUSED
                assert await status("GET", ready, role="gateway", token=token) == 200
                assert await status("GET", ready, role="gateway", token="x" * 43) == 401
                assert await status("GET", ready, role="replica", token=token) == 403
                assert await status("GET", ready, role="gateway", authority="other") in REFUSED
                async with httpx.AsyncClient(trust_env=False) as http:
                    with pytest.raises(httpx.TransportError):
                        await http.post(join, json={})

    run(check, tmp_path)
