"""Commands that take a replica out of service are not refused by a clearance."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.service.test_supervisor import stub_command, stub_release
from vita.gates.clearance import Clearance, RetiredModelError, ServingRequest
from vita.server.gateway.routing import Backend, Router, ServedVersion
from vita.server.release import ReleaseInfo
from vita.server.service.replica_process import ReplicaProcess
from vita.server.service.supervisor import Supervisor
from vita.server.settings import ServiceSettings
from vita.spine.errors import ConfigError, GateError
from vita.spine.ledger import Ledger


def supervisor_of(folder: Path, error: GateError) -> Supervisor:
    """Return a supervisor of the versions `cat:1` and `cat:2` with one replica each; a clearance raises `error`."""

    def clear(release: ReleaseInfo, terms: ServingRequest, *, record: bool = True) -> Clearance:
        raise error

    router = Router("cat")
    supervisor = Supervisor(
        router, Ledger(folder / "ledger.db"), ServiceSettings(), client=httpx.AsyncClient(), clear=clear,
        command=stub_command,
    )  # fmt: skip
    for number in ("1", "2"):
        release, backend = stub_release(folder, number), Backend(f"r{number}", "", ready=True)
        replica = ReplicaProcess(backend.name, release, backend, 1)
        replica.start_finished.set()
        supervisor.replicas[backend.name] = replica
        version = ServedVersion(f"cat:{number}", release.model, release.digest, created=float(number))
        version.backends.append(backend)
        router.add(version)
    router.share({"cat:1": 0.5, "cat:2": 0.5})
    return supervisor


def run(test: Any) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def test_a_replica_with_retired_weights_is_drained_without_a_replacement(tmp_path: Path) -> None:
    async def drain() -> None:
        supervisor = supervisor_of(tmp_path, RetiredModelError("model aaaa", "has been retired since 2026-11-30"))
        note = await supervisor.drain("r1")
        assert note == "r1 stops without a replacement: model aaaa: has been retired since 2026-11-30"
        assert list(supervisor.replicas) == ["r2"]
        assert await supervisor.drain("r2", restart=False) is None and not supervisor.replicas

    run(drain())


def test_a_replica_without_an_approval_continues_until_it_is_stopped(tmp_path: Path) -> None:
    async def drain() -> None:
        supervisor = supervisor_of(tmp_path, GateError("release cat:1", "holds a model that no gate has approved"))
        with pytest.raises(GateError, match="r1: is not replaced and continues: .*`vita fleet drain r1 --stop` stops"):
            await supervisor.drain("r1")
        assert list(supervisor.replicas) == ["r1", "r2"] and not supervisor.replicas["r1"].stopping
        await supervisor.drain("r1", restart=False)
        assert list(supervisor.replicas) == ["r2"]

    run(drain())


def test_a_version_with_retired_weights_is_rolled_back_and_stopped(tmp_path: Path) -> None:
    async def roll_back() -> None:
        supervisor = supervisor_of(tmp_path, RetiredModelError("model aaaa", "has been retired since 2026-11-30"))
        with pytest.raises(GateError, match="has been retired"):
            await supervisor.promote()
        assert (await supervisor.roll_back()).id == "cat:1"
        assert list(supervisor.router.versions) == ["cat:1"] and list(supervisor.replicas) == ["r1"]
        await supervisor.stop(seconds=0)
        assert not supervisor.replicas

    run(roll_back())


def test_a_version_whose_replicas_were_drained_is_not_promoted(tmp_path: Path) -> None:
    async def promote() -> None:
        supervisor = supervisor_of(tmp_path, GateError("release", "is not cleared"))
        await supervisor.drain("r2", restart=False)
        with pytest.raises(ConfigError, match="all replicas of cat:2 were drained; go back with `vita fleet rollback`"):
            await supervisor.promote()

    run(promote())
