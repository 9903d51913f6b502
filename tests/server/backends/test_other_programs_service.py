"""Releases with the backends vLLM and openai, over the command line and a real service.

The test of vLLM needs an environment with vLLM, whose folder is the environment variable `VITA_TEST_VLLM`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.backends.programs import VLLM, VLLM_OPTIONS, save_model
from tests.server.backends.served import ServiceCommands, stream_events

pytestmark = pytest.mark.slow

CHAT: dict[str, Any] = {
    "model": "x", "messages": [{"role": "user", "content": "a cat"}], "max_tokens": 8, "temperature": 0, "seed": 1,
}  # fmt: skip


SECONDS_TO_START = 300
"""Limit for the start of vLLM."""


def wait_until(condition: Callable[[], object], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_an_endpoint_is_used_with_its_key_and_checked_again_after_an_outage(tmp_path: Path) -> None:
    save_model(tmp_path / "a")
    remote, service = ServiceCommands(tmp_path / "remote"), ServiceCommands(tmp_path / "local")
    for commands in (remote, service):
        commands.folder.mkdir()
    key = json.loads(remote.expect("keys", "create", "gateway", "--json"))["key"]
    service.environment["ENDPOINT_KEY"] = key
    with remote.serving("../a", "--name", "far", "--ungated", "a test"):
        port = remote.url.rpartition(":")[2]
        backend = ("--backend", "openai", "--backend-set", f"url={remote.url}/v1", "--backend-set", "model=far")
        code, output = service.vita("serve", "../a", "--port", "0", "--name", "x", "--ungated", "a test", *backend)
        assert code == 6 and "status 401" in output, output
        backend = (*backend, "--backend-set", "key_variable=ENDPOINT_KEY")
        # The service and its endpoint keep the port over a restart of the endpoint.
        local = service.serving("../a", "--name", "x", "--ungated", "a test", *backend)
        local.__enter__()
        expected = httpx.post(
            f"{remote.url}/v1/chat/completions", json={**CHAT, "model": "far"}, timeout=60, trust_env=False,
            headers={"Authorization": f"Bearer {key}"},
        )  # fmt: skip
        response = service.post("/v1/chat/completions", CHAT)
        assert response.json()["choices"] == expected.json()["choices"]
        stream_events(service.post("/v1/chat/completions", {**CHAT, "stream": True}).text)
        details = service.models()["x"]["backend_details"]
        assert details["weights_verified"] is False and details["golden"]["answers"] == 5
    try:
        wait_until(lambda: service.status()["replicas"][0]["state"] != "ready")
        assert "backend openai is not available" in service.status()["replicas"][0]["reason"]
        assert service.post("/v1/chat/completions", CHAT).status_code == 503
        command = ("--name", "far", "--ungated", "a test")
        with remote.serving("../a", *command, "--set", "drain_seconds=1", port=port):
            wait_until(lambda: service.status()["replicas"][0]["state"] == "ready")
            assert service.post("/v1/chat/completions", CHAT).status_code == 200
    finally:
        local.__exit__(None, None, None)
    assert key not in service.log.read_text()
    stored = [path for path in (tmp_path / "local" / "store").rglob("*") if path.is_file()]
    assert not [path for path in stored if key.encode() in path.read_bytes()]


@pytest.mark.skipif(VLLM is None, reason="VITA_TEST_VLLM names no environment with vLLM")
def test_vllm_answers_like_vita_and_starts_again_when_it_is_killed(tmp_path: Path) -> None:
    save_model(tmp_path / "a", width=64, head_dim=32)
    service = ServiceCommands(tmp_path)
    service.environment["VLLM_CPU_KVCACHE_SPACE"] = "1"
    # vLLM starts within a minute only on a machine without other work.
    with service.serving("a", "--name", "x", "--ungated", "a test", "--set", f"patience_again={SECONDS_TO_START}"):
        expected = service.post("/v1/chat/completions", CHAT).json()
        service.expect("fleet", "roll", "a", "--share", "0.5", "--ungated", "a canary", *VLLM_OPTIONS)
        (version,) = (row["version"] for row in service.status()["versions"] if row["backend"] == "vllm")
        response = service.post("/v1/chat/completions", {**CHAT, "model": version})
        assert response.json()["choices"] == expected["choices"]
        assert service.models()[version]["backend_details"]["golden"]["difference"] < 0.001
        (server,) = service.engine_processes("vllm.entrypoints.openai.api_server")
        os.kill(server, signal.SIGKILL)
        again = service.post(
            "/v1/chat/completions", {**CHAT, "model": version, "max_tokens": 100}, timeout=SECONDS_TO_START
        )
        assert again.status_code == 200
        assert re.search(r"vllm has ended unexpectedly: by signal 9", service.log.read_text())
    assert not service.engine_processes("vllm.entrypoints.openai.api_server")
