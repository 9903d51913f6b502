"""A service of `vita serve` with a small model, and scripts of client libraries that use it.

The client libraries are in a virtual environment of their own, which `make clients` creates: their requirements do not
constrain those of Vita. `VITA_CLIENTS` names the Pythons of other environments, separated by colons.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

VITA = (sys.executable, "-c", "from vita.cli import main; main()")
CHECKOUT = Path(__file__).parents[3]


@contextmanager
def vita_serve(folder: Path, model: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve a model with the command `vita serve`; yields the URL of the gateway and the process."""
    log = folder / "serve.log"
    environment = {**os.environ, "VITA_STORE": str(folder / "store"), "VITA_THREADS": "1", "COLUMNS": "200"}
    command = [*VITA, "serve", model, "--port", "0", "--name", "cat", "--ungated", "a test", *options]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 120
        while not (match := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield match[0], process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@cache
def client_python(package: str) -> str:
    """Return a Python in which a package is installed; skips the test if there is none."""
    candidates = [*os.environ.get("VITA_CLIENTS", "").split(":"), str(CHECKOUT / ".clients/bin/python"), sys.executable]
    for python in candidates:
        if python and Path(python).exists():
            records = subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False)
            if records.returncode == 0:
                return python
    pytest.skip(f"needs {package}: `make clients`, or VITA_CLIENTS=PYTHON")


def run_client(script: str, url: str, *, package: str, folder: Path) -> None:
    """Run a script of this folder with the URL of a service; its checks must hold."""
    python = client_python(package)
    offline = {"HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}
    result = subprocess.run(
        [python, str(Path(__file__).parent / script), url], cwd=folder, env={**os.environ, **offline, "NO_PROXY": "*"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
