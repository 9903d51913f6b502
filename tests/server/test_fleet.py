"""Every `vita fleet` command against a service of real replicas."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.service.test_deploy_checks import rewrite_weights
from tests.server.serving import tiny_engine
from vita.nn import hf
from vita.spine.ledger import Ledger

pytestmark = pytest.mark.slow

VITA = (sys.executable, "-c", "from vita.cli import main; main()")


class Fleet:
    """A running service and the commands that control it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "VITA_STORE": str(folder / "store"), "VITA_THREADS": "1", "COLUMNS": "200"}
        self.url = ""

    def vita(self, *words: str) -> tuple[int, str]:
        """Run a command and return (exit code, output)."""
        process = subprocess.run(
            [*VITA, *words], cwd=self.folder, env=self.environment, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        return process.returncode, process.stdout + process.stderr

    def status(self) -> dict[str, Any]:
        code, out = self.vita("fleet", "status", "--json")
        assert code == 0, out
        return json.loads(out)

    def shares(self) -> dict[str, float]:
        """Return the first letter of each version -> its share of the traffic."""
        return {version["version"][0]: version["share"] for version in self.status()["versions"]}

    @contextmanager
    def serving(self, model: str, *options: str) -> Iterator[None]:
        log = self.folder / "serve.log"
        command = [*VITA, "serve", model, "--port", "0", *options]
        with log.open("w") as out:
            process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 90
            while not (url_match := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            self.url = url_match[0]
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)

    def send_request(self) -> int:
        body = {"model": "x", "messages": [{"role": "user", "content": "a cat"}], "max_tokens": 2}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=30, trust_env=False).status_code


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    engine = tiny_engine()
    for name in ("a", "b"):
        scale_weights(engine, scale=1.0 if name == "a" else 1.01)
        hf.save(engine.model, tmp_path / name)
        engine.tokenizer.save(tmp_path / name)
        assert engine.template is not None
        engine.template.save(tmp_path / name)
    return Fleet(tmp_path)


def scale_weights(engine: Any, *, scale: float) -> None:
    for parameter in engine.model.parameters():
        parameter.data.mul_(scale)


def test_every_fleet_command_controls_a_running_service(fleet: Fleet) -> None:
    with fleet.serving("a", "--name", "x", "--ungated", "a test"):
        assert fleet.shares() == {"x": 1.0} and fleet.send_request() == 200
        code, out = fleet.vita("fleet", "roll", "b", "--share", "0.5")
        assert code == 9 and "which no gate has approved" in out and "--ungated REASON" in out
        code, out = fleet.vita("fleet", "roll", "b", "--share", "0.5", "--ungated", "a canary")
        assert code == 0, out
        assert fleet.shares() == {"x": 0.5, "b": 0.5}
        code, out = fleet.vita("fleet", "promote")
        assert code == 9 and "--ungated REASON" in out and fleet.shares() == {"x": 0.5, "b": 0.5}
        code, out = fleet.vita("fleet", "promote", "--ungated", "it is better")
        assert code == 0, out
        assert fleet.shares() == {"b": 1.0} and fleet.send_request() == 200
        (model, *_) = httpx.get(f"{fleet.url}/v1/models", trust_env=False).json()["data"]
        assert model["vita"]["gate"]["status"] == "ungated" and model["vita"]["gate"]["reason"] == "it is better"
        (replica,) = fleet.status()["replicas"]
        code, out = fleet.vita("fleet", "drain", replica["replica"])
        assert code == 0, out
        (new_replica,) = fleet.status()["replicas"]
        assert new_replica["replica"] != replica["replica"] and fleet.send_request() == 200
        assert fleet.vita("fleet", "roll", "a", "--share", "0.5", "--ungated", "again")[0] == 0
        code, out = fleet.vita("fleet", "rollback")
        assert code == 0, out
        assert fleet.shares() == {"b": 1.0} and fleet.send_request() == 200
        code, out = fleet.vita("fleet", "rollback")
        assert code == 2 and "no other version" in out


