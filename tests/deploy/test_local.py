"""The target `local` with real services: start, rolling update, other settings, rollback and stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.deploy.services import Clients, Deployments, scale, spoil
from tests.server.backends.programs import VLLM, save_model
from tests.server.releases import release_folder
from vita.infer.engine import Engine
from vita.server.release import create_release, read_release
from vita.spine.ledger import Ledger
from vita.stages.release import golden_answers

pytestmark = pytest.mark.slow


@pytest.fixture
def deployments(tmp_path: Path) -> Iterator[Deployments]:
    value = Deployments(tmp_path)
    yield value
    value.vita("deploy", "--stop", "--out", "mine")


def test_a_service_is_started_updated_rolled_back_and_stopped(deployments: Deployments, tmp_path: Path) -> None:
    first = release_folder(tmp_path)
    second = release_folder(tmp_path, version="2", change=scale)
    started = deployments.deploy(first)
    assert started["url"] == deployments.url and started["applied"] and deployments.version() == "m:1"
    process = json.loads((tmp_path / "mine/running.json").read_text())["process"]
    again = deployments.deploy(first)
    assert not again["changed"] and json.loads((tmp_path / "mine/running.json").read_text())["process"] == process

    with Clients(deployments.url) as clients:
        updated = deployments.deploy(second)
        assert updated["previous"] == started["deployment"] and deployments.version() == "m:2"
        restored = deployments.succeed("deploy", "--rollback", "--out", "mine", "--json")
        assert restored["release"] == read_release(first).digest and deployments.version() == "m:1"
    assert set(clients.statuses) == {200}, clients.statuses
    assert json.loads((tmp_path / "mine/running.json").read_text())["process"] == process, "no restart"

    number = int(process.partition(":")[0])
    os.kill(number, signal.SIGKILL)
    while Path(f"/proc/{number}/cmdline").exists() and Path(f"/proc/{number}/cmdline").read_bytes():
        time.sleep(0.05)
    deployments.deploy(first)
    assert deployments.version() == "m:1", "a service that died is started again"

    with socket.create_server(("127.0.0.1", 0)) as server:
        other_port = server.getsockname()[1]
    deployments.deploy(first, "--set", f"port={other_port}", "--set", "service.in_flight=3")
    with pytest.raises(httpx.ConnectError):
        deployments.version()
    deployments.port = other_port
    assert deployments.version() == "m:1"

    code, out = deployments.vita("deploy", "--stop", "--out", "mine")
    assert code == 0 and "stopped" in out
    with pytest.raises(httpx.ConnectError):
        deployments.version()
    with closing(Ledger(tmp_path / "store/ledger.db")) as ledger:
        names = [event["event"] for event in ledger.events() if event["event"].startswith("deployment")]
    assert names == ["deployment applied"] * 3 + ["deployment rolled back"] + ["deployment applied"] * 2 + [
        "deployment stopped"
    ]


def test_a_release_that_does_not_start_leaves_the_service_as_it_was(deployments: Deployments, tmp_path: Path) -> None:
    first = release_folder(tmp_path)
    second = release_folder(tmp_path, version="2", change=spoil)
    deployments.deploy(first)
    record = (tmp_path / "mine/deployment.json").read_text()
    code, out = deployments.vita("deploy", str(second), "--target", "local", "--set", f"port={deployments.port}",
                                 "--apply", "--ungated", "a test", "--out", "mine")  # fmt: skip
    assert code != 0 and "Traceback" not in out, out
    assert (tmp_path / "mine/deployment.json").read_text() == record and deployments.version() == "m:1"
    code, out = deployments.vita("deploy", str(first), "--target", "local", "--set", f"port={deployments.port}",
                                 "--set", "replicas=2", "--set", "service.ready_seconds=0.01", "--apply",
                                 "--ungated", "a test", "--out", "mine")  # fmt: skip
    assert code != 0 and deployments.version() == "m:1", "the former service is started again"
    assert (tmp_path / "mine/deployment.json").read_text() == record


@pytest.mark.skipif(VLLM is None, reason="VITA_TEST_VLLM names no environment with vLLM")
def test_a_release_with_the_backend_vllm_replaces_one_without(deployments: Deployments, tmp_path: Path) -> None:
    save_model(tmp_path / "model", width=64, head_dim=32)
    golden = golden_answers(Engine.open(tmp_path / "model"), ("a cat", "1 2 3"), tokens=8)
    arguments = ["--dtype=float32", "--enforce-eager", "--gpu-memory-utilization=0.2"]
    backend = {"program": "vllm", "environment": VLLM, "arguments": arguments}
    first = create_release(tmp_path / "model", tmp_path / "first", name="m", version="1", golden=golden)
    second = create_release(
        tmp_path / "model", tmp_path / "second", name="m", version="2", golden=golden, backend=backend
    )
    deployments.environment["VLLM_CPU_KVCACHE_SPACE"] = "1"
    deployments.deploy(first)
    expected = deployments.send().json()["choices"]
    with Clients(deployments.url) as clients:
        deployments.deploy(second)
        answer = deployments.send()
        assert answer.headers["X-Vita-Version"] == "m:2" and answer.json()["choices"] == expected
        deployments.succeed("deploy", "--rollback", "--out", "mine", "--json")
        assert deployments.version() == "m:1"
    assert set(clients.statuses) == {200}, clients.statuses
