"""Prometheus and its checker `promtool` for the tests, and the names of metrics in queries and in expositions."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest


def promtool(*words: str | Path) -> None:
    """Run promtool, and fail with its output; skip the test where it is not installed."""
    program = shutil.which("promtool") or pytest.skip("promtool is not installed (Debian package `prometheus`)")
    run = subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def metrics_of_query(query: str) -> set[str]:
    """Return the names of the metrics in a PromQL expression."""
    without_texts = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)
    return set(re.findall(r"\b([a-zA-Z_:][\w:]*)\{", without_texts))


def metrics_of_exposition(text: str) -> set[str]:
    """Return the names of the samples that the families of an exposition can have."""
    names: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        names |= {f"{name}_{suffix}" for suffix in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


@contextmanager
def prometheus(folder: Path) -> Iterator[httpx.Client]:
    """Run Prometheus with the configuration in a folder, and yield a client of it."""
    program = shutil.which("prometheus") or pytest.skip("prometheus is not installed (Debian package)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [program, "--config.file=prometheus.yml", f"--web.listen-address={address}", "--storage.tsdb.path=data"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://{address}/api/v1", trust_env=False, timeout=10) as client:
            deadline = time.monotonic() + 30
            while not _is_ready(client):
                assert process.poll() is None and time.monotonic() < deadline, (folder / "prometheus.log").read_text()
                time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait(20)


def query_prometheus(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    """Return the result of an instant query."""
    response = client.get("/query", params={"query": query}).json()
    assert response["status"] == "success", (query, response)
    return response["data"]["result"]


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/query", params={"query": "1"}).status_code == 200
    except httpx.HTTPError:
        return False