def test_the_replicas_of_a_version_with_retired_weights_end_while_the_service_runs(fleet: Fleet) -> None:
    with fleet.serving("a", "--name", "x", "--ungated", "a test"):
        assert fleet.vita("fleet", "roll", "b", "--share", "0.5", "--ungated", "a canary")[0] == 0
        status = fleet.status()
        (stable,) = (version for version in status["versions"] if version["version"].startswith("x"))
        (replica,) = (replica for replica in status["replicas"] if replica["version"] == stable["version"])
        rewrite_weights(fleet.folder / "a", fleet.folder / "copy", shards=2)
        code, out = fleet.vita("retire", "copy", "--reason", "a test", "--golden-tokens", "2")
        assert code == 0, out
        with closing(Ledger(fleet.folder / "store" / "ledger.db")) as ledger:
            assert ledger.state(stable["model"]) == "candidate", "only the copy with other files is retired"
        deadline = time.monotonic() + 30
        while Path(f"/proc/{replica['pid']}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert [row["version"][0] for row in fleet.status()["replicas"]] == ["b"] and fleet.send_request() == 200
        code, out = fleet.vita("fleet", "status")
        assert code == 0 and f"{stable['version']}: retired: its weights include those of the model" in out
        body = {"model": stable["version"], "prompt": "a", "max_tokens": 2}
        response = httpx.post(f"{fleet.url}/v1/completions", json=body, trust_env=False)
        assert response.status_code == 404 and response.json()["error"]["code"] == "model_retired"
        code, out = fleet.vita("fleet", "rollback")
        assert code == 2 and "no other version" in out
        code, out = fleet.vita("fleet", "promote", "--ungated", "the other one is retired")
        assert code == 0 and fleet.shares() == {"b": 1.0}, out
        assert fleet.send_request() == 200


def test_models_served_in_turn_under_the_same_name_are_separate_versions(fleet: Fleet) -> None:
    engine = tiny_engine()
    scale_weights(engine, scale=0.99)
    shutil.copytree(fleet.folder / "a", fleet.folder / "c")
    hf.save(engine.model, fleet.folder / "c")
    for requests, model in enumerate(("a", "b", "c"), 1):
        with fleet.serving(model, "--name", "x", "--ungated", "a test"):
            assert [fleet.send_request() for _ in range(requests)] == [200] * requests
    code, out = fleet.vita("monitor", "x", "--json")
    assert code == 0, out
    versions = json.loads(out)["versions"]
    assert sorted(figures["requests"] for figures in versions.values()) == [1, 2, 3]
    assert all(version.startswith("x:") for version in versions), versions


def test_a_repeated_roll_of_the_same_model_keeps_its_release_folder(fleet: Fleet) -> None:
    with fleet.serving("a", "--name", "x", "--ungated", "a test"):
        numbers = set()
        for _ in range(2):
            code, out = fleet.vita("fleet", "roll", "b", "--share", "0.5", "--ungated", "a canary")
            assert code == 0, out
            (release,) = (fleet.folder / "store" / "services" / "releases").iterdir()
            numbers.add(release.stat().st_ino)
            assert fleet.vita("fleet", "rollback")[0] == 0
        assert len(numbers) == 1, "the folder was replaced"


def test_a_replica_with_changed_files_does_not_restart(fleet: Fleet) -> None:
    with fleet.serving("a", "--name", "x", "--ungated", "a test"):
        (replica,) = fleet.status()["replicas"]
        weights = fleet.folder / "a" / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)  # the hard link in the release has the same bytes
        os.kill(replica["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 30
        while (state := fleet.status()["replicas"][0]["state"]) != "stopped":
            assert time.monotonic() < deadline, state
        assert "expected the released bytes" in (fleet.folder / "serve.log").read_text()
