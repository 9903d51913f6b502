"""A replica serves exactly the released bytes, or does not start and gives the reason in one line."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.serving import tiny_engine
from vita.infer.sampling import Sampling
from vita.nn import hf
from vita.server.release import create_release
from vita.server.replica.main import main, open_app, verify
from vita.server.replica.served_release import check_golden
from vita.spine.disk import file_sha256
from vita.spine.errors import ModelError, StoreError


@pytest.fixture
def release(tmp_path: Path) -> Path:
    engine = tiny_engine()
    hf.save(engine.model, tmp_path / "made")
    engine.tokenizer.save(tmp_path / "made")
    assert engine.template is not None
    engine.template.save(tmp_path / "made")
    prompt = engine.text_ids("a cat")
    (answer,) = engine.generate([prompt], Sampling(temperature=0, max_tokens=8))
    golden = [{"prompt": prompt, "greedy": list(answer.ids), "logprob": sum(answer.logprobs)}]
    return create_release(
        tmp_path / "made", tmp_path / "release", name="cat", version="1", golden=golden,
        sampling={"temperature": 0.0, "max_tokens": 5}, limits={"max_batch_size": 2, "max_queue_size": 4},
        guard={"words": ["poison"], "refusal": "No."},
    )  # fmt: skip


def change(release: Path, **fields: Any) -> None:
    path = release / "release.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_release_is_verified_byte_by_byte(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = file_sha256(release / "release.json")
    assert verify(release, digest=digest)[0].id == "cat:1"
    weights = release / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.unlink()
    weights.write_bytes(data)
    with pytest.raises(StoreError, match=r"model\.safetensors: expected the released bytes"):
        verify(release, digest=digest)
    assert main(["--release", str(release), "--digest", digest, "--port", "1"]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.safetensors: expected the released bytes" in line
    weights.unlink()
    with pytest.raises(StoreError, match="is missing from the release"):
        verify(release, digest=None)


def test_another_release_or_an_extra_file_is_refused(release: Path) -> None:
    assert main(["--release", str(release), "--digest", "0" * 64, "--port", "1"]) == 4
    (release / "model" / "more.json").write_text("{}")
    with pytest.raises(StoreError, match=r"more\.json: is not named in release\.json"):
        verify(release, digest=None)


def test_a_folder_that_is_not_a_release_is_refused(tmp_path: Path, release: Path) -> None:
    assert main(["--release", str(tmp_path), "--port", "1"]) == 6
    change(release, files={**json.loads((release / "release.json").read_text())["files"], "../made/config.json": "0"})
    with pytest.raises(StoreError):
        verify(release, digest=None)


def test_a_model_with_other_answers_than_at_its_release_is_refused(release: Path) -> None:
    golden = json.loads((release / "release.json").read_text())["golden"]
    check_golden(tiny_engine(), golden)
    with pytest.raises(ModelError, match=r"release\.golden: expected log-probability"):
        check_golden(tiny_engine(), [{**golden[0], "logprob": golden[0]["logprob"] - 1}])
    change(release, golden=[{**golden[0], "logprob": 0.0}])
    assert main(["--release", str(release), "--port", "1"]) == 6


@pytest.mark.slow
def test_the_release_sets_the_options_of_its_replica(release: Path) -> None:
    replica = open_app(release).state.replica
    assert replica.served.names == ("cat", "cat:1")
    assert (replica.scheduler.rows, replica.scheduler.queue) == (2, 4)
    assert replica.served.guard is not None
    assert replica.served.guard.refusal == "No."
    replica.scheduler.close()


@pytest.mark.slow
def test_a_replica_starts_answers_writes_no_files_and_stops_at_sigterm(release: Path, tmp_path: Path) -> None:
    times_before = {path: path.stat().st_mtime_ns for path in release.rglob("*")}
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    digest = file_sha256(release / "release.json")
    command = [sys.executable, "-m", "vita.server.replica.main", "--release", str(release), "--digest", digest]
    process = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.PIPE, cwd=tmp_path, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            answer = _when_ready(http, process)
            assert answer.json()["digest"] == json.loads((release / "release.json").read_text())["model"]
            body = {"model": "cat", "prompt": "a cat"}
            first_completion, second_completion = (http.post("/v1/completions", json=body).json() for _ in range(2))
            assert first_completion["choices"] == second_completion["choices"]  # the release has temperature 0
            assert first_completion["usage"]["completion_tokens"] == 5
            assert first_completion["system_fingerprint"] == answer.json()["digest"][:12]
            chat = {"model": "cat:1", "messages": [{"role": "user", "content": "poison"}]}
            refusal = http.post("/v1/chat/completions", json=chat).json()
            assert refusal["choices"][0]["message"]["content"] == "No."
        process.terminate()
        assert process.wait(30) in (0, -15)
    finally:
        process.kill()
        assert process.stderr is not None
        process.stderr.close()
    assert {path: path.stat().st_mtime_ns for path in release.rglob("*")} == times_before


def _when_ready(http: httpx.Client, process: subprocess.Popen[str]) -> httpx.Response:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            answer = http.get("/ready")
        except httpx.ConnectError:
            time.sleep(0.1)
            continue
        if answer.status_code == 200:
            return answer
    raise AssertionError(process.stderr.read() if process.poll() is not None and process.stderr else "never ready")
