"""Releases with the backend llama.cpp, over the command line and a real service."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.server.backends.programs import LLAMA_CPP_OPTIONS, save_model
from tests.server.backends.served import ServiceCommands, stream_events
from vita.formats.gguf.write import write_gguf
from vita.monitoring.request_log import requests_since
from vita.server.release import GGUF, read_release, write_description
from vita.server.replica.main import main
from vita.spine.ledger import Ledger

pytest.importorskip("xllamacpp")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="xllamacpp is a Linux package")]

ASCII_ONLY = {str(byte): -100 for byte in (*range(32), *range(127, 256))} | {str(token): -100 for token in (256, 257)}
"""Biases under which the random model of bytes generates printable text."""
CHAT: dict[str, Any] = {
    "model": "x", "messages": [{"role": "user", "content": "a cat"}], "max_tokens": 8, "temperature": 0, "seed": 1,
    "logit_bias": ASCII_ONLY,
}  # fmt: skip
MARKER = "llama_cpp_process"


@pytest.fixture
def service(tmp_path: Path) -> ServiceCommands:
    save_model(tmp_path / "a")
    return ServiceCommands(tmp_path)


def test_a_canary_of_llama_cpp_is_served_like_every_version(service: ServiceCommands) -> None:
    headers = {"Authorization": f"Bearer {json.loads(service.expect('keys', 'create', 'notebook', '--json'))['key']}"}
    with service.serving("a", "--name", "x", "--ungated", "a test"):
        assert service.post("/v1/chat/completions", CHAT).status_code == 401
        service.expect("fleet", "roll", "a", "--share", "0.5", "--ungated", "a canary", *LLAMA_CPP_OPTIONS)
        versions = {version["backend"]: version["version"] for version in service.status()["versions"]}
        assert set(versions) == {"vita", "llama.cpp"}
        answers, request_id = {}, ""
        for backend, version in versions.items():
            response = service.post("/v1/chat/completions", {**CHAT, "model": version, "n": 2}, headers=headers)
            assert response.status_code == 200, response.text
            request_id = response.headers["x-request-id"]
            answers[backend] = [choice["message"]["content"] for choice in response.json()["choices"]]
        assert answers["vita"] == answers["llama.cpp"] and answers["vita"][0]
        canary = {**CHAT, "model": versions["llama.cpp"]}
        streamed = service.post("/v1/chat/completions", {**canary, "stream": True}, headers=headers)
        deltas = [choice["delta"] for event in stream_events(streamed.text) for choice in event["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == answers["vita"][0]
        tool = {"type": "function", "function": {"name": "f"}}
        assert service.post("/v1/chat/completions", {**canary, "tools": [tool]}, headers=headers).status_code == 200
        refused = service.post(
            "/v1/completions", {"model": canary["model"], "prompt": "a", "echo": True, "logprobs": 1}, headers=headers
        )
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "echo"
        thumb = {"kind": "thumb", "request_id": request_id, "value": 1}
        assert service.post("/v1/feedback", thumb, headers=headers).status_code == 201
        service.expect("fleet", "promote", "--ungated", "it is as good")
        assert "llama.cpp" in service.expect("fleet", "status")
        (replica,) = service.status()["replicas"]
        service.expect("fleet", "drain", replica["replica"])
        assert service.post("/v1/chat/completions", CHAT, headers=headers).status_code == 200
        (version,) = service.status()["versions"]
        details = version["backend_details"]
        assert details["golden"]["difference"] < 0.001 and details["golden"]["tolerance"] == 0.01
        assert len(details["gguf"]) == 64
        with closing(Ledger(service.folder / "store" / "ledger.db")) as ledger:
            ledger.move(version["model"], "retired", who="Ada", why="a test")
        deadline = time.monotonic() + 60
        while (response := service.post("/v1/chat/completions", CHAT, headers=headers)).status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert response.status_code == 404 and response.json()["error"]["code"] == "model_retired"
    with closing(Ledger(service.folder / "store" / "ledger.db")) as ledger:
        rows = requests_since(ledger)
    assert {row["figures"].get("backend") for row in rows if row["status"] == 200} == {"vita", "llama.cpp"}
    assert not service.engine_processes(MARKER)


def test_requests_survive_a_killed_llama_cpp(service: ServiceCommands) -> None:
    with service.serving("a", "--name", "x", "--ungated", "a test", *LLAMA_CPP_OPTIONS):
        (engine,) = service.engine_processes(MARKER)
        responses: list[Any] = []

        def ask(number: int) -> None:
            body = {**CHAT, "max_tokens": 300, "stream": number % 2 == 0}
            body["messages"] = [{"role": "user", "content": f"cat {number}"}]
            body["logit_bias"] = {**ASCII_ONLY, "258": -100}
            responses.append(service.post("/v1/chat/completions", body))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        os.kill(engine, signal.SIGKILL)
        for thread in threads:
            thread.join(90)
        assert [response.status_code for response in responses] == [200] * 6
        for response in responses:
            if response.text.startswith("data: "):
                stream_events(response.text)
        deadline = time.monotonic() + 60
        while (replica := service.status()["replicas"][0])["state"] != "ready":
            assert time.monotonic() < deadline, replica
            time.sleep(0.1)
        assert replica["starts"] == 2
        assert service.engine_processes(MARKER) and engine not in service.engine_processes(MARKER)
        os.kill(replica["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while service.status()["replicas"][0]["starts"] < 3 or len(service.engine_processes(MARKER)) != 1:
            assert time.monotonic() < deadline, "the program of the killed replica has not ended"
            time.sleep(0.1)
        assert service.post("/v1/chat/completions", CHAT).status_code == 200
    assert "VITA_ENGINE_SECRET" not in service.log.read_text()
    assert not service.engine_processes(MARKER)


@pytest.fixture
def release(service: ServiceCommands) -> Path:
    """The folder of a release with llama.cpp that the ledger knows."""
    with service.serving("a", "--name", "x", "--ungated", "a test"):
        service.expect("fleet", "roll", "a", "--share", "0.5", "--ungated", "a canary", *LLAMA_CPP_OPTIONS)
        (folder,) = (service.folder / "store" / "services" / "releases").iterdir()
    return folder


def test_a_gguf_file_with_other_bytes_or_of_other_weights_is_refused(
    service: ServiceCommands, release: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = read_release(release).content
    file = release / GGUF
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, output = service.vita("serve", str(release), "--port", "0", "--ungated", "a test")
    assert code == 4 and "gguf/model.gguf: expected the released bytes" in output.replace("\n", ""), output
    save_model(service.folder / "b", scale=1.1)
    write_gguf(service.folder / "b", file, quantization="f32")
    backend = {name: value for name, value in content["backend"].items() if name != "gguf"}
    write_description(release, dict(content), backend=backend)
    code, output = service.vita("serve", str(release), "--port", "0", "--ungated", "a test")
    text = " ".join(output.split())
    assert code == 9 and "expected a GGUF file that Vita exported from the model" in text, output
    assert main(["--release", str(release), "--port", "1"]) == 6
    error = capfd.readouterr().err
    assert "release.golden 1: expected" in error and "computes another model" in error
    assert not service.engine_processes(MARKER)
