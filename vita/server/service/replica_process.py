"""A replica as a process: started on a free loopback port, with a secret that only this service knows.

The secret goes through the environment, not the command line, which everybody on the machine can read. Whoever comes
without it is refused, so that another user of the machine can neither drain a replica nor ask it past the API keys.
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

from vita.gates.clearance import Terms
from vita.server.gateway.routing import Backend
from vita.server.release import ReleaseInfo
from vita.spine import machine

State = Literal["starting", "ready", "unready", "draining", "stopped", "waiting"]
Command = Callable[[ReleaseInfo, int, int], list[str]]
"""A release, a port and a number of threads -> the command line of a replica."""


def replica_command(release: ReleaseInfo, port: int, threads: int) -> list[str]:
    """The command line of a replica on its leash."""
    leash = [sys.executable, "-m", "vita.server.service.parent_watch", "vita.server.replica.main"]
    return [*leash, "--release", str(release.folder), "--digest", release.digest, "--model", release.model,
            "--port", str(port), "--threads", str(threads)]  # fmt: skip


@dataclass(eq=False)
class ReplicaProcess:
    """One process after the other, and what has become of it."""

    name: str
    release: ReleaseInfo
    backend: Backend
    threads: int
    terms: Terms = field(default_factory=Terms)
    """On which terms its release was cleared; a restart is cleared on the same."""
    state: State = "starting"
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    failures: int = 0
    was_ready: bool = False
    leaving: bool = False
    """Whether it should stop for good."""
    warnings: tuple[str, ...] = ()
    """What the present process found when it started."""
    tell: Callable[[str], None] = lambda _: None
    """Takes lines for the operator."""
    began: float = 0.0
    ready_at: float = 0.0
    """When the present process was ready the last time, by the steady clock."""
    last_words: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    keeper: asyncio.Task[None] | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is ready for the first time, or given up."""

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and self.process.poll() is None else None

    def spawn(self, command: Command) -> None:
        """Start a process, on a port and with a secret of its own."""
        port = _free_port()
        self.backend.url, self.backend.secret = f"http://127.0.0.1:{port}", secrets.token_urlsafe(32)
        self.state, self.began = "starting", time.monotonic()
        self.starts += 1
        self.last_words.clear()
        self.warnings, self.backend.reason = (), "it is starting"
        # A session of its own, so that a Ctrl-C at the terminal reaches the supervisor alone, which drains first.
        self.process = subprocess.Popen(
            command(self.release, port, self.threads),
            env=machine.environment_of_replica(self.backend.secret),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stderr is not None
        told = (self.process.stderr, self.last_words, lambda line: self.tell(f"{self.name}: {line}"))
        threading.Thread(target=_listen, args=told, name=f"{self.name} stderr", daemon=True).start()

    async def end(self, *, until: float) -> None:
        """Ask the process to stop, and end it by force when it has not by `until`, on the loop's clock."""
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
        """How the process ended, and the last that it said."""
        code = self.process.poll() if self.process else None
        said = next((line for line in reversed(self.last_words) if line.strip()), "")
        how = f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"
        return f"ended {how}" + (f": {said}" if said else "")


LOGGED = ("WARNING: ", "ERROR: ", "CRITICAL: ")
"""How the lines of a replica's log begin that its operator should see."""
LINES_FORWARDED = 20
"""How many different lines of one process are forwarded."""


def _listen(stream: Any, last_words: deque[str], tell: Callable[[str], None]) -> None:
    """Keep the last lines that a process wrote on its standard error, and forward those of its log, each once."""
    forwarded: set[str] = set()
    with stream:
        for data in stream:
            line = data.decode(errors="replace").rstrip()
            last_words.append(line)
            if line.startswith(LOGGED) and line not in forwarded and len(forwarded) < LINES_FORWARDED:
                forwarded.add(line)
                tell(line)


def _free_port() -> int:
    """A port that is free now; a replica that finds it taken ends, and is started on another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
