"""A background service: a process that continues after the command that started it has ended.

    process = start_service(command, environment=environment, log=folder / "service.log", url=url, seconds=300)
    stop_service(process.owner, seconds=45)

A process is identified by its number and its start time, so that a later process with the same number is never
terminated.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from vita.spine import machine
from vita.spine.errors import ConfigError, VitaError

POLL_SECONDS = 0.2
_MAX_LOG_BYTES = 8192
"""Number of bytes at the end of the log that are searched for the reason of a failed start."""


class ServiceFailed(VitaError):
    """A background service exited before it was ready."""


@dataclass(frozen=True)
class ServiceProcess:
    """A process of this machine."""

    host: str
    process: str
    """Number and start time of the process, as `vita.spine.machine.owner` states them."""

    @property
    def is_alive(self) -> bool:
        """Return True if the process runs on this machine."""
        return machine.still_alive(self.host, self.process) is True

    @property
    def number(self) -> int:
        return int(self.process.partition(":")[0])


def check_port(host: str, port: int) -> None:
    """Raise `ConfigError` if a port cannot be opened."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(
            "deploy.port", f"{host}:{port} cannot be used: {reason}", hint="choose another port"
        ) from None


def start_service(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, url: str, seconds: float
) -> ServiceProcess:
    """Start a service and wait until it is ready; raise `ServiceFailed` with its last line if it exits before."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    service = ServiceProcess(*machine.owner_of(process.pid))
    try:
        _wait_until_ready(process, url=url, log=log, begin=begin, seconds=seconds)
    except BaseException:
        if process.poll() is None:
            process.terminate()
            process.wait()
        raise
    return service


def stop_service(service: ServiceProcess, *, seconds: float) -> None:
    """Tell a service to finish its requests and exit, and kill it after `seconds`."""
    for number, limit in ((signal.SIGTERM, seconds), (signal.SIGKILL, 10.0)):
        if not service.is_alive:
            return
        os.kill(service.number, number)
        deadline = time.monotonic() + limit
        while service.is_alive and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def is_ready(url: str) -> bool:
    """Return True if a service reports that it accepts requests."""
    try:
        with httpx.Client(timeout=5, trust_env=False) as client:
            return client.get(f"{url}/ready").status_code == 200
    except httpx.HTTPError:
        return False


def _wait_until_ready(process: subprocess.Popen[bytes], *, url: str, log: Path, begin: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_ready(url):
        if (code := process.poll()) is not None:
            error = ServiceFailed(f"service {url}", f"exited with code {code}: {_last_line(log, begin)}")
            error.exit_code = code if 0 < code < 128 else error.exit_code
            raise error
        if time.monotonic() > deadline:
            raise ServiceFailed(f"service {url}", f"was not ready within {seconds:g} s: {_last_line(log, begin)}")
        time.sleep(POLL_SECONDS)


def _last_line(log: Path, begin: int) -> str:
    """Return the last error in the log of a service, or its last line."""
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - _MAX_LOG_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if line.startswith("error:")]
    return " ".join(lines[errors[-1] :]).removeprefix("error:").strip() if errors else (lines or ["no output"])[-1]
