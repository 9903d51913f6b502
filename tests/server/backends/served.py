"""A service over the command line, with releases of other backends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

VITA = (sys.executable, "-c", "from vita.cli import main; main()")


class ServiceCommands:
    """A folder with a store, and the commands of Vita in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "VITA_STORE": str(folder / "store"), "VITA_THREADS": "1", "COLUMNS": "200"}
        self.url = ""
        self.log = folder / "serve.log"

    def vita(self, *words: str) -> tuple[int, str]:
        """Run a command and return (exit code, output)."""
        process = subprocess.run(
            [*VITA, *words], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=180, check=False,
        )  # fmt: skip
        return process.returncode, process.stdout + process.stderr

    def expect(self, *words: str) -> str:
        code, output = self.vita(*words)
        assert code == 0, output
        return output

    def status(self) -> dict[str, Any]:
        return json.loads(self.expect("fleet", "status", "--json"))

    @contextmanager
    def serving(self, model: str, *options: str, port: str = "0") -> Iterator[None]:
        """Serve a model until the end of the block."""
        command = [*VITA, "serve", model, "--port", port, *options]
        with self.log.open("w") as out:
            process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 900
            while not (url_match := re.search(r"at (http://127\.0\.0\.1:\d+),", self.log.read_text())):
                assert process.poll() is None and time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.1)
            self.url = url_match[1]
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def engine_processes(self, marker: str) -> list[int]:
        """Return the ids of the processes of this folder or this test whose command line has this text."""
        processes = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                directory = (process / "cwd").readlink()
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            is_engine = any(marker in word for word in command) and not any("guardian" in word for word in command)
            is_of_folder = directory == self.folder or any(str(self.folder) in word for word in command)
            if is_engine and (is_of_folder or parent == os.getpid()):
                processes.append(int(process.name))
        return processes

    def post(
        self, path: str, body: dict[str, Any], *, headers: Mapping[str, str] | None = None, timeout: float = 90
    ) -> httpx.Response:
        return httpx.post(self.url + path, json=body, headers=headers, timeout=timeout, trust_env=False)

    def models(self) -> dict[str, Any]:
        """Return the descriptions of `/v1/models` by id."""
        rows = httpx.get(f"{self.url}/v1/models", timeout=30, trust_env=False).json()["data"]
        return {row["id"]: row["vita"] for row in rows}


def stream_events(text: str) -> list[dict[str, Any]]:
    """Return the events of a stream, which must be complete."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]", text
    return [json.loads(line) for line in lines[:-1]]
