"""The process of a replica: started on a free loopback port, with a secret that only this service knows.

The secret is passed in the environment, because every user of the machine can read the command line. Requests without
it are refused, so that another user can neither drain a replica nor bypass the API keys.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from vita.gates.clearance import ServingRequest
from vita.server.gateway.routing import Backend
from vita.server.release import ReleaseInfo
from vita.spine import machine

State = Literal["starting", "ready", "unready", "draining", "stopped", "waiting"]
Command = Callable[[ReleaseInfo, int, int], list[str]]
"""A release, a port and a number of threads -> the command line of a replica."""


def replica_command(release: ReleaseInfo, port: int, threads: int) -> list[str]:
    """Return the command line of a replica that ends with its parent."""
    prefix = [sys.executable, "-m", "vita.server.service.parent_watch", "vita.server.replica.main"]
    return [*prefix, "--release", str(release.folder), "--digest", release.digest, "--model", release.model,
            "--port", str(port), "--threads", str(threads)]  # fmt: skip


@dataclass(eq=False)
class ReplicaProcess:
    """A replica and its current process, which is replaced when it dies."""

    name: str
    release: ReleaseInfo
    backend: Backend
    threads: int
    terms: ServingRequest = field(default_factory=ServingRequest)
    """Terms of the clearance of its release, also for restarts."""
    state: State = "starting"
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    failures: int = 0
    was_ready: bool = False
    stopping: bool = False
    """True when the replica stops and is not restarted."""
    host: str = "local"
    site: str = ""
    files: str | None = None
    """Digest of the model that the replica must report, computed from its files; None if the service started it."""
    warnings: tuple[str, ...] = ()
    """Warnings of the current process."""
    adapters: set[str] = field(default_factory=set)
    """Ids of the adapters that the current process has loaded."""
    notify: Callable[[str], None] = lambda _: None
    """Receives lines for the operator."""
    started_at: float = 0.0
    ready_at: float = 0.0
    """Last time when the current process was ready, on the monotonic clock."""
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    keep_task: asyncio.Task[None] | None = None
    start_finished: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the replica is ready for the first time, or has failed."""

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and self.process.poll() is None else None

    def spawn(self, command: Command) -> None:
        """Start a process with a new port and a new secret."""
        port = _free_port()
        self.backend.url, self.backend.secret = f"http://127.0.0.1:{port}", secrets.token_urlsafe(32)
        self.state, self.started_at = "starting", time.monotonic()
        self.starts += 1
        self.last_lines.clear()
        self.adapters.clear()
        self.warnings, self.backend.reason = (), "it is starting"
        # A new session, so that Ctrl-C in the terminal reaches only the supervisor, which drains first.
        self.process = subprocess.Popen(
            command(self.release, port, self.threads),
            env=machine.environment_of_replica(self.backend.secret),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stderr is not None
        reader_args = (self.process.stderr, self.last_lines, lambda line: self.notify(f"{self.name}: {line}"))
        threading.Thread(target=_listen, args=reader_args, name=f"{self.name} stderr", daemon=True).start()

    async def end(self, *, until: float) -> None:
        """Terminate the process, and kill it at the time `until` of the event loop."""
        loop = asyncio.get_running_loop()
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            while self.process.poll() is None and loop.time() < until:
                await asyncio.sleep(0.05)
            self.kill()
        while self.process.poll() is None:  # not `wait`, which would hold up the event loop
            await asyncio.sleep(0.01)
        if self.process.stdin is not None:
            self.process.stdin.close()

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

    def cause(self) -> str:
        """Describe how the process ended, with the last line of its output."""
        code = self.process.poll() if self.process else None
        last_line = next((line for line in reversed(self.last_lines) if line.strip()), "")
        ending = f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"
        return f"ended {ending}" + (f": {last_line}" if last_line else "")


LOGGED = ("WARNING: ", "ERROR: ", "CRITICAL: ")
"""Prefixes of log lines of a replica that are forwarded to the operator."""
LINES_FORWARDED = 20
"""Maximum number of different lines of one process that are forwarded."""


def _listen(stream: Any, last_lines: deque[str], notify: Callable[[str], None]) -> None:
    """Store the last lines of standard error, and forward each log line once."""
    forwarded: set[str] = set()
    with stream:
        for data in stream:
            line = data.decode(errors="replace").rstrip()
            last_lines.append(line)
            if line.startswith(LOGGED) and line not in forwarded and len(forwarded) < LINES_FORWARDED:
                forwarded.add(line)
                notify(line)


def _free_port() -> int:
    """Return a port that is free now; a replica whose port was taken meanwhile is restarted on another one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
