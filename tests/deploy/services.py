"""`vita deploy` of services in the background, and clients of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx


class Deployments:
    """A folder with a store, and `vita deploy` in it."""

    def __init__(self, folder: Path, *, target: str = "local", python: str = sys.executable) -> None:
        self.folder, self.target, self.python = folder, target, python
        self.environment = {**os.environ, "VITA_STORE": str(folder / "store"), "VITA_THREADS": "1", "COLUMNS": "200"}
        self.environment.pop("VITA_LEDGER", None)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]

    def vita(self, *words: str) -> tuple[int, str]:
        process = subprocess.run(
            [self.python, "-m", "vita", *words], cwd=self.folder, env=self.environment, capture_output=True,
            text=True, timeout=500, check=False,
        )  # fmt: skip
        return process.returncode, process.stdout + process.stderr

    def words(self, release: Path, *words: str) -> list[str]:
        """Return the arguments that deploy a release and start it."""
        return ["deploy", str(release), "--target", self.target, "--set", f"port={self.port}", "--apply",
                "--ungated", "a test", "--out", "mine", *words]  # fmt: skip

    def deploy(self, release: Path, *words: str) -> dict[str, Any]:
        return self.succeed(*self.words(release, *words), "--json")

    def succeed(self, *words: str) -> dict[str, Any]:
        code, out = self.vita(*words)
        assert code == 0, out + (self.folder / "mine/service.log").read_text()
        return json.loads(out)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(self, key: str = "") -> httpx.Response:
        """Send a completion request."""
        body = {"model": "m", "prompt": "a cat", "max_tokens": 2, "temperature": 0}
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.post(f"{self.url}/v1/completions", json=body, headers=headers, timeout=30, trust_env=False)

    def version(self) -> str:
        """Send a completion request and return the version that answered."""
        answer = self.send()
        assert answer.status_code == 200, answer.text
        return answer.headers["X-Vita-Version"]


def scale(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.01)


def spoil(model: Any) -> None:
    """Make weights with which a replica does not start."""
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))


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
