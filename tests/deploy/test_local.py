"""The target `local` with real services: start, rolling update, other settings, rollback and stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.releases import release_folder
from vita.server.release import read_release
from vita.spine.ledger import Ledger

pytestmark = pytest.mark.slow


class Deployments:
    """A folder with a store, and `vita deploy` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "VITA_STORE": str(folder / "store"), "VITA_THREADS": "1", "COLUMNS": "200"}
        self.environment.pop("VITA_LEDGER", None)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]

    def vita(self, *words: str) -> tuple[int, str]:
        process = subprocess.run(
            [sys.executable, "-m", "vita", *words], cwd=self.folder, env=self.environment, capture_output=True,
            text=True, timeout=240, check=False,
        )  # fmt: skip
        return process.returncode, process.stdout + process.stderr

    def deploy(self, release: Path, *words: str) -> dict[str, Any]:
        return self.succeed("deploy", str(release), "--target", "local", "--set", f"port={self.port}", "--apply",
                            "--ungated", "a test", "--out", "mine", "--json", *words)  # fmt: skip

    def succeed(self, *words: str) -> dict[str, Any]:
        code, out = self.vita(*words)
        assert code == 0, out + (self.folder / "mine/service.log").read_text()
        return json.loads(out)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def release_digest(self) -> str:
        """Send a completion and return the version that answered."""
        body = {"model": "m", "prompt": "a cat", "max_tokens": 2}
        answer = httpx.post(f"{self.url}/v1/completions", json=body, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.headers["X-Vita-Version"]


@pytest.fixture
def deployments(tmp_path: Path):
    value = Deployments(tmp_path)
    yield value
    value.vita("deploy", "--stop", "--out", "mine")


def scale(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.01)


class Clients:
    """Sends requests until the end of the block, and counts the responses by status."""

    def __init__(self, url: str) -> None:
        self.url, self.statuses = url, dict[int | str, int]()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self._end.is_set():
                body = {"model": "m", "prompt": "a cat", "max_tokens": 4}
                try:
                    status: int | str = client.post(f"{self.url}/v1/completions", json=body).status_code
                except httpx.HTTPError as error:
                    status = type(error).__name__
                self.statuses[status] = self.statuses.get(status, 0) + 1


def test_a_service_is_started_updated_rolled_back_and_stopped(deployments: Deployments, tmp_path: Path) -> None:
    first = release_folder(tmp_path)
    second = release_folder(tmp_path, version="2", change=scale)
    started = deployments.deploy(first)
    assert started["url"] == deployments.url and started["applied"] and deployments.release_digest() == "m:1"
    process = json.loads((tmp_path / "mine/running.json").read_text())["process"]
    again = deployments.deploy(first)
    assert not again["changed"] and json.loads((tmp_path / "mine/running.json").read_text())["process"] == process

    with Clients(deployments.url) as clients:
        updated = deployments.deploy(second)
        assert updated["previous"] == started["deployment"] and deployments.release_digest() == "m:2"
        restored = deployments.succeed("deploy", "--rollback", "--out", "mine", "--json")
        assert restored["release"] == read_release(first).digest and deployments.release_digest() == "m:1"
    assert set(clients.statuses) == {200}, clients.statuses
    assert json.loads((tmp_path / "mine/running.json").read_text())["process"] == process, "no restart"

    number = int(process.partition(":")[0])
    os.kill(number, signal.SIGKILL)
    while Path(f"/proc/{number}/cmdline").exists() and Path(f"/proc/{number}/cmdline").read_bytes():
        time.sleep(0.05)
    deployments.deploy(first)
    assert deployments.release_digest() == "m:1", "a service that died is started again"

    with socket.create_server(("127.0.0.1", 0)) as server:
        other_port = server.getsockname()[1]
    deployments.deploy(first, "--set", f"port={other_port}", "--set", "service.in_flight=3")
    with pytest.raises(httpx.ConnectError):
        deployments.release_digest()
    deployments.port = other_port
    assert deployments.release_digest() == "m:1"

    code, out = deployments.vita("deploy", "--stop", "--out", "mine")
    assert code == 0 and "stopped" in out
    with pytest.raises(httpx.ConnectError):
        deployments.release_digest()
    with closing(Ledger(tmp_path / "store/ledger.db")) as ledger:
        names = [event["event"] for event in ledger.events() if event["event"].startswith("deployment")]
    assert names == ["deployment applied"] * 3 + ["deployment rolled back"] + ["deployment applied"] * 2 + [
        "deployment stopped"
    ]


def test_a_release_that_does_not_start_leaves_the_service_as_it_was(deployments: Deployments, tmp_path: Path) -> None:
    first = release_folder(tmp_path)
    second = release_folder(
        tmp_path, version="2", change=lambda model: [p.data.fill_(float("nan")) for p in model.parameters()]
    )
    deployments.deploy(first)
    record = (tmp_path / "mine/deployment.json").read_text()
    code, out = deployments.vita("deploy", str(second), "--target", "local", "--set", f"port={deployments.port}",
                                 "--apply", "--ungated", "a test", "--out", "mine")  # fmt: skip
    assert code != 0 and "Traceback" not in out, out
    assert (tmp_path / "mine/deployment.json").read_text() == record and deployments.release_digest() == "m:1"
    code, out = deployments.vita("deploy", str(first), "--target", "local", "--set", f"port={deployments.port}",
                                 "--set", "name=other", "--set", "service.ready_seconds=0.01", "--apply",
                                 "--ungated", "a test", "--out", "mine")  # fmt: skip
    assert code != 0 and deployments.release_digest() == "m:1", "the former service is started again"
    assert (tmp_path / "mine/deployment.json").read_text() == record
